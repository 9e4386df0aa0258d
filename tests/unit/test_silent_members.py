"""Which schedulers the bridge calls dead: those of the members that the store's leader calls dead, nobody else's."""

from collections.abc import Collection, Sequence
from types import SimpleNamespace

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


async def test_who_is_silent_is_dead_where_the_leader_is() -> None:
    node = Node(["a", "b", "c"])
    node.silent = ["b"]
    kv = bridge(node)
    assert list(kv.dead(["a", "b", "c", "a replica that is no member"])) == ["b"]
