"""The DNS domain of a Kubernetes cluster, which Sentry puts into schedulers' names there (spec §2.7).

Must not know: what the domain is for.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Final

API_SERVER: Final = "kubernetes.default.svc"
WAIT_S: Final = 2.0


def domain_of(canonical: str) -> str:
    """`kubernetes.default.svc.cluster.local.` is of `cluster.local`; "" = it does not say."""
    name = canonical.strip(".")
    return name.removeprefix(API_SERVER).strip(".") if name.startswith(f"{API_SERVER}.") else ""


async def cluster_domain(fallback: str, look_up: "Callable[[str], str] | None" = None) -> str:
    """`fallback` if nobody says within WAIT_S. The resolver may hang: no end of the process waits for its thread."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[str] = loop.create_future()

    def finish(name: str) -> None:
        if not found.done():
            found.set_result(name)

    def look() -> None:
        try:
            name = (look_up or _canonical)(API_SERVER)
        except (OSError, UnicodeError):
            name = ""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(finish, name)

    threading.Thread(target=look, name="resolve the cluster's domain", daemon=True).start()
    try:
        async with asyncio.timeout(WAIT_S):
            return domain_of(await found) or fallback
    except TimeoutError:
        return fallback


def _canonical(name: str) -> str:
    """OSError."""
    return next((one[3] for one in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM, flags=socket.AI_CANONNAME) if one[3]), "")
