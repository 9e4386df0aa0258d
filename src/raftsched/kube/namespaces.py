"""Which namespaces there are, which have gone, and what to ask the API server next (spec §8.1). No IO.

Invariant: a namespace is reported as gone only after it was seen, and is asked for by name before anything is removed; what is no name of a
Kubernetes namespace is never taken for one. A failure is followed by a pause that grows; `now` and pauses are seconds of one clock.
Must not know: who asks, how, and what is removed.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from raftsched.limits import KUBE_NAMESPACES_MAX

NAME: Final = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
PAGE: Final = 500  # namespaces in one answer
RETRY_S_MIN: Final = 0.8
RETRY_S_MAX: Final = 30.0
JITTER: Final = 0.5  # of a pause, on top of it: replicas do not come together
WATCH_S_MIN: Final = 300.0  # the API server is told to end a watch after so long, to twice that
SHORT_WATCH_S: Final = 1.0  # one that ends sooner without a word is a failure
RESYNC_S: Final = 1_800.0  # everything is listed anew: what a watch has missed is found


@dataclass(frozen=True, slots=True)
class List:
    """The next page, behind `after`; "" = the first."""

    after: str


@dataclass(frozen=True, slots=True)
class Watch:
    """What changes behind `version`; the API server ends it after about `timeout_s`."""

    version: str
    timeout_s: float


def pause_s(failures: int, chance: Callable[[], float]) -> float:
    """Behind so many failures in a row, from 1; `chance()` is uniform in [0, 1)."""
    return min(RETRY_S_MIN * 2.0 ** min(failures - 1, 16), RETRY_S_MAX) * (1 + JITTER * chance())


class Namespaces:
    """What is known. `step()` says what to ask; the answer comes through one of the `on_…`; `wait_s` is the pause before."""

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance
        self._known: set[str] = set()
        self._listed: set[str] = set()
        self._after = self._version = ""
        self._failures = self._expired = 0
        self._due = self._watch_began = self._resync_at = 0.0
        self._heard = False
        self.synced = False
        """Everything was listed once."""
        self.gone = Gone(chance)

    def __len__(self) -> int:
        return len(self._known)

    def wait_s(self, now: float) -> float:
        return max(self._due - now, 0.0)

    def step(self, now: float) -> List | Watch:
        if not self._version or now >= self._resync_at:
            return List(self._after)
        self._watch_began, self._heard = now, False
        wanted_s = WATCH_S_MIN * (1 + self._chance())
        return Watch(self._version, max(min(wanted_s, self._resync_at - now), 1.0))

    def on_page(self, names: Iterable[str], version: str, after: str, now: float) -> None:
        """`after`: where the next page begins; "" = that was the last."""
        self._failures = 0
        self._listed.update(name for name in names if NAME.fullmatch(name))
        if len(self._listed) > KUBE_NAMESPACES_MAX:
            raise ValueError(f"there are more than {KUBE_NAMESPACES_MAX} namespaces")
        self._after = after
        if after:
            return
        for name in self._known - self._listed:
            self.gone.add(name, now)
        self._known, self._listed = self._listed, set()
        self._version, self._resync_at, self.synced = version, now + RESYNC_S, True

    def on_event(self, kind: str, name: str, version: str, now: float) -> None:
        """ADDED, MODIFIED, DELETED or BOOKMARK; others say nothing."""
        self._heard, self._failures, self._expired = True, 0, 0
        self._version = version or self._version
        if not NAME.fullmatch(name):
            return
        if kind in {"ADDED", "MODIFIED"}:
            self._known.add(name)
        elif kind == "DELETED":
            self._known.discard(name)
            self.gone.add(name, now)

    def on_watch_ended(self, now: float) -> None:
        """As it was asked to, or because the connection broke: it goes on where it was."""
        if not self._heard and now - self._watch_began < SHORT_WATCH_S:
            self.on_failed(now)

    def on_expired(self, now: float) -> None:
        """410: the API server does not know that version or page any more. Everything is listed anew, at once if a watch has told
        anything since the last time."""
        self._after, self._version, self._listed = "", "", set()
        self._expired += 1
        self._due = now if self._expired == 1 else now + pause_s(self._expired, self._chance)

    def on_failed(self, now: float, at_least_s: float = 0.0) -> None:
        """`at_least_s`: the API server has said when to come again."""
        self._failures += 1
        self._due = now + max(pause_s(self._failures, self._chance), min(at_least_s, RETRY_S_MAX))


class Gone:
    """Namespaces that seem to be gone: each is looked at until it is known to be there, or what it had is removed."""

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance
        self._due: dict[str, tuple[float, int]] = {}  # when, after how many failures

    def __len__(self) -> int:
        return len(self._due)

    def add(self, name: str, now: float) -> None:
        self._due[name] = (now, 0)

    def due(self, now: float) -> list[tuple[str, float]]:
        """(name, since when)."""
        return [(name, at) for name, (at, _) in self._due.items() if at <= now]

    def wait_s(self, now: float) -> float | None:
        """None = there is nothing to do."""
        return max(min(at for at, _ in self._due.values()) - now, 0.0) if self._due else None

    def on_done(self, name: str, since: float) -> None:
        """It is there after all, or what it had is removed; unless it went once more in the meantime."""
        if name in self._due and self._due[name][0] == since:
            del self._due[name]

    def on_failed(self, name: str, now: float) -> None:
        failures = self._due[name][1] + 1 if name in self._due else 1
        self._due[name] = (now + pause_s(failures, self._chance), failures)
