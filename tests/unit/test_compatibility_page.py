"""Both pages of compatibility name a test for each row, and every test that they name is there; Dapr's has each line of its contract."""

import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ETCD, DAPR = "etcd-compatibility.md", "dapr-compatibility.md"
TITLES = {ETCD: "Every item, with the test that proves it", DAPR: "Every line of the contract, with the test that proves it"}
OPEN = re.compile(r"open: \S+( \S+){2,}")
"""What is not proved yet, with what it waits for."""
NAMED = re.compile(r"(?:…|[\w/]*?(test_\w+\.py))?(?:::(test_\w+))?(\[.*\])?")


def missing(page: str, sources: dict[str, list[str]]) -> list[str]:
    """What is named and not there. `sources`: texts by file name; a name without a file means the file that its row named last."""
    found = []
    every = [text for texts in sources.values() for text in texts]
    for row in page.splitlines():
        texts = every
        for word in re.findall(r"`([^`]+)`", row):
            named = NAMED.fullmatch(word)
            if named is None or not (named[1] or named[2]):
                continue
            texts = sources.get(named[1], []) if named[1] else texts
            if not texts or (named[2] and not any(f"def {named[2]}(" in text for text in texts)):
                found.append(word)
    return found


def sources_of_tests() -> dict[str, list[str]]:
    sources: dict[str, list[str]] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        sources.setdefault(path.name, []).append(path.read_text())
    return sources


def page_of(name: str) -> str:
    """The page; Dapr's with parts that were not joined into it yet."""
    parts = sorted((ROOT / "docs" / f"{name.removesuffix('.md')}.d").glob("*.md"))
    return "\n".join(path.read_text() for path in (ROOT / "docs" / name, *parts))


@pytest.mark.parametrize("name", [ETCD, DAPR])
def test_every_test_that_the_page_names_is_there(name: str) -> None:
    page = page_of(name)
    assert page.count("`test_") + page.count("/test_") > 200
    assert missing(page, sources_of_tests()) == []


def rows_of(page: str, title: str) -> list[list[str]]:
    """The cells of all tables below a heading of the second level, without heads and rules."""
    part = page.split(f"\n## {title}\n")[1].split("\n## ", maxsplit=1)[0]
    lines = part.splitlines()
    heads = {line for line, following in pairwise(lines) if following.startswith("|---")}
    rows = [line for line in lines if line.startswith("| ") and line not in heads]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))] for line in rows]


def unproved(rows: list[list[str]]) -> list[str]:
    """Items without a test, or that are still to come. "the same": what the row before names."""
    found = []
    proved = False
    for item, status, *tests in rows:
        named = bool(tests) and ("test_" in tests[-1] or re.search(r"\[\w*…?[\w-]*\]|`::test_|make bench", tests[-1]) is not None)
        proved = named or (bool(tests) and tests[-1] == "the same" and proved)
        if ("open:" in status and OPEN.search(status) is None) or not proved or "not yet" in status or "not counted yet" in status:
            found.append(item)
    return found


@pytest.mark.parametrize("name", [ETCD, DAPR])
def test_every_row_names_a_test(name: str) -> None:
    rows = rows_of((ROOT / "docs" / name).read_text(), TITLES[name])
    assert len(rows) > 150
    assert unproved(rows) == []


@pytest.mark.parametrize(("name", "count"), [(ETCD, 40), (DAPR, 20)])
def test_what_differs_on_purpose_is_told_on_both_sides(name: str, count: int) -> None:
    rows = rows_of((ROOT / "docs" / name).read_text(), "On purpose")
    assert len(rows) > count
    assert [row for row in rows if len(row) != 3 or not all(row) or len(row[2].split()) < 3] == []


