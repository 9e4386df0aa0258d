"""From a URL to a connection that shook hands: resolved anew each time, TLS for https, each address in turn.

Must not know: when to dial, and what the connection is for.
"""

import asyncio
import itertools
import random
import secrets
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from raftsched.errors import PeerCode, PeerError
from raftsched.limits import PEER_HANDSHAKE_TIMEOUT_MS
from raftsched.store.transport import handshake
from raftsched.store.transport._frames import WireError
from raftsched.store.transport.connection import Connection, words
from raftsched.store.transport.handshake import Identity
from raftsched.store.transport.ports import PeerHandler
from raftsched.store.transport.report import Report
from raftsched.store.transport.resolving import Resolve, SystemResolver
from raftsched.store.transport.tls import PeerSecurity


@dataclass(slots=True)
class Surroundings:
    """What all connections of one member share."""

    own: Identity
    handler: PeerHandler
    report: Report
    tls: PeerSecurity | None = None
    resolve: Resolve = field(default_factory=SystemResolver)
    chance: random.Random = field(default_factory=random.Random)
    nonce: Callable[[int], bytes] = secrets.token_bytes
    removed_told: bool = False
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    """Of connections that a link has; none is used twice."""

    def on_removed(self) -> None:
        if not self.removed_told:
            self.removed_told = True
            self.handler.on_removed()


def parse_url(url: str) -> tuple[str, int, bool]:
    """(host, port, TLS). ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or not parts.port:
        raise ValueError(f"{url} is not http(s)://<host>:<peer-port>")
    return parts.hostname, parts.port, parts.scheme == "https"


async def dial(around: Surroundings, url: str, *, receiver_id: int, purpose: int, detail: int = 0) -> tuple[Connection, Identity]:
    """A connection that is welcome, and who welcomed it. PeerError: UNREACHABLE, REFUSED, BUSY; counted, and logged with its cause."""
    peer = f"{receiver_id:x}" if receiver_id else url
    try:
        async with asyncio.timeout(PEER_HANDSHAKE_TIMEOUT_MS / 1000):
            return await _dial(around, url, receiver_id, purpose, detail)
    except (WireError, ssl.SSLError) as error:
        code, cause = PeerCode.REFUSED, f"dial: {words(error)}"
    except (OSError, ValueError) as error:  # TimeoutError is an OSError
        code, cause = PeerCode.UNREACHABLE, f"dial: {words(error)}"
    around.report.refuse("cannot connect to a peer", cause, peer, url=url)
    raise PeerError(code, cause)


async def _dial(around: Surroundings, url: str, receiver_id: int, purpose: int, detail: int) -> tuple[Connection, Identity]:
    host, port, with_tls = parse_url(url)
    if with_tls and around.tls is None:
        raise ValueError("an https URL needs certificate files")
    context = around.tls.client() if with_tls and around.tls is not None else None
    addresses = await around.resolve(host, port)
    connection = await _connect(addresses, context, host)
    try:
        _check_certificate(around, connection)
        return connection, await _greet(around, connection, receiver_id, purpose, detail)
    except BaseException:
        connection.end("the handshake failed")
        raise


def _check_certificate(around: Surroundings, connection: Connection) -> None:
    """Raises WireError."""
    if around.tls is not None and (cause := around.tls.objection(connection.tls())):
        raise WireError(cause)


async def _connect(addresses: Sequence[tuple[str, int]], context: ssl.SSLContext | None, host: str) -> Connection:
    loop, failure = asyncio.get_running_loop(), OSError("no address")
    name = host if context is not None else None
    for address, port in addresses:
        try:
            _, connection = await loop.create_connection(Connection, address, port, ssl=context, server_hostname=name)
        except OSError as error:
            failure = error
        else:
            return connection
    raise failure


async def _greet(around: Surroundings, connection: Connection, receiver_id: int, purpose: int, detail: int) -> Identity:
    nonce = handshake.read_challenge(await connection.receive())
    own = Identity(0, 0, around.own.version) if purpose == handshake.ASK else around.own
    connection.write(handshake.hello(own, nonce, receiver_id=receiver_id, purpose=purpose, detail=detail))
    answer = handshake.read_answer(await connection.receive())
    if not isinstance(answer, Identity):
        return _refused(around, answer)
    if purpose != handshake.ASK and (answer.cluster_id, answer.member_id) != (own.cluster_id, receiver_id):
        raise WireError("somebody else answers")
    if purpose != handshake.ASK and not answer.is_of(around.own.incarnation):
        raise WireError(handshake.WRONG_INCARNATION)
    return answer


def _refused(around: Surroundings, answer: tuple[int, int, int]) -> Identity:
    code, cluster_id, dialer_id = answer
    if code == handshake.BUSY:
        raise PeerError(PeerCode.BUSY, "the peer has no room")
    if code == handshake.REMOVED and (cluster_id, dialer_id) == (around.own.cluster_id, around.own.member_id):
        around.on_removed()
        raise WireError("this member was removed")
    raise WireError("refused")
