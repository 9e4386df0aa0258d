"""docs/raft.md names tests for what it promises: they exist."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECTIONS = {
    "## Rules, and the test that holds each": "test_raft_kernel.py",
    "## Where it differs from the thesis": "test_raft_membership.py",
}
NAMED = re.compile(r"`(?:(test_\w+\.py)::)?([a-z0-9_]+)(…?)`")


@cache
def functions(file: str) -> frozenset[str]:
    (path,) = list((ROOT / "tests").rglob(file))
    return frozenset(re.findall(r"^(?:async )?def test_(\w+)", path.read_text(), re.MULTILINE))


def named() -> Iterator[tuple[str, str, str, bool]]:
    """(promise, file, name, whether it is the beginning of one) of each row's last column."""
    page = (ROOT / "docs" / "raft.md").read_text()
    for title, default in SECTIONS.items():
        section = page.split(title, 1)[1].split("\n## ", 1)[0]
        rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in section.splitlines() if line.startswith("| ")]
        for row in rows:
            if row[-1] in ("test", "must be by") or row[-1].isdigit() or row[-1].startswith("test ("):
                continue
            found = list(NAMED.finditer(row[-1]))
            assert found, f"no test is named for: {row[0]} {row[1]}"
            for match in found:
                yield row[0], match[1] or default, match[2], bool(match[3])


@pytest.mark.parametrize(("promise", "file", "name", "begins"), list(named()))
def test_each_test_that_is_named_exists(promise: str, file: str, name: str, begins: bool) -> None:
    found = [one for one in functions(file) if (one.startswith(name) if begins else one == name)]
    assert len(found) == 1, f"{promise}: {file} has {found or 'no such test'}"


def test_the_page_names_many() -> None:
    assert len(list(named())) > 60
