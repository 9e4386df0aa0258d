"""The replication host: the one place that knows pysyncobj.

pysyncobj supplies the configuration object and its validation, node identity, the transport contract, the command queue and the status
attributes. Two of its methods are overridden, so that it decides nothing about consensus: `_onTick` hands what is queued to our replica and
lets the driver perform the output; `_SyncObj__onMessageReceived` queues a peer's message. Why, and which of its defects this keeps out:
docs/raft.md and docs/decisions.

Invariant: none of its own journal, serializer, dump, pickle or TCP code ever runs (tests/unit/test_host.py).
Must not know: what an event means; disks; the asyncio loop.
"""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from raftsched.store.raft._kernel import Message
from raftsched.store.replica import LEADER, Event, Output, Propose, Received, Replica

QUEUE_MAX = 100_000  # events between two ticks; each holds a batch
STATES = {0: 0, 1: 1, 2: 1, 3: 2}  # kernel state -> pysyncobj's; a pre-candidate counts as candidate


class PeerPort(Protocol):
    """Our own transport, as the host sees it (store/transport)."""

    def send(self, member_id: int, message: Message) -> bool: ...


class MemberNode(Node):  # type: ignore[misc]
    """A member, named by its id in hexadecimal."""

    def __init__(self, member_id: int) -> None:
        super().__init__(f"{member_id:x}")
        self.member_id = member_id


class HostTransport(Transport):  # type: ignore[misc]
    """pysyncobj's transport contract over our port. Always ready: connecting is the port's own business."""

    def __init__(self, host: "ReplicationHost", self_node: MemberNode, other_nodes: Iterable[MemberNode]) -> None:
        super().__init__(host, self_node, other_nodes)
        self._port = host.port

    def send(self, node: MemberNode, message: Message) -> bool:
        return self._port is not None and self._port.send(node.member_id, message)


def host_configuration(heartbeat_ms: int, election_ms_min: int, election_ms_max: int) -> SyncObjConf:
    """pysyncobj's configuration from our own; it refuses timings that do not fit together. No thread, files, dumps or pipe."""
    return SyncObjConf(
        autoTick=False,
        appendEntriesUseBatch=True,  # without it a wake-up pipe is made, which overflows
        appendEntriesPeriod=heartbeat_ms / 1000,
        raftMinTimeout=election_ms_min / 1000,
        raftMaxTimeout=election_ms_max / 1000,
        leaderFallbackTimeout=election_ms_max / 1000,
        connectionTimeout=max(3.5, election_ms_max / 1000),
        commandsQueueSize=QUEUE_MAX,
        dynamicMembershipChange=False,
        journalFile=None,
        fullDumpFile=None,
    )


class ReplicationHost(SyncObj):  # type: ignore[misc]
    """Queue in front of the replica, and its status in pysyncobj's terms."""

    _SyncObj__onReadyCalled: bool

    def __init__(
        self,
        replica: Replica,
        perform: Callable[[Output], None],
        mono_ms: Callable[[], int],
        *,
        member_id: int,
        others: Iterable[int] = (),
        conf: SyncObjConf,
        port: PeerPort | None = None,
    ) -> None:
        """`perform` does what an output says; it may `submit` more, which the next tick takes."""
        self.port = port
        self._replica = replica
        self._perform = perform
        self._mono_ms = mono_ms
        self._role = (-1, -1, -1)
        self._inbox: list[Event] = []  # from ourselves and from peers: before commands
        self._members = {one: MemberNode(one) for one in (member_id, *others)}
        super().__init__(self._members[member_id], [self._members[one] for one in others], conf=conf, transportClass=HostTransport)
        self._commands: Any = self._SyncObj__commandsQueue._FastQueue__queue
        self._transport: HostTransport = self._SyncObj__transport

    # -- what the driver calls

    def propose(self, event: Propose, refused: Callable[[], None]) -> None:
        """Queues a command; `refused` is called at once if the queue is full."""
        self._applyCommand(event, lambda _result, reason: refused() if reason == FAIL_REASON.QUEUE_FULL else None)

    def submit(self, event: Event) -> None:
        """Queues anything that is no command: ticks, completed writes, reads."""
        self._inbox.append(event)

    def drain(self) -> list[Event]:
        """Takes out what is queued: for a step, or, at the end, for who must answer it."""
        events, self._inbox = self._inbox, []
        commands = self._commands
        while commands:
            events.append(commands.popleft()[0])
        return events

    def received(self, sender: int, message: Message) -> None:
        """A peer's message, from the port."""
        self._transport._onMessageReceived(self._members.get(sender), message)

    def absorbed(self, sender: int, message: Message) -> bool:
        """Whether this was an ack, or an answer to a heartbeat, that changes books alone, which it has now; else it is for `received`."""
        return sender in self._members and message.sender == sender and self._replica.absorb(message, self._mono_ms())

    def idle(self) -> bool:
        """Nothing is queued. (No property: pysyncobj's constructor reads them all.)"""
        return not self._inbox and not self._commands

    def set_members(self, others: Iterable[int]) -> None:
        """The other members now; messages of anybody else are not heard."""
        me = self._SyncObj__selfNode
        known = {one: self._members.get(one) or MemberNode(one) for one in others}
        self._members = {**known, me.member_id: me}
        self._SyncObj__otherNodes = set(known.values())

    # -- the two overrides

    def _onTick(self, timeToWait: float = 0.0) -> None:
        """One step of the replica with all that is queued. Never sleeps."""
        output = self._replica.step(self.drain(), self._mono_ms())
        self._publish()
        self._perform(output)
        if self._SyncObj__onTickCallbacks:
            with self._SyncObj__onTickCallbacksLock:
                callbacks = list(self._SyncObj__onTickCallbacks)
            for callback in callbacks:
                callback()

    def _SyncObj__onMessageReceived(self, node: MemberNode | None, message: object) -> None:
        # The transport has authenticated the sender; who is no member, or speaks for another, is not heard.
        if node is not None and isinstance(message, Message) and message.sender == node.member_id:
            self._inbox.append(Received(message))

    # -- status

    def send(self, message: Message) -> bool:
        """Hands a message to the transport; loss is normal. False: it surely was not sent."""
        node = self._members.get(message.to)
        return node is not None and bool(self._transport.send(node, message))

    def _publish(self) -> None:
        """Feeds pysyncobj's status attributes; the kernel never reads them back."""
        kernel = self._replica.kernel
        self._SyncObj__raftCommitIndex = kernel.commit
        self._SyncObj__raftLastApplied = kernel.applied
        role = (kernel.state, kernel.term, kernel.leader)
        if role == self._role and self._SyncObj__onReadyCalled:
            return
        self._role = role
        state = STATES[kernel.state]
        if state != self._SyncObj__raftState:
            self._SyncObj__setState(state)
        self._SyncObj__raftCurrentTerm = kernel.term
        self._SyncObj__raftLeader = self._members.get(kernel.leader)
        if kernel.leader and kernel.applied >= kernel.commit and (kernel.state != LEADER or kernel.committed_in_term):
            self._SyncObj__onReadyCalled = True
