"""Filters of raftsched.v1: patterns against a slow twin, ranges that hold all that is wanted, tokens."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftsched.errors import GrpcCode, StatusError
from raftsched.pb.v1 import jobs_pb2
from raftsched.rpc.jobs.filters import Filter, Pattern, page_token, token_key, type_of
from raftsched.scheduler.jobs.fields import Metadata
from raftsched.scheduler.jobs.names import JOBS, TARGET_ACTOR, TARGET_JOB, Owner, name_prefix

LETTERS = st.text("ab*\\|", max_size=8)
PARTS = st.sampled_from(["", "a", "b", "a||b", "dapr.internal.x"])


def twin(pattern: str) -> re.Pattern[str]:
    """The same as a regular expression."""
    pieces = re.findall(r"\\.|\\\Z|.", pattern, re.DOTALL)
    return re.compile("".join(".*" if piece == "*" else re.escape(piece[-1]) for piece in pieces), re.DOTALL)


@given(LETTERS, LETTERS)
def test_patterns_match_as_the_twin(pattern: str, name: str) -> None:
    found = Pattern(pattern)
    assert found.matches(name) == (twin(pattern).fullmatch(name) is not None)
    if found.matches(name):
        assert name.startswith(found.prefix)


def test_many_stars_take_no_time() -> None:
    assert not Pattern("*a" * 200 + "b").matches("a" * 512)


@given(st.builds(jobs_pb2.JobFilter, namespace=PARTS, app_id=PARTS, type=st.sampled_from([0, 1, 2, 3]), name_pattern=LETTERS), st.data())
def test_ranges_hold_whatever_is_wanted(asked: jobs_pb2.JobFilter, data: st.DataObject) -> None:
    if asked.type != jobs_pb2.JOB_TYPE_JOB:
        asked.actor_type = data.draw(PARTS)
        asked.actor_id = data.draw(PARTS) if asked.actor_type else ""
    wanted = Filter(asked)
    target = data.draw(st.sampled_from([TARGET_JOB, TARGET_ACTOR]))
    actor_type, actor_id = (data.draw(PARTS), data.draw(PARTS)) if target == TARGET_ACTOR else ("", "")
    namespace, app_id, name = data.draw(PARTS), data.draw(PARTS), data.draw(LETTERS)
    metadata: Metadata = (app_id, namespace, target, actor_id, actor_type, None)
    key = JOBS + (name_prefix(Owner(namespace, app_id, target, actor_type, actor_id)) + name).encode()
    if wanted.wants(metadata, name):
        assert any(one.start <= key < one.end for one in wanted.ranges())


def test_ranges_are_narrow_where_they_can_be() -> None:
    def starts(**asked: object) -> list[bytes]:
        return [one.start for one in Filter(jobs_pb2.JobFilter(**asked)).ranges()]  # type: ignore[arg-type]

    assert starts() == [JOBS + b"actorreminder||", JOBS + b"app||"]
    assert starts(namespace="n", type=1) == [JOBS + b"app||n||"]
    assert starts(namespace="n", app_id="a", type=1, name_pattern="x*y") == [JOBS + b"app||n||a||x"]
    assert starts(namespace="n", actor_type="t") == [JOBS + b"actorreminder||n||t||"]
    assert starts(namespace="n", actor_type="t", actor_id="i", name_pattern="x") == [JOBS + b"actorreminder||n||t||i||x"]


def test_types_are_told_apart() -> None:
    assert type_of(TARGET_JOB, "") == jobs_pb2.JOB_TYPE_JOB
    assert type_of(TARGET_ACTOR, "cat") == jobs_pb2.JOB_TYPE_ACTOR_REMINDER
    assert type_of(TARGET_ACTOR, "dapr.internal.default.app.workflow") == jobs_pb2.JOB_TYPE_WORKFLOW_REMINDER


@pytest.mark.parametrize("asked", [{"type": 9}, {"actor_id": "1"}, {"type": 1, "actor_type": "x"}])
def test_contradictions_are_refused(asked: dict[str, object]) -> None:
    with pytest.raises(StatusError) as caught:
        Filter(jobs_pb2.JobFilter(**asked))  # type: ignore[arg-type]
    assert caught.value.code == GrpcCode.INVALID_ARGUMENT


def test_tokens_come_back_and_nothing_else_is_one() -> None:
    key = JOBS + "app||n||a||é".encode()
    assert token_key(page_token(key)) == key
    assert token_key("") == b""
    for junk in ("x", "é", "====", page_token(b"other/key")):
        with pytest.raises(StatusError):
            token_key(junk)
