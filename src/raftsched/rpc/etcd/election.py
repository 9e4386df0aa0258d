"""v3electionpb.Election (etcd-api §1.7): leaders that are keys; the recipes say how."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from raftsched.errors import STREAM_MALFORMED, EtcdError, GrpcCode, StatusError, status_of
from raftsched.pb.etcd.kv_pb2 import Event
from raftsched.pb.etcd.v3election_pb2 import CampaignRequest, LeaderRequest, ProclaimRequest, ResignRequest
from raftsched.ports import Stream, StreamHandler
from raftsched.rpc.etcd import recipes
from raftsched.rpc.etcd.calls import Door, parse
from raftsched.rpc.etcd.recipes import DONE, Answer, Follow, GoneError, Step, Tell, leader_response
from raftsched.rpc.etcd.streams import StreamCall
from raftsched.rpc.etcd.waiting import KeyWatch, Recipes

if TYPE_CHECKING:
    from raftsched.rpc.http2._h2 import Call

OBSERVE_PATH: Final = "/v3electionpb.Election/Observe"
TOO_MANY: Final = status_of(EtcdError.TOO_MANY_REQUESTS).message


class ElectionService:
    """Campaign, which waits; Proclaim, Leader, Resign; Observe, a stream."""

    def __init__(self, door: Door, running: Recipes) -> None:
        self._running = running
        door.cold("/v3electionpb.Election/Campaign", self._campaign)
        door.cold("/v3electionpb.Election/Proclaim", self._proclaim)
        door.cold("/v3electionpb.Election/Leader", self._leader)
        door.cold("/v3electionpb.Election/Resign", self._resign)
        door.engine.add_stream(OBSERVE_PATH, self._observe)

    async def _campaign(self, call: "Call", message: bytes) -> bytes:
        request = parse(CampaignRequest, message)
        return await self._running.run(recipes.campaign(request.name, request.lease, request.value), call)

    async def _proclaim(self, call: "Call", message: bytes) -> bytes:
        request = parse(ProclaimRequest, message)
        leader = request.leader if request.HasField("leader") else None
        return await self._running.run(recipes.proclaim(leader, request.value), call)

    async def _leader(self, call: "Call", message: bytes) -> bytes:
        return await self._running.run(recipes.leader_of(parse(LeaderRequest, message).name), call)

    async def _resign(self, call: "Call", message: bytes) -> bytes:
        request = parse(ResignRequest, message)
        return await self._running.run(recipes.resign(request.leader if request.HasField("leader") else None), call)

    def _observe(self, stream: Stream, path: str) -> StreamHandler:
        return Observation(self._running, stream)


class Observation(StreamCall):
    """One Observe stream. The hub keeps what a client does not read: it is read from history when there is room again."""

    def __init__(self, running: Recipes, stream: Stream) -> None:
        super().__init__(running.door, stream, running.door.stats.method(OBSERVE_PATH, "server_stream"))
        self._running = running
        self._room = asyncio.Event()
        self._room.set()
        self._watch: KeyWatch | None = None
        self.admit()

    # -- StreamHandler

    def on_messages(self, messages: Sequence[bytes]) -> None:
        if self._over:
            return
        if self._task is not None or len(messages) > 1:
            self.finish(int(GrpcCode.INTERNAL), "grpc: received more than one request of a server-streaming call")
            return
        self._stats.received += 1
        try:
            request = parse(LeaderRequest, messages[0], STREAM_MALFORMED)
            self._running.enter()
        except StatusError as error:
            self.finish(int(error.code), error.message)
            return
        self._task = self._door.spawn(self._observe(request.name))
        self._task.add_done_callback(lambda _: self._running.leave())

    def on_half_close(self) -> None:
        if self._task is None:
            self.finish(int(GrpcCode.INTERNAL), "grpc: a server-streaming call without a request")

    def on_writable(self) -> None:
        self._room.set()
        if self._watch is not None:
            self._watch.on_writable()

    # -- the recipe

    async def _observe(self, name: bytes) -> None:
        """A failed look, or history that is compacted, ends the stream with OK, as in etcd: the client begins anew. Not so a stop, and a
        full bound: elsewhere, or later."""
        try:
            recipe = recipes.observe(name)
            step = next(recipe)
            while True:
                step = recipe.send(await self._perform(step))
        except StatusError as error:
            told = isinstance(error, GoneError) or error.message == TOO_MANY
            self.finish(int(error.code) if told else 0, error.message if told else "")

    async def _perform(self, step: Step) -> Answer:
        if isinstance(step, Tell):
            self._push(step.message)
            await self._room.wait()
            return DONE
        if isinstance(step, Follow):
            await self._follow(step)
            return DONE
        return await self._running.perform(step, self._stream)

    async def _follow(self, step: Follow) -> None:
        header = self._door.node.header

        def on_event(event: Event, revision: int) -> bool:
            if event.type == Event.DELETE:
                watch.end()
                return True
            return self._push(leader_response(header(revision), event.kv))

        watch = self._watch = self._running.watch(on_event)
        try:
            await watch.over(step.key, b"", step.after)
        finally:
            self._watch = None
            self._running.unwatch(watch)

    def _push(self, message: bytes) -> bool:
        if self._over:
            return True
        self._stats.sent += 1
        if not self._stream.push(message):
            self._room.clear()
        return self._room.is_set()