def test_rows_without_a_test_are_found() -> None:
    rows = [["a", "as etcd", "`test_x.py`"], ["b", "as etcd", "the same"], ["c", "as etcd", "-"], ["d", "as etcd", "the same"]]
    rows += [["e", "left out: not counted yet", "`test_x.py`"], ["f", "as etcd", "`[…-keys]`"], ["g", "as etcd"]]
    rows += [["h", "open: figures of a run", "`test_x.py`"], ["i", "open: later", "`test_x.py`"]]
    assert unproved(rows) == ["c", "d", "e", "g", "i"]


def test_what_is_not_there_is_found() -> None:
    sources = {"test_a.py": ["def test_one(x): ..."], "test_b.py": ["async def test_two(): ..."]}
    assert missing("| x | `test_a.py::test_one`, `::test_one`, `test_b.py`, `…::test_two` |", sources) == []
    assert missing("`test_c.py`\n`test_a.py::test_two`\n`::test_three[x]`", sources) == [
        "test_c.py",
        "test_a.py::test_two",
        "::test_three[x]",
    ]


SPEC = (ROOT / "docs" / "spec" / "scheduler.md").read_text()


def section(title: str) -> str:
    """A part of the contract by the beginning of its heading, without the parts below it."""
    return re.split(r"^#{2,3} ", SPEC.split(f"# {title}", maxsplit=1)[1], maxsplit=1, flags=re.M)[0]


def items_of_the_contract() -> Iterable[str]:
    """What must stand in the page, as it stands there."""
    for number in re.findall(r"^(\d+)\. ", section("Summary"), re.M):
        yield f"| Summary {number}: "
    for decision in re.findall(r"^\| (D\d+) ", section("15. Decisions"), re.M):
        yield f"| {decision} "
    for matter in re.findall(r"^\| ([\w ,]+) \| (?!Contract)", section("12. Launch contract"), re.M):
        yield f"| §12 {matter} |"
    for row in re.findall(r"^\| (`--.+?) \|", section("2.1 Flags"), re.M):
        yield from re.findall(r"`--[\w-]+", row)
    yield from re.findall(r"--[\w-]+", section("2.1 Flags").split("Flags of 1.14")[1])
    yield from re.findall(r"^\| `([A-Z_]+)", section("2.2 Environment"), re.M)
    yield from re.findall(r"dapr_scheduler_\w+", section("10.1 Metrics"))
    yield from re.findall(r"Unary: (.+?)\.", section("3. gRPC API"))[0].split(", ")
    yield from re.findall(r"^\| (?:dapr |test-infra )?(#\d+)", section("14. Known problems"), re.M)


def test_the_page_has_every_item_of_the_contract() -> None:
    page = (ROOT / "docs" / DAPR).read_text()
    items = list(items_of_the_contract())
    assert len(items) > 130
    assert [item for item in items if item not in page] == []


def texts_of_the_contract() -> Iterable[str]:
    """Texts that clients and tools compare, in the pieces between what differs from case to case."""
    fatal = section("2.1 Flags").split("Fatal flag errors")[1].split("Flags of 1.14")[0]
    prose = [
        fatal,
        section("2.6 Id"),
        section("2.7 mTLS"),
        section("3.2 Gates"),
        section("3.3 Names"),
        section("3.4 Behaviour"),
        section("4. WatchJobs"),
    ]
    parser = section("5.1 Schedule grammar").split("Parser texts")[1]
    for text in (*prose, section("2.5 Lifecycle"), parser, section("5.2 Field rules"), section("10.3 Logs")):
        for quoted in re.findall(r"`([^`\n]+)`", text):
            for fixed in map(str.strip, re.split(r"<[^>]*>|…|\(actor|%q", quoted)):
                if len(fixed.split()) > 2 and not set("=≤{}") & set(fixed):
                    yield fixed


def test_every_text_of_the_contract_is_asserted_somewhere() -> None:
    tests = "\n".join(text.replace('\\"', '"').replace("\\\\", "\\") for texts in sources_of_tests().values() for text in texts)
    texts = list(texts_of_the_contract())
    assert len(texts) > 50
    assert [text for text in texts if text not in tests] == []
