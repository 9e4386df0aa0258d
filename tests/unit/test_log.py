"""The two log streams: their exact form, the level, and lines that cannot be written."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from raftsched.errors import ConfigError
from raftsched.log import LineWriter, Logs, open_etcd_logs, open_logs, parse_level

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?Z"


class Lines(LineWriter):
    """Collects instead of writing."""

    def __init__(self) -> None:
        super().__init__(-1)
        self.lines: list[str] = []

    def msg(self, line: str) -> None:
        self.lines.append(line)

    debug = info = warning = error = critical = fatal = msg


def logs(level: str = "info", *, as_json: bool = False) -> tuple[Logs, list[str], list[str]]:
    out, err = Lines(), Lines()
    return Logs(parse_level(level), as_json, out, err, "host-1"), out.lines, err.lines


def test_text_lines_have_the_documented_form() -> None:
    made, out, _ = logs()
    made.service("dapr.scheduler.server").info("Cron is ready")
    expected = rf'time="{TIME}" level=info msg="Cron is ready" instance=host-1 scope=dapr\.scheduler\.server type=log ver=[0-9.]+'
    assert re.fullmatch(expected, out[0])


def test_text_fields_are_sorted_and_quoted_where_needed() -> None:
    made, out, _ = logs()
    made.service().warning("ready", zone="a b", count=3, error=ValueError('say "no"\n'), ok=True)
    assert re.sub(TIME, "T", out[0]).startswith(
        'time="T" level=warning msg=ready count=3 error="say \\"no\\"\\n" instance=host-1 ok=true scope=dapr.scheduler '
    )
    assert out[0].endswith(' zone="a b"')


def test_json_lines_have_the_same_names() -> None:
    made, out, _ = logs(as_json=True)
    made.service().fatal("cannot go on \u00e9", id="x")
    record = json.loads(out[0])
    assert re.fullmatch(TIME, record.pop("time"))
    assert record.pop("ver")
    assert record == {
        "level": "fatal",
        "msg": "cannot go on \u00e9",
        "instance": "host-1",
        "scope": "dapr.scheduler",
        "type": "log",
        "id": "x",
    }


def test_engine_lines_keep_the_order_that_tools_match() -> None:
    made, _, err = logs()
    made.engine("diagrid-cron").info("Starting queue with workers", id="sched-0", count=2048)
    assert err[0].endswith('"msg":"Starting queue with workers","id":"sched-0","count":2048}')
    assert list(json.loads(err[0])) == ["level", "ts", "logger", "caller", "msg", "id", "count"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", json.loads(err[0])["ts"])
    assert re.search(r"test_log\.py:\d+$", json.loads(err[0])["caller"])
    made.engine("x").warning("w")
    assert json.loads(err[1])["level"] == "warn"


def test_the_level_suppresses_on_both_streams() -> None:
    made, out, err = logs("WARN")
    made.service().info("no")
    made.engine("x").debug("no")
    made.service().error("yes")
    assert len(out) == 1
    assert not err


def test_an_unknown_level_is_refused_in_the_contracts_words() -> None:
    with pytest.raises(ConfigError, match=r"^invalid value for --log-level: loud$"):
        open_logs("loud")


def test_the_file_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    open_logs("info", file=str(path)).service().info("after")
    assert path.read_text().startswith("before\ntime=")


def test_a_file_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'^failed to open log file "(.*)": open \1: is a directory$'):
        open_logs(file=str(tmp_path))


def test_a_reader_that_is_gone_loses_lines_and_nothing_else() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    writer = LineWriter(writing)
    writer.msg("lost")
    os.close(writing)
    assert writer.dropped == 1


def test_undecodable_text_is_still_a_line() -> None:
    reading, writing = os.pipe()
    LineWriter(writing).msg("name \udc80")
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read() == b"name \\udc80\n"


def test_structlog_is_there_without_rich() -> None:
    program = "import sys, raftsched.log; sys.exit('rich' in sys.modules or 'typer' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_etcds_outputs_and_forms(tmp_path: Path) -> None:
    first, second = str(tmp_path / "a"), str(tmp_path / "b")
    open_etcd_logs("warn", outputs=(first, second), console=True).engine("raft").warning("hello", term=3)
    text = Path(first).read_text()
    assert text == Path(second).read_text()
    assert re.fullmatch(rf'{TIME}\twarn\traft\t[^\t]*test_log\.py:\d+\thello\t\{{"term": 3\}}\n', text)
    logs = open_etcd_logs("panic", outputs=(second,))
    logs.engine("").error("no")
    logs.engine("").fatal("yes")
    line = json.loads(Path(second).read_text().splitlines()[1])
    assert (line["level"], line["msg"], "logger" in line) == ("fatal", "yes", False)
    assert open_etcd_logs(outputs=(first, "/dev/null")).engine_writer.dropped == 0
    with pytest.raises(ConfigError, match=r'^couldn\'t open sink "/no/such": open /no/such: no such file or directory$'):
        open_etcd_logs(outputs=("/no/such",))
