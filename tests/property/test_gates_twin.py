"""Concurrency gates against a twin that walks one list of waiters: who goes, in which order, and what is counted."""

from hypothesis import given, settings
from hypothesis import strategies as st

from raftsched.scheduler.delivery.gates import Admission, Gates, Limit, share_of

KEYS = [("cat", None), ("cat", "red"), ("cat", "blue"), ("dog", "red")]
RUNS = [("cat", None), ("cat", "red"), ("cat", "blue"), ("cat", "green"), ("dog", "red"), ("dog", None)]


class Twin:
    def __init__(self, waiters_max: int) -> None:
        self.declared: dict[tuple[str, str | None], dict[int, None]] = {}
        self.limit: dict[tuple[str, str | None], int] = {}
        self.held: dict[int, list[tuple[str, str | None]]] = {}
        self.waiting: list[tuple[int, list[tuple[str, str | None]]]] = []
        self.waiters_max = waiters_max
        self.place = (0, 1)

    def used(self, key: tuple[str, str | None]) -> int:
        return sum(key in keys for keys in self.held.values())

    def room(self, keys: list[tuple[str, str | None]]) -> bool:
        return all(key not in self.limit or self.used(key) < share_of(self.limit[key], *self.place) for key in keys)

    def admit(self, run: int, kind: str, name: str | None) -> Admission:
        keys = [key for key in ((kind, None), (kind, name)) if key in self.limit and (key[1] is not None or key == (kind, None))]
        keys = list(dict.fromkeys(keys))
        if self.room(keys):
            self.held[run] = keys
            return Admission.GO
        if sum(waiter[1][0] == keys[0] for waiter in self.waiting) >= self.waiters_max:
            return Admission.FULL
        self.waiting.append((run, keys))
        return Admission.WAIT

    def go(self) -> set[int]:
        gone = set()
        while True:
            able = [waiter for waiter in self.waiting if self.room(waiter[1])]
            if not able:
                return gone
            self.waiting.remove(able[0])
            self.held[able[0][0]] = [key for key in able[0][1] if key in self.limit]  # what was withdrawn meanwhile is not held
            gone.add(able[0][0])

    def withdraw(self, stream: int) -> set[int]:
        dropped: set[int] = set()
        for key in list(self.limit):
            self.declared[key].pop(stream, None)
            if not self.declared[key]:
                del self.limit[key]
                dropped |= {run for run, keys in self.waiting if keys[0] == key}
        self.waiting = [waiter for waiter in self.waiting if waiter[0] not in dropped]
        for run in self.held:
            self.held[run] = [key for key in self.held[run] if key in self.limit]
        return dropped


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_against_the_twin(data: st.DataObject) -> None:
    gates, twin = Gates(waiters_max=4), Twin(4)
    run = 0
    for _ in range(40):
        action = data.draw(
            st.sampled_from(["declare", "withdraw", "admit", "admit", "admit", "admit", "release", "release", "drop", "share", "evict"])
        )
        if action == "declare":
            stream, (kind, name), limit = data.draw(st.integers(0, 2)), data.draw(st.sampled_from(KEYS)), data.draw(st.integers(-1, 3))
            found = gates.declare(stream, "ns", [Limit(kind, name, limit)])
            if limit > 0:
                twin.limit[kind, name] = limit
                twin.declared.setdefault((kind, name), {})[stream] = None
            assert set(found) == twin.go()
        elif action == "withdraw":
            stream = data.draw(st.integers(0, 2))
            admitted, dropped = gates.withdraw(stream)
            assert set(dropped) == twin.withdraw(stream)
            assert set(admitted) == twin.go()
        elif action == "admit":
            kind, name = data.draw(st.sampled_from(RUNS))
            run += 1
            assert gates.admit(run, "ns", kind, name) == twin.admit(run, kind, name)
        elif action == "release" and twin.held:
            chosen = data.draw(st.sampled_from(sorted(twin.held)))
            del twin.held[chosen]
            assert set(gates.release(chosen)) == twin.go()
        elif action == "drop" and twin.waiting:
            chosen = data.draw(st.sampled_from([waiter[0] for waiter in twin.waiting]))
            gates.drop(chosen)
            twin.waiting = [waiter for waiter in twin.waiting if waiter[0] != chosen]
        elif action == "share":
            total = data.draw(st.integers(1, 4))
            twin.place = (data.draw(st.integers(0, total - 1)), total)
            assert set(gates.set_share(*twin.place)) == twin.go()
        elif action == "evict":
            kind = data.draw(st.sampled_from(["cat", "dog"]))
            wanted = {waiter[0] for waiter in twin.waiting if waiter[1][0][0] == kind}
            assert set(gates.evict("ns", kind)) == wanted
            twin.waiting = [waiter for waiter in twin.waiting if waiter[0] not in wanted]
        pending = sum(waiting for _, waiting in gates.gauges().values())
        assert pending == len(twin.waiting)
        assert {label: used for label, (used, _) in gates.gauges().items()} == {
            kind if name is None else f"{kind}:{name}": twin.used((kind, name)) for kind, name in twin.limit
        }


def test_shares() -> None:
    assert [share_of(10, index, 3) for index in range(3)] == [4, 3, 3]
    assert [share_of(2, index, 3) for index in range(3)] == [1, 1, 1]
    assert share_of(7, 0, 1) == 7
    assert share_of(7, 0, 0) == 7


def test_namespaces_are_apart() -> None:
    gates = Gates()
    gates.declare(1, "a", [Limit("cat", None, 1)])
    assert gates.admit(1, "a", "cat", None) == Admission.GO
    assert gates.admit(2, "b", "cat", None) == Admission.GO
    assert gates.admit(3, "a", "cat", None) == Admission.WAIT
