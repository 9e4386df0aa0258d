"""Two watches of one stream, whatever way an etcd sends them: each change is told once, and nothing before what it may rest on."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from raftsched.pb.etcd import kv_pb2, rpc_pb2
from raftsched.scheduler.bridge.external.order import ALL, BESIDE, MAIN, Order

SIDES = (MAIN, BESIDE)
Change = tuple[int, int, int]
"""(revision, side, number within both)."""
# how many changes of each side a revision has; both 0: it is of keys that nobody watches
Histories = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=30)


def changes_of(history: list[tuple[int, int]]) -> list[Change]:
    return [
        (revision, side, number) for revision, counts in enumerate(history, 2) for side in SIDES for number in range(counts[side == BESIDE])
    ]


def event(change: Change) -> Any:
    revision, side, number = change
    return kv_pb2.Event(kv=kv_pb2.KeyValue(key=b"%d" % side, mod_revision=revision, version=number))


def shown(one: Any) -> Change:
    return one.kv.mod_revision, int(one.kv.key), one.kv.version


class Sender:
    """An etcd: each watch has its place in the history."""

    def __init__(self, changes: list[Change], revision: int) -> None:
        self.revision = revision
        self.changes = changes
        self.left: dict[int, list[Change]] = {}
        self.fragment: dict[int, bool] = {}

    def open(self, order: Order) -> None:
        """As a client does, from what it knows."""
        for side in reversed(SIDES):
            start = order.start(side)
            order.opened(side, self.revision)
            self.left[side] = [change for change in self.changes if change[1] == side and change[0] >= start]

    def message(self, side: int, events: int, *, torn: bool) -> Any:
        """The next events of one watch: whole revisions, but for what is told to be a fragment."""
        left = self.left[side]
        taken = left[:events]
        if not torn:
            while len(taken) < len(left) and left[len(taken)][0] == taken[-1][0]:
                taken.append(left[len(taken)])
        self.left[side] = left[len(taken) :]
        torn = bool(self.left[side]) and self.left[side][0][0] == taken[-1][0]
        return rpc_pb2.WatchResponse(watch_id=side, events=[event(change) for change in taken], fragment=torn)

    def progress(self, watch: int) -> Any:
        return rpc_pb2.WatchResponse(watch_id=watch, header=rpc_pb2.ResponseHeader(revision=self.revision))


@settings(max_examples=400, deadline=None)
@given(history=Histories, data=st.data())
def test_everything_is_told_once_and_in_order(history: list[tuple[int, int]], data: st.DataObject) -> None:
    changes = changes_of(history)
    told: list[Change] = []
    order, sender, breaks = Order(), Sender(changes, len(history) + 1), 3
    order.opened(BESIDE, 1)
    order.opened(MAIN, 1)
    sender.open(order)

    def take(answer: Any) -> None:
        for some in order.came(answer):
            told.extend(shown(one) for one in some.events)
            order.done(some)
            _check(changes, told, order)

    while any(sender.left.values()) or len(told) < len(changes):
        choices = [side for side in SIDES if sender.left[side]]
        choice = data.draw(st.sampled_from([*choices, "progress", *(["break"] if breaks else [])]))
        if choice == "break":
            breaks -= 1
            sender.open(order)
        elif choice != "progress":
            take(sender.message(choice, data.draw(st.integers(1, 4)), torn=data.draw(st.booleans())))
        elif not any(sender.left.values()):
            take(sender.progress(ALL))
        elif ready := [side for side in SIDES if not sender.left[side]]:
            take(sender.progress(data.draw(st.sampled_from(ready))))
    take(sender.progress(ALL))
    assert sorted(told) == sorted(changes)
    assert (order.main, order.beside, order.holds) == (sender.revision, sender.revision, False)


def _check(changes: list[Change], told: list[Change], order: Order) -> None:
    """After each step."""
    assert len(set(told)) == len(told), "twice"
    for side in SIDES:
        of_side = [change for change in told if change[1] == side]
        assert of_side == [change for change in changes if change[1] == side][: len(of_side)], "out of order, or with a gap"
    known = {MAIN: order.main, BESIDE: order.beside}
    assert {change for change in changes if change[0] <= known[change[1]]} == set(told), "what is known is what was told"
    assert order.beside <= order.main, "nothing beside a job before what happened to the job"
    assert order.covers(order.beside, beside=True)
    assert not order.covers(order.main + 1, beside=False)
