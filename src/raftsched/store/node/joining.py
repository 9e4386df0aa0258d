"""An empty member's way into a cluster, on the asyncio loop: `Forming` with real asks, and what a joiner does until it votes.

    Settling.settle()  Form (write the first entries) or Granted (begin with an empty log, as a learner)
    Marker             says in the directory that this member joined by itself, and whom it knows until its log has told it
    promote_self()     asks for the promotion until it votes

Invariant: an empty member has decided before anything is written. Must not know: how asks travel, the kernel.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from raftsched import limits
from raftsched.errors import FatalError, NoSpaceError, PeerError, StatusError
from raftsched.ports import Log
from raftsched.store import asks
from raftsched.store.asks import Granted, JoinAsk, Later, Look, Refused
from raftsched.store.codec import WireError
from raftsched.store.forming import Form, Forming, Join, Refuse
from raftsched.store.membership import decode_json, encode_json
from raftsched.store.node.bootstrapping import objection
from raftsched.store.node.options import ClusterState
from raftsched.store.node.versions import check_version
from raftsched.types import MemberInfo

LOOK_INTERVAL_MS: Final = 200
LOOK_TIMEOUT_MS: Final = 1_000
JOIN_TIMEOUT_MS: Final = 2 * limits.REQUEST_TIMEOUT_MS  # the leader removes, adds and publishes within it, or answers Later
JOIN_PAUSE_MS: Final = 500
PROMOTE_INTERVAL_MS: Final = 200
SAY_AGAIN_MS: Final = 10_000
MARKER_NAME: Final = "JOINING"

AskPeer = Callable[[str, bytes, int], Awaitable[bytes]]
"""`Peers.ask(url, payload, timeout_ms)`. Raises PeerError."""


class Said:
    """Says a line at once when it is new, and again every 10 s."""

    def __init__(self, log: Log, mono_ms: Callable[[], int]) -> None:
        self._log, self._mono_ms = log, mono_ms
        self._last: dict[str, int] = {}

    def __call__(self, line: str, **fields: object) -> None:
        now_ms = self._mono_ms()
        if now_ms - self._last.get(line, -SAY_AGAIN_MS) >= SAY_AGAIN_MS:
            self._last = {one: when for one, when in self._last.items() if now_ms - when < SAY_AGAIN_MS} | {line: now_ms}
            self._log.warning(line, **fields)


# -- an empty member


class Settling:
    """An empty member's way into a cluster."""

    def __init__(
        self,
        forming: Forming,
        *,
        own: asks.Listed,
        listed: Sequence[asks.Listed],
        ask: AskPeer,
        log: Log,
        mono_ms: Callable[[], int],
        version: str = "",
        looked: Callable[[bool], None] = lambda _alone: None,
        state: ClusterState = "any",
    ) -> None:
        """`version`: the own one, "" = joins any cluster. `looked(alone)`: whether there is none to join. `state`: what the member is
        told to expect."""
        self.forming = forming
        self._state = state
        self._looked = looked
        self._version = version
        self._own = own
        self._urls = [url for one in listed if one != own for url in one.peer_urls]
        self._ask, self._log, self._mono_ms = ask, log, mono_ms
        self._say = Said(log, mono_ms)
        self._news = asyncio.Event()

    async def settle(self) -> Form | Granted:
        """Asks until it is decided. Raises FatalError with the line of a refusal."""
        looking = [asyncio.ensure_future(self._look_at(url)) for url in self._urls]
        try:
            while (settled := await self._step()) is None:
                pass
        finally:
            for task in looking:
                task.cancel()
            await asyncio.gather(*looking, return_exceptions=True)
        return settled

    async def _step(self) -> Form | Granted | None:
        self._news.clear()
        decision = self.forming.decide(self._mono_ms())
        self._looked(not isinstance(decision, Join))
        if line := objection(self._state, self._own, decision, all_asked=self.forming.all_asked):
            raise FatalError(line)
        if isinstance(decision, Form):
            self._log.info("forming a new cluster", cluster=f"{decision.cluster_id:x}", members=len(decision.members))
            return decision
        if isinstance(decision, Refuse):
            raise FatalError(decision.line)
        if isinstance(decision, Join):
            if self._version:
                check_version(self._version, decision.cluster_version)
            granted = await self._join(decision)
            if granted is None:
                await asyncio.sleep(JOIN_PAUSE_MS / 1000)
            return granted
        if decision.line:
            self._log.info(decision.line)
        await self._wait()
        return None

    async def _wait(self) -> None:
        """For news, but not for ever: waiting itself is a rule."""
        try:
            async with asyncio.timeout(LOOK_INTERVAL_MS / 1000):
                await self._news.wait()
        except TimeoutError:
            pass

    async def _look_at(self, url: str) -> None:
        payload = asks.encode_ask(Look(self._own.name))
        while True:
            try:
                answer = asks.decode_answer(await self._ask(url, payload, LOOK_TIMEOUT_MS))
                self.forming.heard(url, answer, self._mono_ms())
            except PeerError:
                self.forming.unreachable(url, self._mono_ms())
            self._news.set()
            await asyncio.sleep(LOOK_INTERVAL_MS / 1000)

    async def _join(self, decision: Join) -> Granted | None:
        """Asks that member, then those it names; None = not now. Raises FatalError."""
        payload = asks.encode_ask(JoinAsk(self._own.name, self._own.peer_urls))
        urls, asked = [decision.url], set[str]()
        while urls and len(asked) < limits.MEMBERS_MAX:
            url = urls.pop(0)
            if url in asked:
                continue
            asked.add(url)
            try:
                answer = asks.decode_answer(await self._ask(url, payload, JOIN_TIMEOUT_MS))
            except PeerError as error:
                self._say("the cluster could not be asked to take this member in", url=url, error=error.text)
                continue
            if isinstance(answer, Granted) and answer.cluster_id == decision.cluster_id:
                self._log.info("joining a cluster", cluster=f"{answer.cluster_id:x}", member=f"{answer.member_id:x}")
                return answer
            if isinstance(answer, Refused):
                raise FatalError(f"cluster {decision.cluster_id:x} does not take this member in: {answer.text}")
            if isinstance(answer, Later):
                self._say(f"waiting to be taken in by cluster {decision.cluster_id:x}: {answer.text}")
                urls += answer.peer_urls
        return None


