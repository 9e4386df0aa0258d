"""The namespace controller (spec §8.1): follows the namespaces, and has the jobs of those that are gone removed.

It lives as long as the process, over the servers that come and go. Every replica has one, without election.
Invariant: jobs are removed only after the API server has said, asked for that very name, that there is no such namespace. A failure is
tried again for ever; the same one is told once in REPEAT_S. Must not know: where jobs are.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from raftsched.errors import StatusError
from raftsched.kube.api import KubeApi, KubeError
from raftsched.kube.namespaces import List, Namespaces, Watch
from raftsched.ports import Log

REPEAT_S: Final = 300.0
REMOVAL_S: Final = 30.0  # for the store to take one in
LOOK_S: Final = 60.0
AGAIN_S: Final = 10.0
Remove = Callable[[str], Awaitable[None]]


class NamespaceController:
    """`start` once, then `close`. `remove(namespace)` takes the jobs away; StatusError: not now."""

    def __init__(
        self, api: KubeApi, remove: Remove, log: Log, chance: Callable[[], float], *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._api = api
        self._remove = remove
        self._log = log
        self._now = now
        self._namespaces = Namespaces(chance)
        self._found = asyncio.Event()
        self._told: dict[str, tuple[str, float]] = {}  # by what was tried: the last line, and when
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def synced(self) -> bool:
        return self._namespaces.synced

    def start(self) -> None:
        """Once; afterwards it does nothing."""
        if not self._tasks:
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(self._forever(work)) for work in (self._follow, self._clear)]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _forever(self, work: Callable[[], Awaitable[None]]) -> None:
        """Nobody else would hear of what nobody has foreseen, and the process goes on."""
        while True:
            try:
                await work()
            except Exception as error:  # of any kind, for the same reason
                self._tell("controller", f"The namespace controller failed and begins again: {error!r}")
            await asyncio.sleep(AGAIN_S)

    # -- what there is

    async def _follow(self) -> None:
        known = self._namespaces
        while True:
            await asyncio.sleep(known.wait_s(self._now()))
            was_synced = known.synced
            try:
                await self._step(known.step(self._now()))
            except KubeError as error:
                if error.expired:
                    known.on_expired(self._now())
                else:
                    known.on_failed(self._now(), error.retry_s)
                    self._tell("namespaces", str(error))
            else:
                self._well("namespaces")
            if known.synced and not was_synced:
                self._log.info(f"Following {len(known)} namespaces")
            self._found.set()

    async def _step(self, step: List | Watch) -> None:
        known = self._namespaces
        if isinstance(step, List):
            page = await self._api.page(step.after)
            try:
                known.on_page(page.names, page.version, page.after, self._now())
            except ValueError as error:
                raise KubeError(f"cannot list namespaces: {error}") from None
            return
        async for event in self._api.watch(step.version, step.timeout_s):
            if not event.kind:
                self._well("namespaces")
                continue
            known.on_event(event.kind, event.name, event.version, self._now())
            if known.gone:
                self._found.set()
        known.on_watch_ended(self._now())

    # -- what has gone

    async def _clear(self) -> None:
        gone = self._namespaces.gone
        while True:
            self._found.clear()
            for name, since in gone.due(self._now()):
                await self._clear_one(name, since)
            wait_s = gone.wait_s(self._now())
            try:
                async with asyncio.timeout(LOOK_S if wait_s is None else wait_s):
                    await self._found.wait()
            except TimeoutError:
                continue

    async def _clear_one(self, name: str, since: float) -> None:
        gone, doing = self._namespaces.gone, f"jobs of {name}"
        try:
            if not await self._api.exists(name):
                self._log.info(f"Deleting jobs from deleted namespace {name}")
                async with asyncio.timeout(REMOVAL_S):
                    await self._remove(name)
        except (KubeError, StatusError, TimeoutError) as error:
            gone.on_failed(name, self._now())
            self._tell(doing, f"Jobs of the deleted namespace {name} cannot be deleted yet: {error or 'no answer in time'}")
        else:
            gone.on_done(name, since)
            self._told.pop(doing, None)

    # -- what is said

    def _tell(self, doing: str, line: str) -> None:
        said, when = self._told.get(doing, ("", 0.0))
        if said != line or self._now() - when >= REPEAT_S:
            self._told[doing] = line, self._now()
            self._log.error(line)

    def _well(self, doing: str) -> None:
        if self._told.pop(doing, None) is not None:
            self._log.info("The Kubernetes API answers again")
