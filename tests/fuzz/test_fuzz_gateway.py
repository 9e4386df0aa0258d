"""Bytes nobody meant, at the gateway's entrance: JSON that is cut, flipped and stuffed is decoded, or refused in words."""

import hypothesis.strategies as st
from hypothesis import example, given, settings
from mutations import mutate

from raftsched.rpc.gateway._json import JsonError, Scanner
from raftsched.rpc.gateway.routes import PATHS, route_of

SCHEMAS = [route_of(path).request for path in sorted(PATHS)]
CORPUS = [
    b'{"key":"Zm9v","range_end":"AA==","limit":"10","sort_order":"DESCEND","sort_target":2,"serializable":true,"x":[{"a":null}]}',
    b'{"compare":[{"result":"EQUAL","target":"VALUE","key":"YQ==","value":"Yg=="}],"success":[{"request_put":{"key":"YQ==","lease":-1}}]}',
    b'{"success":[{"request_txn":{"failure":[{"request_delete_range":{"key":"_-8","prev_kv":true}}]}}],"failure":[]}',
    b'{"create_request":{"key":"YQ==","filters":["NOPUT",1],"progress_notify":true}}{"cancel_request":{"watch_id":"1e2"}}{}',
    b'{"perm":{"permType":"READWRITE","key":"YQ==","range_end":"\\u0059g=="},"name":"\\ud83d\\ude00\\n"}',
    b'{"peerURLs":["http://a:1","b"],"isLearner":true,"ID":18446744073709551615}',
]
PIECES = [
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"\\u",
    b"\xff",
    b"\xed\xa0\x80",
    b"\x00",
    b"1e999999999",
    b"-",
    b"null",
    b'"":',
    b"=" * 5,
]

edits = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "repeat", "insert", "drop"]),
        st.integers(0, 1 << 16),
        st.sampled_from(PIECES) | st.binary(max_size=6),
    ),
    max_size=8,
)


def swallow(body: bytes, step: int) -> None:
    scanner = Scanner()
    try:
        for at in range(0, len(body), step):
            scanner.feed(body[at : at + step])
            while (value := scanner.next()) is not None:
                decode(value)
        value = scanner.end()
    except JsonError:
        return
    if value is not None:
        decode(value)


def decode(value: bytes) -> None:
    """By every type; what decodes can be shown again."""
    for schema in SCHEMAS:
        try:
            wire = schema.decode(value)
        except JsonError:
            continue
        assert schema.decode(schema.encode(wire)) or not wire


@given(st.sampled_from(CORPUS), edits, st.integers(1, 300))
@settings(max_examples=1_500, deadline=None)
@example(b'{"key":"\\ud83d', [], 300)
@example(b'{"":""}', [], 1)
@example(b'{"compare":[{"version":1e}]}', [], 1)
def test_json_that_went_wrong(seed: bytes, changes: list[tuple[str, int, bytes]], step: int) -> None:
    swallow(mutate(seed, changes), step)


@given(st.sampled_from(CORPUS), edits, st.sampled_from(SCHEMAS))
@settings(max_examples=1_000, deadline=None)
def test_text_that_nobody_has_looked_at(seed: bytes, changes: list[tuple[str, int, bytes]], schema: object) -> None:
    """Not what the gateway does; it must not be worse than a refusal all the same."""
    text = mutate(seed, changes)
    for at in range(0, len(text), max(1, len(text) // 7)):
        try:
            schema.decode(text[:at])  # type: ignore[attr-defined]
        except JsonError:
            continue


@given(st.sampled_from(SCHEMAS), st.binary(max_size=200))
@settings(max_examples=1_000, deadline=None)
def test_bytes_that_are_no_message(schema: object, wire: bytes) -> None:
    try:
        text = schema.encode(wire)  # type: ignore[attr-defined]
    except ValueError:
        return
    assert text.startswith(b"{")
