"""v3lockpb.Lock (etcd-api §1.7): locks that are keys; the recipes say how."""

from typing import TYPE_CHECKING

from raftsched.pb.etcd.v3lock_pb2 import LockRequest, UnlockRequest
from raftsched.rpc.etcd import recipes
from raftsched.rpc.etcd.calls import Door, parse
from raftsched.rpc.etcd.waiting import Recipes

if TYPE_CHECKING:
    from raftsched.rpc.http2._h2 import Call


class LockService:
    """Lock, which waits, and Unlock."""

    def __init__(self, door: Door, running: Recipes) -> None:
        self._running = running
        door.cold("/v3lockpb.Lock/Lock", self._lock)
        door.cold("/v3lockpb.Lock/Unlock", self._unlock)

    async def _lock(self, call: "Call", message: bytes) -> bytes:
        request = parse(LockRequest, message)
        return await self._running.run(recipes.lock(request.name, request.lease), call)

    async def _unlock(self, call: "Call", message: bytes) -> bytes:
        return await self._running.run(recipes.unlock(parse(UnlockRequest, message).key), call)