# -- a member that joined by itself


class Marker:
    """A small file in the directory of a member that joined by itself, until it votes: it asks for its promotion again after a restart, and
    knows whom to talk to before its log has told it. Raises FatalError, NoSpaceError."""

    def __init__(self, directory: str | Path) -> None:
        self._path = Path(directory) / MARKER_NAME

    def write(self, members: Iterable[MemberInfo]) -> None:
        """Durable when it returns; before the log is begun."""
        text = "\n".join(encode_json(one).decode() for one in members)
        temporary = self._path.with_name(MARKER_NAME + ".tmp")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(self._path)
            self._sync()
        except OSError as error:
            full = error.errno in {28, 122}  # ENOSPC, EDQUOT
            raise (NoSpaceError if full else FatalError)(f"cannot write {self._path}: {error.strerror}") from error

    def read(self) -> tuple[MemberInfo, ...] | None:
        """The members as they were; None = this member did not join by itself, or votes."""
        try:
            members = tuple(map(decode_json, self._path.read_bytes().splitlines()))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise FatalError(f"cannot read {self._path}: {error.strerror}") from error
        except WireError as error:
            raise self._damaged(str(error)) from error
        if not members:
            raise self._damaged("it is empty")
        return members

    def _damaged(self, how: str) -> FatalError:
        remedy = f"this member joined by itself and does not vote yet, so it can begin anew: empty {self._path.parent} and start it again"
        return FatalError(f"{self._path} is damaged, it should hold the members of the cluster, one a line: {how}; {remedy}")

    def remove(self) -> None:
        """Idempotent."""
        try:
            self._path.unlink(missing_ok=True)
            self._sync()
        except OSError as error:
            raise FatalError(f"cannot remove {self._path}: {error.strerror}") from error

    def _sync(self) -> None:
        descriptor = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


async def promote_self(
    marker: Marker, me: Callable[[], MemberInfo | None], promote: Callable[[], Awaitable[object]], *, log: Log, mono_ms: Callable[[], int]
) -> None:
    """Asks every 200 ms until this member votes, then takes the marker away; who was added as a learner waits for who promotes it. `me()`:
    what this member's log has told of it. `promote` raises StatusError: not yet."""
    say = Said(log, mono_ms)
    while (known := me()) is None or known.is_learner:
        if known is not None and not known.stays_learner:
            try:
                await promote()
            except StatusError as error:
                say("this learner is not a voter yet", reason=error.message)
        await asyncio.sleep(PROMOTE_INTERVAL_MS / 1000)
    marker.remove()
    log.info("this member votes")
