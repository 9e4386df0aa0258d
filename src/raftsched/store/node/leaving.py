"""A member that leaves its cluster by its own wish: what it remembers of it, and what its removal means.

A member that somebody else removed must not come back by itself: it ends with a line. One that left may, later, as a new and empty member:
a StatefulSet that is scaled down keeps the volumes, and scales up again on them. LEFT (`backend/departure.py`) tells the two apart.

In the life in which it left the process just ends. In a later one that finds LEFT: if its removal is certain (its own applied membership
says so, or a peer's handshake) the data are set aside and a new incarnation begins without any; if the member still votes
some time later, the removal never happened, and LEFT goes.
Invariant: LEFT is on disk before the removal is proposed. Must not know: the pump; how a removal is proposed.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

from raftsched.errors import EtcdError, FatalError, GrpcCode, IncarnationOverError, NoSpaceError, StatusError, status_of
from raftsched.ports import Duties, Log
from raftsched.store.backend import departure

RETRY_S: Final = 1.0
NOT_PROPOSED: Final = frozenset(status_of(one).message for one in (EtcdError.UNHEALTHY, EtcdError.NOT_ENOUGH_STARTED_MEMBERS))
"""Refusals of a removal after which none can follow."""
REMOVED_LINE: Final = "this member was removed from the cluster: to join again, start with an empty data directory"
LEFT_LINE: Final = "this member has left the cluster: started again it joins as a new one, its data are set aside then"

Answer = TypeVar("Answer")


class Leaving:
    """Of one life of a member."""

    def __init__(
        self,
        directory: Path,
        member_id: int,
        cluster_id: int,
        *,
        is_member: Callable[[], bool],
        barrier: Callable[[], Awaitable[None]],
        doubt_ms: int,
        log: Log,
        wall_ms: Callable[[], int],
    ) -> None:
        """`is_member`: as applied here; `barrier`: done when everything committed before is applied, StatusError. `doubt_ms`: after it no
        proposal of a removal can still be on its way. Raises FatalError."""
        self._directory, self._identity = directory, (member_id, cluster_id)
        self._is_member, self._barrier, self._doubt_s = is_member, barrier, doubt_ms / 1000
        self._log, self._wall_ms = log, wall_ms
        self.duties: Duties | None = None
        self._asked = False  # in this life
        self._lock = asyncio.Lock()
        self._doubting: asyncio.Task[None] | None = None
        self._left = departure.read_left(directory)
        if self._left not in (None, self._identity):
            self._take_back("LEFT of another member was found in the directory and is removed")

    @property
    def left_before(self) -> bool:
        """Whether an earlier life wanted to go."""
        return self._left is not None and not self._asked

    async def leave(self, may_leave: Callable[[], Awaitable[None]], remove: Callable[[], Awaitable[Answer]]) -> Answer:
        """`remove` proposes the removal of this member and waits for it; `may_leave` asks first whether that would be done, and raises if
        not. Raises what they raise; StatusError: no LEFT.

        Its duties go before the removal: who is removed cannot say any more that it has given them up. They come back if it may stay a
        member, which is why it is asked before: who is refused again and again would hand them to and fro.
        """
        async with self._lock:
            await may_leave()
            before = (self._left, self._asked)
            self._write()
            try:
                if self.duties is not None:
                    await self.duties.give_away()
                return await remove()
            except BaseException as error:
                if self.duties is not None:
                    self.duties.take_up()
                if before[0] is None and isinstance(error, StatusError) and error.message in NOT_PROPOSED:
                    self._asked = before[1]
                    self._take_back("this member stays: its removal was refused")
                else:
                    self.doubt()
                raise

    def removed(self) -> FatalError | IncarnationOverError | NoSpaceError:
        """The removal is certain: how this life ends. To be called once."""
        if self._left is None:
            return FatalError(REMOVED_LINE)
        if self._asked:
            return FatalError(LEFT_LINE)
        try:
            folder = departure.begin_setting_aside(self._directory, self._wall_ms())
        except (FatalError, NoSpaceError) as error:
            return error
        return IncarnationOverError(f"this member has left its cluster: it sets its data aside in {folder} and begins anew")

    def doubt(self) -> None:
        """The removal may have happened, may still happen, or never will: looks again when nothing can be on its way any more."""
        if self._doubting is not None:
            self._doubting.cancel()
        self._doubting = asyncio.get_running_loop().create_task(self._look_later())

    def tick(self) -> None:
        """Now and then: an earlier life's wish is looked after."""
        if self.left_before and self._doubting is None:
            self.doubt()

    async def close(self) -> None:
        if self._doubting is not None:
            self._doubting.cancel()
            await asyncio.gather(self._doubting, return_exceptions=True)

    async def _look_later(self) -> None:
        await asyncio.sleep(self._doubt_s)
        while True:
            try:
                await self._barrier()
                break
            except StatusError:
                await asyncio.sleep(RETRY_S)
        async with self._lock:  # a new try to leave that fails ends this task, one that succeeds leaves no member
            if self._is_member():
                self._asked = False
                self._take_back("this member wanted to leave the cluster and was not removed: it goes on as a member")

    def _write(self) -> None:
        try:
            departure.write_left(self._directory, *self._identity)
        except (FatalError, NoSpaceError) as error:
            self._log.error("this member cannot leave", reason=str(error))
            code = GrpcCode.RESOURCE_EXHAUSTED if isinstance(error, NoSpaceError) else GrpcCode.INTERNAL
            raise StatusError(code, str(error)) from error
        self._left, self._asked = self._identity, True

    def _take_back(self, line: str) -> None:
        try:
            departure.remove_left(self._directory)
        except FatalError as error:
            self._log.error("a file cannot be removed", reason=str(error))
            return
        self._left = None
        self._log.warning(line)
