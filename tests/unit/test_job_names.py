"""Names, keys and prefixes (spec §3.3, §3.4), texts byte for byte."""

import pytest

from raftsched.scheduler.jobs.names import (
    TARGET_ACTOR,
    TARGET_JOB,
    Owner,
    check_name,
    go_quote,
    id_match_prefix,
    list_prefix,
    name_prefix,
    prefix_end,
)

APP = Owner("ns", "app", TARGET_JOB)
CAT = Owner("ns", "app", TARGET_ACTOR, "cat", "7")
CATS = Owner("ns", "app", TARGET_ACTOR, "cat", "")
ACTORS = Owner("ns", "app", TARGET_ACTOR, "", "")


def test_prefixes() -> None:
    assert name_prefix(APP) == list_prefix(APP) == "app||ns||app||"
    assert name_prefix(CAT) == list_prefix(CAT) == "actorreminder||ns||cat||7||"
    assert list_prefix(CATS) == "actorreminder||ns||cat||"
    assert id_match_prefix(APP) == "app||ns||app"
    assert id_match_prefix(CAT) == "actorreminder||ns||cat||7"
    assert id_match_prefix(CATS) == "actorreminder||ns||cat"
    assert id_match_prefix(ACTORS) == "actorreminder||ns||"


@pytest.mark.parametrize("name", ["a", "a b", "a:b_c@d|e||F", "ähm", "日本", "x" * 512, "..a", "\u00ad" * 3])
def test_allowed(name: str) -> None:
    assert check_name(name) is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", "job name cannot be empty"),
        ("x" * 513, f'job name is invalid "{"x" * 513}": must be at most 512 characters'),
        ("ä" * 257, f'job name is invalid "{"ä" * 257}": must be at most 512 characters'),
        ("a/b", "job name is invalid \"a/b\": must not contain '/', '\\', '#' or '?'"),
        ("a\\b", "job name is invalid \"a\\\\b\": must not contain '/', '\\', '#' or '?'"),
        ("a#", "job name is invalid \"a#\": must not contain '/', '\\', '#' or '?'"),
        ("?\x00", "job name is invalid \"?\\x00\": must not contain '/', '\\', '#' or '?'"),
        ("a\nb", 'job name is invalid "a\\nb": must not contain control characters'),
        ("\x7f", 'job name is invalid "\\x7f": must not contain control characters'),
        ("\x85", 'job name is invalid "\\u0085": must not contain control characters'),
        (".", 'job name is invalid ".": must not be a path traversal sequence'),
        ("..", 'job name is invalid "..": must not be a path traversal sequence'),
    ],
)
def test_refused(name: str, text: str) -> None:
    assert check_name(name) == text


def test_go_quote() -> None:
    assert go_quote('a"b\\c\a\b\f\n\r\t\v') == r'"a\"b\\c\a\b\f\n\r\t\v"'
    assert go_quote("\x01é日\u00a0\u200b\U000e0001") == '"\\x01é日\\u00a0\\u200b\\U000e0001"'


def test_prefix_end() -> None:
    assert prefix_end(b"dapr/jobs/") == b"dapr/jobs0"
    assert prefix_end(b"a\xff\xff") == b"b"
    assert prefix_end(b"\xff") == b"\0"
