"""Runs the recipes of locks and elections: steps become proposals, reads and watches of this member's hub (no timers, no polling).

Invariant: a recipe is driven to its end also when its client is gone, so that a place in line is given up; at a stop of the server all that
wait are told so at once. Must not know: what a recipe is for.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from raftsched.errors import EtcdError, GrpcCode, StatusError, status_of
from raftsched.limits import RECIPES_RUNNING_MAX
from raftsched.pb.etcd.kv_pb2 import Event
from raftsched.pb.etcd.rpc_pb2 import DeleteRangeRequest, LeaseGrantRequest, WatchResponse
from raftsched.proposals import DELETE_RANGE, LEASE_GRANT, TXN
from raftsched.rpc.etcd.access import Caller
from raftsched.rpc.etcd.calls import Door
from raftsched.rpc.etcd.recipes import (
    DONE,
    Answer,
    Appearance,
    Delete,
    Deletion,
    GoneError,
    Grant,
    Read,
    Recipe,
    Step,
    Txn,
    Undo,
    prefix_end,
)
from raftsched.store.watch.hub import WatchHub
from raftsched.types import NOBODY

CLIENT_GONE: Final = "context canceled"
OnEvent = Callable[[Event, int], bool]
"""(event, revision of the answer that brought it): whether there is room for more."""


class Recipes:
    """The recipes that run on one door. `hub` watches for them."""

    def __init__(self, door: Door, hub: WatchHub) -> None:
        self.door = door
        self.hub = hub
        self.running = 0
        self._watches: set[KeyWatch] = set()
        self._stopped = False

    # -- one call

    async def run(self, recipe: Recipe, caller: Caller) -> bytes:
        """The response; each step is `caller`'s, who is looked up anew: a token may end while it waits. Raises `StatusError`, with the code
        Unknown whatever it was: etcd's services get the errors that its client makes of the store's, of which only the text is sent."""
        self.enter()
        try:
            return await self._drive(recipe, caller, None)
        except asyncio.CancelledError:
            self.running += 1  # what is left to do counts, too
            self.door.spawn(self._abandon(recipe, caller))
            raise
        except GoneError:
            raise
        except StatusError as error:
            raise StatusError(GrpcCode.UNKNOWN, error.message) from error
        finally:
            self.leave()

    def enter(self) -> None:
        """One more recipe runs. Raises `StatusError` when that is one too many, or the server stops."""
        if self._stopped:
            raise status_of(EtcdError.STOPPED)
        if self.running >= RECIPES_RUNNING_MAX:
            raise status_of(EtcdError.TOO_MANY_REQUESTS)
        self.running += 1

    def leave(self) -> None:
        self.running -= 1

    def stop(self) -> None:
        """No recipe waits any longer for somebody else's key, or begins; those that did give up their places."""
        self._stopped = True
        for watch in self._watches:
            watch.end(EtcdError.STOPPED)

    # -- steps

    async def perform(self, step: Step, caller: Caller) -> Answer:
        """Raises `StatusError`."""
        if isinstance(step, Deletion):
            await self.wait_event(step.key, b"", step.after, Event.DELETE)
            return DONE
        if isinstance(step, Appearance):
            event = await self.wait_event(step.prefix, prefix_end(step.prefix), step.after, Event.PUT)
            revision = event.kv.mod_revision
            return Answer(self.door.node.header(revision), revision, event.kv.SerializeToString())
        access = self.door.access
        if isinstance(step, Read):
            return self._answer(await self.door.read(step.request.SerializeToString(), await access.identify(caller)))
        if isinstance(step, Grant):
            request = LeaseGrantRequest(TTL=step.ttl_s, ID=self.door.node.next_lease_id())
            return self._answer(await self.door.propose(LEASE_GRANT, request.SerializeToString(), await access.known(caller)))
        if isinstance(step, Undo):
            return await self._write(step.step, None)
        if isinstance(step, Txn | Delete):
            return await self._write(step, caller)
        raise TypeError(f"a step of a stream: {step}")

    async def _write(self, step: Txn | Delete, caller: Caller | None) -> Answer:
        """None: nobody's."""
        mvcc = self.door.node.mvcc
        if isinstance(step, Txn):
            kind, message, check = TXN, step.request.SerializeToString(), mvcc.check_txn
        else:
            kind, message, check = DELETE_RANGE, DeleteRangeRequest(key=step.key).SerializeToString(), mvcc.check_delete_range
        if error := check(message):
            raise status_of(error)
        who = NOBODY if caller is None else await self.door.access.identify(caller)
        return self._answer(await self.door.propose(kind, message, who))

    def _answer(self, result: tuple[int, int, bytes]) -> Answer:
        _, revision, body = result
        return Answer(self.door.node.header(revision), revision, body)

    async def wait_event(self, key: bytes, end: bytes, after: int, kind: int) -> Event:
        """The first change of that kind behind revision `after`. Raises `StatusError`."""
        found: list[Event] = []

        def on_event(event: Event, revision: int) -> bool:
            if event.type == kind and not found:
                found.append(event)
                watch.end()
            return True

        watch = self.watch(on_event)
        try:
            await watch.over(key, end, after)
        finally:
            self.unwatch(watch)
        return found[0]

    def watch(self, on_event: OnEvent) -> "KeyWatch":
        """To be given back to `unwatch`."""
        watch = KeyWatch(self.hub, on_event)
        self._watches.add(watch)
        if self._stopped:
            watch.end(EtcdError.STOPPED)
        return watch

    def unwatch(self, watch: "KeyWatch") -> None:
        self._watches.discard(watch)
        watch.close()

    # -- driving

    async def _drive(self, recipe: Recipe, caller: Caller, error: StatusError | None) -> bytes:
        """From where `recipe` stands, with `error` thrown first; what it returns or raises."""
        step: Step | None = None
        answer = DONE
        while True:
            try:
                step = next(recipe) if step is None and error is None else recipe.throw(error) if error else recipe.send(answer)
            except StopIteration as end:
                response: bytes = end.value
                return response
            error = None
            try:
                answer = await self.perform(step, caller)
            except StatusError as failed:
                error = failed

    async def _abandon(self, recipe: Recipe, caller: Caller) -> None:
        try:
            await self._drive(recipe, caller, GoneError(GrpcCode.CANCELLED, CLIENT_GONE))
        except StatusError:
            return  # nobody is there to be told
        finally:
            self.leave()


