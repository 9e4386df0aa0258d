"""Which schedulers the bridge calls dead: those of the members that the store's leader calls dead, and those of no member."""

import asyncio
from collections.abc import Collection, Sequence
from types import SimpleNamespace

from raftsched.limits import FENCE_SILENT_MS
from raftsched.scheduler.bridge.embedded import EmbeddedKv
from raftsched.types import MemberInfo


class Node:
    """As much of a `StoreNode` as is asked."""

    def __init__(self, names: Sequence[str]) -> None:
        self.member_id = self.leader_id = 1
        self.mvcc = SimpleNamespace(record=lambda main, sub: None)
        self.names = list(names)
        self.silent: list[str] = []

    def members(self) -> Sequence[MemberInfo]:
        return [MemberInfo(number, name, ("http://localhost:1",), ()) for number, name in enumerate(self.names, 1)]

    def dead(self, names: Collection[str]) -> Collection[str]:
        return [name for name in self.silent if name in names]


def bridge(node: Node) -> EmbeddedKv:
    return EmbeddedKv(node)  # type: ignore[arg-type]


async def later(kv: EmbeddedKv, names: Sequence[str]) -> Collection[str]:
    """As a look each 100 ms finds it, after so long that a removed member has no fence any more."""
    found: Collection[str] = ()
    for _ in range(FENCE_SILENT_MS // 100 + 2):
        found = kv.dead(names)
        await asyncio.sleep(0.1)
    return found


async def test_who_is_silent_is_dead_where_the_leader_is() -> None:
    node = Node(["a", "b", "c"])
    node.silent = ["b"]
    kv = bridge(node)
    assert list(kv.dead(["a", "b", "c"])) == ["b"]
    node.leader_id = 2
    assert list(kv.dead(["a", "b", "c"])) == []


async def test_a_scheduler_of_a_removed_member_is_dead_after_a_while() -> None:
    node = Node(["a", "b"])
    kv = bridge(node)
    assert list(kv.dead(["b", "c"])) == []
    await asyncio.sleep(0.3)
    assert list(kv.dead(["b", "c"])) == []
    assert list(await later(kv, ["b", "c"])) == ["c"]
    node.leader_id = 2
    assert list(kv.dead(["b", "c"])) == []
    node.leader_id = 1  # a new leader counts from the beginning
    assert list(kv.dead(["b", "c"])) == []


async def test_while_a_member_has_no_name_nobody_is_a_stranger() -> None:
    assert list(await later(bridge(Node(["a", ""])), ["c"])) == []
