"""A member tells those that are silent to it where it can be reached: it may have moved, and they may not know.

Each direction between two members is dialled by its sender. Who moved reaches the others, and none of them reaches it: it hears of no
leader, and cannot be told so. Nor does who was down meanwhile reach it. A request goes the way that works; who is told dials there too
(`Peering.found_at`), and once everything is heard the move goes through the log (`Announcing`).
Must not know: how a request travels.
"""

import asyncio
from typing import Final, Protocol

from raftsched.errors import PeerError
from raftsched.store.codec import WireError
from raftsched.store.membership import UPDATE_NODE
from raftsched.store.node.members import Change, decode_request, encode_request
from raftsched.store.node.peering import PeerPort
from raftsched.store.reconfigure import parse_peer_urls
from raftsched.store.transport.ports import HERE

ROUND_S: Final = 0.5
TOLD_ROUNDS: Final = 10  # who was told, and is silent still, is told again after so many
TIMEOUT_MS: Final = 2_000


class Others(Protocol):
    """What is used of `Peering`."""

    @property
    def port(self) -> PeerPort: ...
    def silent(self) -> list[int]:
        """Members of whom nothing came since the last call; sorted."""

    def found_at(self, member_id: int, peer_urls: tuple[str, ...]) -> None: ...


async def keep_telling(others: Others, own_id: int, peer_urls: tuple[str, ...]) -> None:
    """For as long as it is let: whoever is silent and can be reached, as soon as it can. Followers are silent to each other."""
    payload = encode_request(Change(UPDATE_NODE, own_id, peer_urls))
    told: dict[int, int] = {}
    while True:
        silent = [one for one in others.silent() if others.port.is_connected(one)]
        told = {one: told[one] - 1 for one in silent if told.get(one, 0) > 1}
        for one in silent:
            if one not in told and await _tell(others, one, payload):
                told[one] = TOLD_ROUNDS
        await asyncio.sleep(ROUND_S)


async def _tell(others: Others, member_id: int, payload: bytes) -> bool:
    try:
        await others.port.request(member_id, HERE, payload, TIMEOUT_MS)
    except PeerError:
        return False
    return True


async def hear(others: Others, sender: int, payload: bytes) -> bytes:
    """HERE of another member. Raises WireError."""
    told = decode_request(payload)
    peer_urls = parse_peer_urls(told.peer_urls)
    if told.member_id != sender or peer_urls is None:
        raise WireError("no place of the one that says so")
    others.found_at(sender, peer_urls)
    return b""
