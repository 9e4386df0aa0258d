"""A TLS connection to a host that has several addresses, as a pair of streams.

Must not know: what is spoken, and who the server must be beyond what the context demands.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Resolve = Callable[[str, int], Awaitable[Sequence[tuple[str, int]]]]


async def connect(addresses: Sequence[tuple[str, int]], context: ssl.SSLContext, host: str) -> Streams:
    """To the first of them that takes us. OSError."""
    failure = OSError("no address")
    for address, port in addresses:
        try:
            return await asyncio.open_connection(address, port, ssl=context, server_hostname=host)
        except OSError as error:
            failure = error
    raise failure
