"""A member tells those that are silent to it where it is: whom, how often, and what a word of another one is worth."""

import asyncio
from collections.abc import Awaitable

import pytest

from raftsched.errors import PeerCode, PeerError
from raftsched.store.codec import WireError
from raftsched.store.membership import UPDATE_NODE
from raftsched.store.node import moving
from raftsched.store.node.members import Change, decode_request, encode_request
from raftsched.store.transport.ports import HERE

HERE_URLS = ("http://m1:2",)


class Others:
    """As `Peering`, with itself as the port."""

    def __init__(self, silent: list[int]) -> None:
        self.quiet, self.connected, self.port = silent, set(silent), self
        self.failing: set[int] = set()
        self.told: list[int] = []
        self.found: dict[int, tuple[str, ...]] = {}

    def silent(self) -> list[int]:
        return list(self.quiet)

    def is_connected(self, member_id: int) -> bool:
        return member_id in self.connected

    def found_at(self, member_id: int, peer_urls: tuple[str, ...]) -> None:
        self.found[member_id] = peer_urls

    async def request(self, member_id: int, kind: int, payload: bytes, timeout_ms: int) -> bytes:
        assert (kind, decode_request(payload)) == (HERE, Change(UPDATE_NODE, 1, HERE_URLS))
        assert timeout_ms > 0
        if member_id in self.failing:
            raise PeerError(PeerCode.LOST, "")
        self.told.append(member_id)
        return b""


async def rounds(others: Others, monkeypatch: pytest.MonkeyPatch, *steps: Awaitable[None] | None) -> None:
    """One round before each step."""
    gate = asyncio.Queue[None]()
    over = asyncio.Queue[None]()

    async def sleep(_seconds: float) -> None:
        over.put_nowait(None)
        await gate.get()

    monkeypatch.setattr(moving.asyncio, "sleep", sleep)
    task = asyncio.ensure_future(moving.keep_telling(others, 1, HERE_URLS))  # type: ignore[arg-type]
    for step in steps:
        await over.get()
        if step is not None:
            await step
        gate.put_nowait(None)
    await over.get()
    task.cancel()


def test_who_is_silent_is_told_once_in_ten_rounds_and_who_speaks_never(monkeypatch: pytest.MonkeyPatch) -> None:
    others = Others([2, 3])
    others.connected = {2}
    asyncio.run(rounds(others, monkeypatch, *[None] * (moving.TOLD_ROUNDS - 1)))
    assert others.told == [2], "3 cannot be reached"
    asyncio.run(rounds(others, monkeypatch, *[None] * moving.TOLD_ROUNDS))
    assert others.told == [2, 2, 2]
    others.quiet = []
    asyncio.run(rounds(others, monkeypatch, None, None))
    assert others.told == [2, 2, 2]


def test_who_comes_back_or_did_not_answer_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    others = Others([2])

    async def change(connected: set[int], failing: set[int]) -> None:
        others.connected, others.failing = connected, failing

    steps = (change(set(), set()), change({2}, {2}), change({2}, set()))
    asyncio.run(rounds(others, monkeypatch, *steps))
    assert others.told == [2, 2]


def test_one_is_believed_where_it_is_itself() -> None:
    others = Others([])
    assert asyncio.run(moving.hear(others, 2, encode_request(Change(UPDATE_NODE, 2, ("http://m2:1",))))) == b""
    for change in (Change(UPDATE_NODE, 3, ("http://m2:1",)), Change(UPDATE_NODE, 2, ("unix://x:1",)), Change(UPDATE_NODE, 2, ())):
        with pytest.raises(WireError):
            asyncio.run(moving.hear(others, 2, encode_request(change)))
    with pytest.raises(WireError):
        asyncio.run(moving.hear(others, 2, b"\xff"))
    assert others.found == {2: ("http://m2:1",)}
