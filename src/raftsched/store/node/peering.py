"""A member among the others: connections follow the membership, and what arrives goes to whom it is for.

Invariant: nobody is dialled who is neither in the applied membership nor in a change that this member's log holds behind what is applied.
Where: at the URLs that the cluster knows, and before the cluster has heard of a move, at those that the member itself told (`moving`) and
those that the own list gives for its name. Who answers must prove to be that member.
Must not know: frames and sockets (store/transport), what a request of another room means.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol

from raftsched.errors import ETCD_STATUS, EtcdError, PeerCode, PeerError, StatusError
from raftsched.ports import Log as LogPort
from raftsched.store import membership
from raftsched.store.codec import WireError
from raftsched.store.membership import Membership
from raftsched.store.node.opening import Member
from raftsched.store.node.versions import cluster_version, version_key
from raftsched.store.raft._kernel import Message
from raftsched.store.replica import Persist
from raftsched.store.transport.ports import BulkStream, PeerHandler
from raftsched.types import MemberInfo

CONF_CHANGE = 1
LINGER_MS = 1_000
NUMBERS = {status: int(error) for error, status in reversed(ETCD_STATUS.items())}
"""What travels between members is the number of an error; (code, text) -> number."""


class PeerPort(Protocol):
    """The transport, as a node uses it: `store.transport.Peers`, or the simulator's."""

    async def start(self) -> None: ...
    def join(self, *, cluster_id: int, member_id: int) -> None: ...
    def set_incarnation(self, incarnation: int) -> None: ...
    def update(self, members: Mapping[int, Sequence[str]]) -> None: ...
    def send(self, member_id: int, message: Message) -> bool: ...
    async def request(self, member_id: int, kind: int, payload: bytes, timeout_ms: int) -> bytes: ...
    async def ask(self, url: str, payload: bytes, timeout_ms: int) -> bytes: ...
    async def open_bulk(self, member_id: int, purpose: int) -> BulkStream: ...
    def is_connected(self, member_id: int) -> bool: ...
    def connection(self, member_id: int) -> int: ...
    def versions(self) -> Mapping[int, tuple[int, int, int]]: ...
    def counters(self) -> Mapping[str, float]: ...
    async def close(self) -> None: ...


Network = Callable[[PeerHandler], PeerPort]
"""Makes the transport, which is told whom to call."""

Request = Callable[[int, bytes], Awaitable[bytes]]
"""(sender, payload) -> answer; raises StatusError, or WireError for bytes that are no request."""


