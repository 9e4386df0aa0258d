"""What the transport tells: counters under etcd's names where etcd has them, and log lines that a flood cannot multiply.

Invariant: per cause and peer one line in PEER_REFUSALS_LOGGED_MS, and both maps are bounded. Must not know: Prometheus.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple

from raftsched.limits import PEER_REFUSALS_LOGGED_MS, PEER_REFUSALS_REMEMBERED_MAX
from raftsched.ports import Log

ROUND_TRIP_BOUNDS: Final = tuple(0.0001 * 2**power for power in range(16))  # etcd_network_peer_round_trip_time_seconds
Histogram = tuple[Sequence[tuple[float, int]], float]


class PeerFamily(NamedTuple):
    """One metric, in the order of `rpc.metrics.Family`'s fields."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...]
    samples: Mapping[tuple[str, ...], float | Histogram]


class PeerStats:
    """Of one other member."""

    __slots__ = (
        "connected",
        "disconnects",
        "dropped",
        "forged",
        "generation",
        "receive_failures",
        "received_bytes",
        "received_messages",
        "round_trip_counts",
        "round_trip_sum_s",
        "send_failures",
        "sent_bytes",
        "sent_messages",
    )

    def __init__(self) -> None:
        self.sent_bytes = self.received_bytes = 0
        self.sent_messages = self.received_messages = 0
        self.send_failures = 0  # messages that found no connection
        self.dropped = 0  # by a full queue
        self.forged = 0  # arrived with another sender or receiver
        self.receive_failures = 0  # what arrived could not be understood, or was forged
        self.connected = 0
        self.disconnects = 0  # times that the dialled connection was lost
        self.generation = 0  # connections of this member that came in so far
        self.round_trip_counts = [0] * (len(ROUND_TRIP_BOUNDS) + 1)
        self.round_trip_sum_s = 0.0

    def observe_round_trip(self, seconds: float) -> None:
        self.round_trip_counts[bisect_left(ROUND_TRIP_BOUNDS, seconds)] += 1
        self.round_trip_sum_s += seconds

    def round_trips(self) -> Histogram:
        total, rows = 0, []
        for bound, count in zip((*ROUND_TRIP_BOUNDS, float("inf")), self.round_trip_counts, strict=True):
            total += count
            rows.append((bound, total))
        return rows, self.round_trip_sum_s


_COLUMNS: Final = (
    ("etcd_network_peer_sent_bytes_total", "To", "sent_bytes", "The total number of bytes sent to peers."),
    ("etcd_network_peer_received_bytes_total", "From", "received_bytes", "The total number of bytes received from peers."),
    ("etcd_network_peer_sent_failures_total", "To", "send_failures", "The total number of send failures from peers."),
    ("etcd_network_peer_received_failures_total", "From", "receive_failures", "The total number of receive failures from peers."),
    ("raftsched_peer_sent_messages_total", "To", "sent_messages", "Messages taken for sending."),
    ("raftsched_peer_received_messages_total", "From", "received_messages", "Messages handed to the node."),
    ("raftsched_peer_dropped_messages_total", "To", "dropped", "Messages dropped by a full queue."),
    ("raftsched_peer_forged_messages_total", "From", "forged", "Messages dropped because sender or receiver is not the connection's."),
    ("raftsched_peer_connections_accepted_total", "From", "generation", "Connections accepted from a member."),
)


