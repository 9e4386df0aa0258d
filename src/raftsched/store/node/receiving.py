"""A snapshot that comes in over a bulk stream, up to the moment when this incarnation of the member ends.

Invariant: what is received counts only after `install`; before that the member goes on as it is, votes and acknowledges included.
Must not know: who leads; how the next incarnation is begun.
"""

from collections.abc import Callable

from raftsched.errors import PeerError
from raftsched.ports import Log as LogPort
from raftsched.store.node.opening import Member
from raftsched.store.node.streams import StreamFigures
from raftsched.store.snapshot import install
from raftsched.store.snapshot.incoming import Incoming
from raftsched.store.snapshot.install import Stored
from raftsched.store.snapshot.stream import Offer, StreamError
from raftsched.store.transport.ports import BulkStream

RECEIVED = "raftsched_snapshot_received_bytes_total"


class Receiving:
    """The handler of bulk streams with purpose SNAPSHOT (`Peering.bulk`)."""

    def __init__(self, member: Member, on_received: Callable[[Stored], None], mono_ns: Callable[[], int], log: LogPort) -> None:
        """`on_received(stored)`: the driver ends its turns, calls `install_received`, and begins a new incarnation."""
        self._member = member
        self._on_received = on_received
        self._log = log
        self._incoming = Incoming(member.directory, is_wanted=self._is_wanted, mono_ns=mono_ns, log=log)
        self.streams = StreamFigures("receive", mono_ns)

    async def on_bulk(self, sender: int, stream: BulkStream) -> None:
        """One stream to its end; a failure is one line, the sender comes again."""
        try:
            with self.streams.counted(sender):
                stored = await self._incoming.receive(stream)
        except (StreamError, PeerError) as error:
            self._log.info("a snapshot was not received", member=f"{sender:x}", reason=str(error))
            return
        self._on_received(stored)

    def tick(self, mono_ms: int) -> None:
        """Now and then."""
        self._incoming.tick(mono_ms)

    def counters(self) -> dict[str, float]:
        return {RECEIVED: self._incoming.received_bytes_total}

    def _is_wanted(self, offer: Offer) -> str:
        commit = self._member.replica.kernel.commit
        return f"entry {commit} is committed here, the snapshot is of {offer.index}" if offer.index <= commit else ""


def install_received(member: Member, stored: Stored) -> str:
    """The last act of an incarnation: no turn may come after it, also when it raises. A line for the log; "" = what is committed here is
    newer by now, and the snapshot was discarded. Blocks for a few syncs. Raises FatalError, NoSpaceError.
    """
    kernel, log = member.replica.kernel, member.log
    if stored.index <= kernel.commit:
        member.directory.discard_incoming()
        return ""
    # what the kernel holds and the log does not yet would be lost with this incarnation
    holds = stored.index <= log.last_index and kernel.term_at(stored.index) == stored.term
    return install.install(member.directory, log, stored, log_holds_it=holds)
