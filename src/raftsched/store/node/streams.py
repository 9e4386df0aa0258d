"""Streams of snapshots to other members, or from them, in etcd's figures.

Must not know: what is streamed.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Literal

from raftsched.ports import Labelled
from raftsched.store.node.metrics import Histogram, Samples

DURATION_BOUNDS: Final = tuple(0.1 * 2**power for power in range(10))


class StreamFigures:
    """By the other member, once there was a stream."""

    def __init__(self, direction: Literal["send", "receive"], mono_ns: Callable[[], int]) -> None:
        self._prefix = f"etcd_network_snapshot_{direction}"
        self._label = "To" if direction == "send" else "From"
        self._mono_ns = mono_ns
        self._seconds: dict[int, Histogram] = {}
        self.successes: dict[int, int] = {}
        self.failures: dict[int, int] = {}
        self.in_flight: dict[int, int] = {}

    @contextmanager
    def counted(self, member: int) -> Iterator[None]:
        """One stream; whatever is raised is a failure."""
        begun_ns = self._mono_ns()
        for one in (self.successes, self.failures, self.in_flight):
            one.setdefault(member, 0)
        self.in_flight[member] += 1
        try:
            yield
        except BaseException:
            self.failures[member] += 1
            raise
        else:
            self.successes[member] += 1
            self._seconds.setdefault(member, Histogram(DURATION_BOUNDS)).observe((self._mono_ns() - begun_ns) / 1e9)
        finally:
            self.in_flight[member] -= 1

    def keep(self, members: Collection[int]) -> None:
        """Forgets who is no member any more."""
        for table in (self.successes, self.failures, self.in_flight, self._seconds):
            for member in [one for one in table if one not in members]:
                del table[member]

    def labelled(self) -> Labelled:
        """See `ports.StoreNode`."""
        counts = {"success": self.successes, "failures": self.failures, "inflights_total": self.in_flight}
        found: dict[str, tuple[tuple[str, ...], Mapping[tuple[str, ...], float | Samples]]] = {
            f"{self._prefix}_{name}": ((self._label,), {(f"{member:x}",): count for member, count in table.items()})
            for name, table in counts.items()
        }
        seconds: dict[tuple[str, ...], float | Samples] = {(f"{member:x}",): one.sample() for member, one in self._seconds.items()}
        return found | {f"{self._prefix}_total_duration_seconds": ((self._label,), seconds)}
