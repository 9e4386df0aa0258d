"""What people and scripts see of a job: payloads both ways, tables, and nothing that could steer a terminal."""

import json
import time

import pytest
from google.protobuf import any_pb2, duration_pb2, wrappers_pb2
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from raftsched.cli import render
from raftsched.pb.dapr import common_pb2, scheduler_pb2

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@settings(max_examples=50)
@given(JSON)
def test_a_json_payload_comes_back(value: object) -> None:
    packed = render.encode_payload(json.dumps(value))
    assert packed.type_url == "type.googleapis.com/google.protobuf.Value"
    assert render.decode_payload(packed) == value


@given(st.text(alphabet=st.characters(exclude_categories=("Cs",))).filter(lambda text: not _is_json(text)))
def test_any_other_text_comes_back(text: str) -> None:
    packed = render.encode_payload(text)
    assert packed.type_url == "type.googleapis.com/google.protobuf.StringValue"
    assert render.decode_payload(packed) == text


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def test_other_payloads_are_shown_as_what_they_are() -> None:
    packed = any_pb2.Any()
    packed.Pack(wrappers_pb2.BytesValue(value=b"hi"))
    assert render.decode_payload(packed) == "hi"
    packed.Pack(wrappers_pb2.BytesValue(value=b"\xff"))
    assert render.decode_payload(packed) == {"@type": packed.type_url, "base64": "CgH/"}
    assert render.decode_payload(any_pb2.Any(value=b"raw")) == "raw"
    assert render.decode_payload(any_pb2.Any(type_url="x/y", value=b"\0")) == {"@type": "x/y", "base64": "AA=="}
    assert render.decode_payload(any_pb2.Any(type_url="type.googleapis.com/google.protobuf.Value", value=b"\xff")) == {
        "@type": "type.googleapis.com/google.protobuf.Value",
        "base64": "/w==",
    }


@given(st.text(alphabet=st.characters(exclude_categories=("Cs",))))
def test_nothing_unprintable_reaches_the_terminal(text: str) -> None:
    assert render.plain(text).isprintable()


def test_a_table_cuts_nothing_in_a_pipe_and_leaves_markup_alone(capsys: pytest.CaptureFixture[str]) -> None:
    render.print_jobs(
        [
            {"name": "[red]" + "x" * 100, "schedule": "@daily", "data": {"text": "\x1b[31m"}},
            {"name": "a", "actor_type": "T", "actor_id": "1"},
        ]
    )
    out = capsys.readouterr().out
    assert "[red]" + "x" * 100 in out
    assert "\x1b" not in out
    assert '{"text": "\\u001b[31m"}' in out
    assert "T/1/a" in out


def test_a_job_shows_only_what_is_set() -> None:
    policy = common_pb2.JobFailurePolicy(
        constant=common_pb2.JobFailurePolicyConstant(interval=duration_pb2.Duration(seconds=1, nanos=500_000_000))
    )
    target = scheduler_pb2.JobTargetMetadata(actor=scheduler_pb2.TargetActorReminder(type="T", id="1"))
    metadata = scheduler_pb2.JobMetadata(namespace="n", app_id="a", target=target)
    shown = render.job_as_dict("x", metadata, scheduler_pb2.Job(repeats=0, failure_policy=policy))
    assert shown == {
        "name": "x",
        "namespace": "n",
        "app_id": "a",
        "actor_type": "T",
        "actor_id": "1",
        "repeats": 0,
        "failure_policy": {"constant": {"interval": "1.5s"}},
    }
    dropped = common_pb2.JobFailurePolicy(drop=common_pb2.JobFailurePolicyDrop())
    assert render.job_as_dict("x", metadata, scheduler_pb2.Job(failure_policy=dropped))["failure_policy"] == {"drop": {}}


def test_what_only_looks_like_json_is_text() -> None:
    for text in ("NaN", "Infinity", '{"a": -Infinity}', '{"a": 1, "a": 2}', "[" * 200 + "]" * 200):
        assert render.decode_payload(render.encode_payload(text)) == text


def test_a_list_on_a_terminal_cuts_payloads_alone(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    jobs = [{"name": "日本", "schedule": "@daily", "data": "x" * 1_000_000}, {"name": "b" * 300, "data": "語" * 100}]
    render.print_jobs(jobs[:1])
    header, row = capsys.readouterr().out.splitlines()
    assert row.startswith("日本  @daily")
    assert row.endswith("x…")
    assert header.index("DATA") == len(row.rstrip("x…")) + 2  # two wide characters fill four cells
    assert cell_len(row) == 60
    render.print_jobs(jobs[1:])
    row = capsys.readouterr().out.splitlines()[1]
    assert row.startswith("b" * 300 + "  ")
    assert "語" in row


def test_a_long_list_is_quick(capsys: pytest.CaptureFixture[str]) -> None:
    begin = time.process_time()
    render.print_jobs({"name": f"job-{number:05}", "schedule": "@every 24h"} for number in range(50_000))
    assert time.process_time() - begin < 5  # rich's table took 38 s
    assert len(capsys.readouterr().out.splitlines()) == 50_001
