"""The members of the external etcd, a connection each, and which of them is asked.

One is asked until it fails; then the next one that has not failed just now. Replicas begin at different ones. Certificate files are
read again when they change: connections made from then on use them.
Must not know: what is asked.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from raftsched.limits import EXTERNAL_AVOID_MS, EXTERNAL_PING_MS, EXTERNAL_PING_TIMEOUT_MS, EXTERNAL_RECONNECT_MS
from raftsched.ports import Log

OLD_CHANNEL_GRACE_S: Final = 10.0
OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", EXTERNAL_PING_MS),
    ("grpc.keepalive_timeout_ms", EXTERNAL_PING_TIMEOUT_MS),
    ("grpc.initial_reconnect_backoff_ms", EXTERNAL_RECONNECT_MS),
    ("grpc.min_reconnect_backoff_ms", EXTERNAL_RECONNECT_MS),
    ("grpc.max_reconnect_backoff_ms", 4 * EXTERNAL_RECONNECT_MS),
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),  # a pod comes back at another address
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),  # what may be repeated is decided in caller.py alone
    ("grpc.use_local_subchannel_pool", 1),
)


@dataclass(frozen=True, slots=True)
class Target:
    """One of --etcd-client-endpoints."""

    address: str
    """host:port, or unix:path."""
    secure: bool


@dataclass(frozen=True, slots=True)
class ClientFiles:
    """PEM files for TLS to etcd; "" = none: the system's authorities, no certificate of one's own."""

    ca: str = ""
    cert: str = ""
    key: str = ""

    def read(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """In grpc's order: authorities, key, certificate. Raises OSError."""
        ca, key, cert = (Path(name).read_bytes() if name else None for name in (self.ca, self.key, self.cert))
        return ca, key, cert


class Endpoints:
    """Made on the loop that its channels run on."""

    def __init__(self, targets: Sequence[Target], files: ClientFiles, log: Log) -> None:
        """Raises OSError: a file cannot be read."""
        self._targets = targets
        self._files = files
        self._log = log
        self._secrets = files.read()
        self._at = random.randrange(len(targets))
        self._channels: dict[int, grpc.aio.Channel] = {}
        self._avoided_until = [0.0] * len(targets)
        self._closing: set[asyncio.Task[None]] = set()
        self.moves_total = 0

    @property
    def address(self) -> str:
        """Of the one that is asked now."""
        return self.address_of(self._at)

    def address_of(self, number: int) -> str:
        return self._targets[number].address

    def __len__(self) -> int:
        return len(self._targets)

    def current(self) -> tuple[int, Any]:  # Any: a channel of messages that are bytes, which its types do not know
        """(its number, for `failed`; the channel)."""
        channel = self._channels.get(self._at)
        if channel is None:
            channel = self._channels[self._at] = self._open(self._targets[self._at])
        return self._at, channel

    def failed(self, number: int, reason: str) -> None:
        """That one did not answer, or not well: the next calls go to another, if there is one. Said once for as long as it is avoided."""
        now_s = time.monotonic()
        first = self._avoided_until[number] <= now_s
        self._avoided_until[number] = now_s + EXTERNAL_AVOID_MS / 1000
        if number == self._at and len(self._targets) > 1:
            order = [(number + step) % len(self._targets) for step in range(1, len(self._targets))]
            self._at = min(order, key=lambda one: max(self._avoided_until[one], now_s))
            self.moves_total += 1
        if first:
            self._log.warning(f"a member of etcd failed: {reason}", at=self.address_of(number), asked_next=self.address)

    def _open(self, target: Target) -> grpc.aio.Channel:
        if not target.secure:
            return grpc.aio.insecure_channel(target.address, options=OPTIONS)
        ca, key, cert = self._secrets
        credentials = grpc.ssl_channel_credentials(ca, key, cert)
        return grpc.aio.secure_channel(target.address, credentials, options=OPTIONS)

    # -- files that change
    def renew(self) -> bool:
        """Looks at the certificate files; True = they are others, and all calls from now on are made with them."""
        try:
            secrets = self._files.read()
        except OSError as error:
            self._log.warning("certificates for etcd cannot be read, the former ones stay", error=str(error))
            return False
        if secrets == self._secrets:
            return False
        self._secrets = secrets
        old, self._channels = list(self._channels.values()), {}
        self._log.info("certificates for etcd have changed, connecting anew")
        for channel in old:
            task = asyncio.get_running_loop().create_task(channel.close(OLD_CHANNEL_GRACE_S))  # calls under way come to their end
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        return True

    async def close(self) -> None:
        """All calls under way end."""
        channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            await channel.close(None)
        for task in list(self._closing):
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
