"""How the external etcd is: looked at each second, said in the log when it changes, asked by /healthz.

In trouble = no quorum answers a read, or an alarm stands (no space, corrupt), or the watch does not come about, or the leadership lease
is not renewed and triggers pause for it.
Must not know: what the scheduler does about it.
"""

import asyncio
import time
from contextlib import suppress
from typing import Final

from raftsched.limits import (
    EXTERNAL_BESIDE_MS,
    EXTERNAL_LOOK_MS,
    EXTERNAL_LOOK_TIMEOUT_MS,
    EXTERNAL_START_MS,
    EXTERNAL_UNHEALTHY_MS,
    STUCK_MS,
)
from raftsched.pb.etcd import rpc_pb2
from raftsched.ports import Log
from raftsched.scheduler.bridge.external.caller import KV_RANGE, STATUS, Caller, stopping
from raftsched.scheduler.bridge.external.leases import Leases
from raftsched.scheduler.bridge.external.order import BESIDE, RANGES
from raftsched.scheduler.bridge.external.packing import split_header
from raftsched.scheduler.bridge.external.refusals import CallError
from raftsched.scheduler.bridge.external.watching import Watch
from raftsched.scheduler.jobs.names import LEADERSHIP

LOOK_BESIDE: Final = rpc_pb2.RangeRequest(key=RANGES[BESIDE][0], range_end=RANGES[BESIDE][1], limit=1).SerializeToString()
LOOK: Final = rpc_pb2.RangeRequest(key=LEADERSHIP, count_only=True).SerializeToString()
ALARMS: Final = ("NOSPACE", "CORRUPT")


class Condition:
    """`run` is a task."""

    def __init__(self, caller: Caller, watch: Watch, leases: Leases, log: Log) -> None:
        self._caller = caller
        self._watch = watch
        self._leases = leases
        self._log = log
        self._began_ms = self._good_ms = _now_ms()
        self._beside_ms = 0
        self.trouble = "not reached yet"
        """"" = none."""
        self._kind = "unknown"
        self.met = False
        self.version = ""

    @property
    def healthy(self) -> bool:
        """A short trouble is none; neither is an etcd that has never been reached, for a while (spec §10.2). A look that hangs is one
        that did not find it well."""
        now_ms = _now_ms()
        if not self.met:
            return now_ms - self._began_ms < EXTERNAL_START_MS
        return now_ms - self._good_ms < EXTERNAL_UNHEALTHY_MS

    def stuck(self, mono_ms: int) -> str:
        """What is wrong with an etcd that has not been found well for STUCK_MS; "" = it has. It is looked at each second."""
        if mono_ms - self._good_ms < STUCK_MS and self.met:
            return ""
        return f"the external etcd: {self.trouble or 'it does not answer'}"

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                if self._caller.endpoints.renew():
                    self._watch.restart()
                self._note(*await self._look())
            except BaseException as error:  # a fault of ours must not end the looks: it is trouble, too
                if stopping(error):
                    raise
                self._note("fault", repr(error))
            await asyncio.sleep(EXTERNAL_LOOK_MS / 1000)

    async def _look(self) -> tuple[str, str]:
        """What is wrong: of which kind, and in words; "" = nothing."""
        try:
            body = await self._caller.call(KV_RANGE, LOOK, again=True, timeout_ms=EXTERNAL_LOOK_TIMEOUT_MS)
        except CallError as error:
            return error.error.name, error.message  # in words members differ
        self._watch.seen(split_header(body)[0])
        await self._look_beside()
        try:
            status = rpc_pb2.StatusResponse.FromString(
                await self._caller.call(STATUS, b"", again=True, timeout_ms=EXTERNAL_LOOK_TIMEOUT_MS)
            )
        except CallError:
            return self._inner()  # a user need not be allowed to ask that; a read was answered
        self.version = status.version
        alarms = [text for text in status.errors if any(name in text for name in ALARMS)]
        return ("alarm", "; ".join(alarms)) if alarms else self._inner()

    async def _look_beside(self) -> None:
        """A watch that goes without some keys is opened anew when they may be read."""
        if not self._watch.bare or _now_ms() - self._beside_ms < EXTERNAL_BESIDE_MS:
            return
        self._beside_ms = _now_ms()
        with suppress(CallError):
            await self._caller.call(KV_RANGE, LOOK_BESIDE, timeout_ms=EXTERNAL_LOOK_TIMEOUT_MS)
            self._watch.restart()

    def _inner(self) -> tuple[str, str]:
        """What this process cannot do, though etcd answers."""
        watch = self._watch.trouble or self._watch.pace.lag
        return ("watch", watch) if watch else ("lease", self._leases.trouble)

    def _note(self, kind: str, trouble: str) -> None:
        self.trouble = trouble
        if not trouble:
            if self._kind:
                line = "etcd answers again" if self.met else "connected to etcd"
                self._log.info(line, at=self._caller.endpoints.address, version=self.version)
            self._kind = ""
            self.met = True
            self._good_ms = _now_ms()
        elif kind != self._kind:
            self._kind = kind
            self._log.warning(f"etcd is in trouble: {trouble}", at=self._caller.endpoints.address)


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