class Report:
    """The counters and the log of one member's transport."""

    def __init__(self, log: Log, local: int = 0, *, clock_ms: Callable[[], int] = lambda: time.monotonic_ns() // 1_000_000) -> None:
        self._log = log
        self._clock_ms = clock_ms
        self.local = local
        self.peers: dict[int, PeerStats] = {}
        self.refusals: dict[str, int] = {}
        self.unusable_files_total = 0
        self._logged: dict[tuple[str, str], tuple[int, int]] = {}  # when the last line was, how often since

    def peer(self, member_id: int) -> PeerStats:
        return self.peers.setdefault(member_id, PeerStats())

    def keep(self, members: Mapping[int, object]) -> None:
        self.peers = {member: stats for member, stats in self.peers.items() if member in members}

    def refuse(self, message: str, cause: str, peer: str, **fields: object) -> None:
        """Counts, and says it unless it was said a moment ago. `peer`: member id in hexadecimal, or an address without its port."""
        label = cause if cause in self.refusals or len(self.refusals) < PEER_REFUSALS_REMEMBERED_MAX else "other"
        self.refusals[label] = self.refusals.get(label, 0) + 1
        now, key = self._clock_ms(), (cause, peer)
        said, suppressed = self._logged.get(key, (now - PEER_REFUSALS_LOGGED_MS, 0))
        if now - said < PEER_REFUSALS_LOGGED_MS:
            self._logged[key] = (said, suppressed + 1)
            return
        if key not in self._logged and len(self._logged) >= PEER_REFUSALS_REMEMBERED_MAX:
            self._forget(now)
            if len(self._logged) >= PEER_REFUSALS_REMEMBERED_MAX:
                return
        self._logged[key] = (now, 0)
        self._log.warning(message, cause=cause, peer=peer, **fields, **({"suppressed": suppressed} if suppressed else {}))

    def unusable_files(self, reason: str) -> None:
        self.unusable_files_total += 1
        self._log.error("changed certificate files cannot be used, the last good ones stay", reason=reason)

    def _forget(self, now: int) -> None:
        self._logged = {key: row for key, row in self._logged.items() if now - row[0] < PEER_REFUSALS_LOGGED_MS}

    def info(self, message: str, **fields: object) -> None:
        self._log.info(message, **fields)

    def error(self, message: str, **fields: object) -> None:
        self._log.error(message, **fields)

    # -- what is shown

    def totals(self) -> dict[str, float]:
        """Without labels: the sum over all peers."""
        found: dict[str, float] = {name: sum(getattr(one, field) for one in self.peers.values()) for name, _, field, _ in _COLUMNS}
        found["etcd_network_active_peers"] = sum(one.connected for one in self.peers.values())
        found["etcd_network_known_peers"] = len(self.peers)
        found["etcd_network_disconnected_peers_total"] = sum(one.disconnects for one in self.peers.values())
        found["raftsched_peer_unusable_certificates_total"] = self.unusable_files_total
        found["raftsched_peer_refused_connections_total"] = sum(self.refusals.values())
        return found

    def families(self) -> Iterator[PeerFamily]:
        rows = [(f"{member:x}", stats) for member, stats in self.peers.items()]
        for name, label, field, text in _COLUMNS:
            yield PeerFamily(name, "counter", text, (label,), {(peer,): getattr(one, field) for peer, one in rows})
        known: dict[tuple[str, ...], float | Histogram] = {
            (f"{self.local:x}", peer): 1 for peer in (f"{self.local:x}", *(peer for peer, _ in rows))
        }
        text = "The current number of known peers."
        yield PeerFamily("etcd_network_known_peers", "gauge", text, ("Local", "Remote"), known)  # etcd counts the member itself too
        yield self._pairs("etcd_network_active_peers", "gauge", "The current number of active peer connections.", lambda one: one.connected)
        text = "The total number of disconnected peers."
        yield self._pairs("etcd_network_disconnected_peers_total", "counter", text, lambda one: one.disconnects)
        trips: dict[tuple[str, ...], float | Histogram] = {(peer,): one.round_trips() for peer, one in rows}
        text = "Round-Trip-Time histogram between peers."
        yield PeerFamily("etcd_network_peer_round_trip_time_seconds", "histogram", text, ("To",), trips)
        refused: dict[tuple[str, ...], float | Histogram] = {(cause,): count for cause, count in self.refusals.items()}
        text = "Connections closed, and dials that failed, by cause."
        yield PeerFamily("raftsched_peer_refused_connections_total", "counter", text, ("cause",), refused)
        text = "Times that changed certificate files could not be used."
        yield PeerFamily("raftsched_peer_unusable_certificates_total", "counter", text, (), {(): self.unusable_files_total})

    def _pairs(self, name: str, kind: Literal["counter", "gauge"], text: str, value: Callable[[PeerStats], float]) -> PeerFamily:
        """By this member and the other."""
        samples: dict[tuple[str, ...], float | Histogram] = {
            (f"{self.local:x}", f"{member:x}"): value(stats) for member, stats in self.peers.items()
        }
        return PeerFamily(name, kind, text, ("Local", "Remote"), samples)