class Peering:
    """The `PeerHandler` of a node."""

    def __init__(self, network: Network, log: LogPort, mono_ms: Callable[[], int], on_removed: Callable[[], None]) -> None:
        self._log = log
        self._on_removed = on_removed
        self._deliver: Callable[[int, Message], None] | None = None
        self._membership: Membership | None = None
        self._applied: Callable[[], int] = lambda: 0
        self._own_id = 0
        self._promised: dict[int, tuple[str, ...]] = {}  # members that this one was told of, and has not applied
        # by index: (member, URLs) of additions in the log that are not applied; of removals, whose additions have no effect, without URLs
        self._pending: dict[int, tuple[int, tuple[str, ...] | None]] = {}
        self._contacts: Mapping[str, tuple[str, ...]] = {}
        self._found: dict[int, tuple[str, ...]] = {}  # where members say that they are
        self._heard: set[int] = set()  # since `silent` was asked
        self._mono_ms = mono_ms
        self._known: Mapping[int, Sequence[str]] = {}
        self._lingering: dict[int, tuple[Sequence[str], int]] = {}  # (URLs, until)
        self._reached: Mapping[int, Sequence[str]] = {}
        self.unsent: Callable[[Message], None] = lambda _message: None
        self.met: Callable[[], None] = self.refresh
        """Others are known than before, without a change of the membership."""
        self.requests: dict[int, Request] = {}
        self.bulk: dict[int, Callable[[int, BulkStream], Awaitable[None]]] = {}
        self.answer_ask: Callable[[bytes], Awaitable[bytes]] | None = None
        self.port = network(self)

    # -- life

    def join(self, member: Member, deliver: Callable[[int, Message], None]) -> None:
        """The member is open: from here on it speaks as itself."""
        self._own_id, self._membership, self._deliver = member.member_id, member.applier.membership, deliver
        self._applied = lambda: member.applier.applied_index
        self.note_changes(member.changes)
        self.port.join(cluster_id=member.cluster_id, member_id=member.member_id)
        self.port.set_incarnation(self._membership.incarnation)
        self.refresh()

    def expect(self, members: Sequence[MemberInfo]) -> None:
        """Members that this one was told of, before its log tells it."""
        self._promised |= {one.member_id: one.peer_urls for one in members}

    def meet(self, members: Sequence[MemberInfo]) -> None:
        """Members that others know, and this one does not yet; whose removal it knows is none."""
        if self._membership is None:
            return
        removed = self._membership.was_removed
        self._promised |= {one.member_id: one.peer_urls for one in members if one.peer_urls and not removed(one.member_id)}
        self.met()

    def list_contacts(self, contacts: Mapping[str, tuple[str, ...]]) -> None:
        """Peer URLs by name, as the own list has them."""
        self._contacts = contacts

    def found_at(self, member_id: int, peer_urls: tuple[str, ...]) -> None:
        """That member itself says so."""
        if self._membership is not None and member_id in self._known:
            self._found[member_id] = peer_urls
            self.refresh()

    def silent(self) -> list[int]:
        """Members of whom nothing came since the last call; sorted."""
        heard, self._heard = self._heard, set()
        return sorted(set(self._known) - heard)

    def others(self) -> Collection[int]:
        """Who is reached."""
        return self._known.keys()

    def refresh(self) -> None:
        """The membership may have changed: connections follow."""
        assert self._membership is not None
        known: dict[int, Sequence[str]] = {one.member_id: one.peer_urls for one in self._membership.members()}
        self._promised = {one: urls for one, urls in self._promised.items() if one not in known and not self._membership.was_removed(one)}
        applied = self._applied()
        self._pending = {index: found for index, found in self._pending.items() if index > applied}  # refused, if it is not in the table
        known = self._promised | self._coming() | known
        known.pop(self._own_id, None)
        self._add_contacts(known)
        self._linger(known)
        reached = {one: urls for one, (urls, _) in self._lingering.items()} | known
        self._known = known
        if reached != self._reached:
            self._reached = reached
            self.port.update(reached)

    def _coming(self) -> dict[int, Sequence[str]]:
        """Additions in the log that no later entry of it takes back."""
        last = {member: urls for _, (member, urls) in sorted(self._pending.items())}
        return {member: urls for member, urls in last.items() if urls is not None}

    def _add_contacts(self, known: dict[int, Sequence[str]]) -> None:
        """A URL of one is no contact of another; what a member tells comes first. Two may have one URL, as who begins anew has its former
        self's."""
        assert self._membership is not None
        taken = {url: one for one, urls in known.items() for url in urls}
        self._found = {one: urls for one, urls in self._found.items() if one in known and set(urls) != set(known[one])}
        listed = {one.member_id: self._contacts.get(one.name, ()) for one in self._membership.members()}
        for one, urls in known.items():
            told, contacts = ([url for url in places.get(one, ()) if taken.get(url, one) == one] for places in (self._found, listed))
            known[one] = tuple(dict.fromkeys((*told, *urls, *contacts)))

    def _linger(self, known: Mapping[int, Sequence[str]]) -> None:
        """Who is removed stays connected for a moment: the answer to its own request, say, is still on its way."""
        now_ms = self._mono_ms()
        left = {one: (urls, now_ms + LINGER_MS) for one, urls in self._known.items() if one not in known}
        self._lingering = {one: found for one, found in (self._lingering | left).items() if one not in known and found[1] > now_ms}

    def tick(self) -> None:
        """Now and then."""
        if self._membership is not None:
            self.port.set_incarnation(self._membership.incarnation)
        if self._lingering:
            self.refresh()

    def note(self, persist: Persist) -> bool:
        """Entries that go to the log: a change in force needs its member reached before it is applied, and no longer than it is in force.
        Whether there is a change."""
        runs = persist.entries
        changes = [found for first, _, kind, entries in runs if kind == CONF_CHANGE for found in enumerate(entries, first)]
        cut = [index for index in self._pending if index >= runs[0][0]] if self._pending and runs else []
        for index in cut:  # another leader's entries stand there now: that addition never was
            del self._pending[index]
        self.note_changes(changes)
        return bool(changes or cut)

    def note_changes(self, changes: Iterable[tuple[int, bytes]]) -> None:
        """By index."""
        for index, entry in changes:
            try:
                change, member_id, context, _ = membership.decode_change(entry)
                if change in (membership.ADD_NODE, membership.ADD_LEARNER) and context:
                    self._pending[index] = member_id, membership.decode_json(context).peer_urls
                elif change == membership.REMOVE_NODE and any(one == member_id for one, _ in self._pending.values()):
                    self._pending[index] = member_id, None
            except WireError:
                continue  # applies as a refused change

    def lowest_version(self, own: str) -> str | None:
        """The lowest cluster version that a member could run, this one included; None while somebody's is not known, or is not here: it may
        come back older than it was."""
        versions = self.port.versions()
        if any(one not in versions or not self.port.is_connected(one) for one in self._known):
            return None
        return min([own, *(cluster_version(versions[one]) for one in self._known)], key=version_key)

    def all_run(self, wanted: str) -> bool:
        """Whether the cluster versions that the other members could run are all known, and this one."""
        versions = self.port.versions()
        return all(one in versions and cluster_version(versions[one]) == wanted for one in self._known)

    # -- PeerHandler

    def on_message(self, sender: int, message: Message) -> None:
        self._heard.add(sender)
        if self._deliver is not None:
            self._deliver(sender, message)

    def on_unsent(self, _receiver: int, message: Message) -> None:
        self.unsent(message)

    async def on_request(self, sender: int, kind: int, payload: bytes) -> bytes:
        handler = self.requests.get(kind)
        if handler is None:
            raise PeerError(PeerCode.INTERNAL, f"request {kind} is not known here")
        try:
            return await handler(sender, payload)
        except StatusError as error:
            raise PeerError(NUMBERS.get((error.code, error.message), PeerCode.INTERNAL), error.message) from None
        except WireError as error:
            raise PeerError(EtcdError.MALFORMED, str(error)) from None

    async def on_bulk(self, sender: int, stream: BulkStream) -> None:
        handler = self.bulk.get(stream.purpose)
        if handler is None:
            stream.close()
            return
        await handler(sender, stream)

    async def on_ask(self, payload: bytes) -> bytes:
        if self.answer_ask is None:
            raise PeerError(PeerCode.BUSY, "this member is not ready to answer")
        return await self.answer_ask(payload)

    def is_removed(self, member_id: int) -> bool:
        return self._membership is not None and self._membership.was_removed(member_id)

    def on_removed(self) -> None:
        self._on_removed()

    # -- asking

    async def ask(self, member_id: int, kind: int, payload: bytes, timeout_ms: int) -> bytes:
        """One request of another member. Raises PeerError."""
        return await self.port.request(member_id, kind, payload, timeout_ms)

    async def close(self) -> None:
        self._deliver = None
        await self.port.close()