class KeyWatch:
    """A WatchSink for one watch, whose events go to `on_event` until it is told to end."""

    def __init__(self, hub: WatchHub, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._ended: asyncio.Future[EtcdError] = asyncio.get_running_loop().create_future()
        self._watches = hub.open(self)

    async def over(self, key: bytes, end: bytes, after: int) -> None:
        """Watches from behind revision `after`; done when it was told to end. Raises `StatusError`: that was for a reason."""
        if not self._ended.done():
            self._watches.create(key, end, start_revision=after + 1)
        error = await self._ended
        if error == EtcdError.STOPPED:
            raise GoneError(GrpcCode.UNAVAILABLE, status_of(error).message)
        if error:
            raise status_of(error)

    def end(self, error: EtcdError = EtcdError.OK) -> None:
        if not self._ended.done():
            self._ended.set_result(error)

    def on_writable(self) -> None:
        self._watches.on_writable()

    def close(self) -> None:
        self._watches.close()

    def send(self, revision: int, body: bytes) -> bool:
        """Of the hub. It may be in the midst of its watchers: nothing is closed here."""
        answer = WatchResponse.FromString(body)
        if answer.canceled:
            self.end(EtcdError.COMPACTED if answer.compact_revision else EtcdError.TOO_MANY_REQUESTS)
        room = True
        for event in answer.events:
            if self._ended.done():
                break
            room = self._on_event(event, revision)
        return room
