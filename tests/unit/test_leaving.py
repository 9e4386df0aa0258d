"""A member that left by its own wish: LEFT, the data that are set aside, and a kill between any two steps."""

import asyncio
import contextlib
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from test_node_cluster import One, Three, free_ports, until

from raftsched.errors import EtcdError, FatalError, GrpcCode, IncarnationOverError, StatusError, status_of
from raftsched.store.backend import departure, files
from raftsched.store.backend.directory import DataDirectory
from raftsched.store.membership import REMOVE_NODE
from raftsched.store.node import leaving
from raftsched.store.node.leaving import LEFT_LINE, REMOVED_LINE, Leaving

WALL_MS = 1_700_000_000_000
FOLDER = "left-20231114T221320Z"
ME = (0xA, 0xC)


class KilledError(BaseException):
    pass


class Guillotine:
    """Kills at the `at`-th step on the file system."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.at, self.count = at, 0
        for place, name in ((Path, "rename"), (Path, "unlink"), (Path, "mkdir"), (departure.shutil, "rmtree")):
            monkeypatch.setattr(place, name, self.step(getattr(place, name)))
        for place in (departure, files):
            monkeypatch.setattr(place, "sync_directory", self.step(files.sync_directory))

    def step(self, real: Callable) -> Callable:
        def call(*arguments, **options):
            if self.count == self.at:
                raise KilledError
            self.count += 1
            return real(*arguments, **options)

        return call


def fill(path: Path) -> dict[str, str]:
    """A directory as a member leaves it; its data by name."""
    DataDirectory(path, instance=None).close()
    own = path / "raftsched-1"
    data = {"wal/0.wal": "log", "snap/1.snap": "snapshot", "db.3/data.mdb": "database", "JOINING": "members"}
    for name, text in data.items():
        (own / name).parent.mkdir(exist_ok=True)
        (own / name).write_text(text)
    departure.write_left(own, *ME)
    return data


def look(own: Path, data: dict[str, str]) -> list[str]:
    """The folders with all the data; nothing else may hold any of them."""
    found = [one for one in own.glob("left-*") if all((one / name).is_file() for name in data)]
    for one in found:
        assert {name: (one / name).read_text() for name in data} == data
    return [one.name for one in found]


def test_what_was_left_is_set_aside_and_the_directory_is_empty(tmp_path: Path) -> None:
    data, own = fill(tmp_path), tmp_path / "raftsched-1"
    assert departure.begin_setting_aside(own, WALL_MS) == FOLDER
    directory = DataDirectory(tmp_path, instance=None)
    assert "were set aside" in directory.set_aside
    assert not directory.has_member
    assert look(own, data) == [FOLDER]
    assert departure.read_left(own) is None
    assert (own / FOLDER / "LEFT").stat().st_mode & 0o777 == 0o600
    assert {one.name for one in own.iterdir()} == {"LOCK", "VERSION", "wal", "snap", FOLDER}
    directory.close()
    directory = DataDirectory(tmp_path, instance=None)
    assert directory.set_aside == ""
    directory.close()


def test_a_wish_alone_changes_nothing(tmp_path: Path) -> None:
    fill(tmp_path)
    directory = DataDirectory(tmp_path, instance=None)
    assert directory.has_member
    assert directory.set_aside == ""
    assert departure.read_left(directory.path) == ME
    directory.close()


def test_a_kill_at_any_step_of_setting_aside_is_made_good_by_the_next_start(tmp_path: Path) -> None:
    at = 0
    while True:
        path = tmp_path / str(at)
        data, own = fill(path), path / "raftsched-1"
        (own / "left-20200101T000000Z").mkdir()
        (own / "left-20200101T000000Z" / "older").write_text("x")
        with pytest.MonkeyPatch.context() as patch:
            knife = Guillotine(patch, at)
            try:
                departure.begin_setting_aside(own, WALL_MS)
                departure.finish_setting_aside(own)
            except KilledError:
                pass
        begun = (own / departure.SETTING_ASIDE).exists() or not (own / "LEFT").exists()
        directory = DataDirectory(path, instance=None)
        if begun:
            assert look(own, data) == [FOLDER], at
            assert not directory.has_member, at
            assert not (own / departure.SETTING_ASIDE).exists()
            assert [one.name for one in own.glob("left-*")] == [FOLDER], at
        else:
            assert directory.has_member
            assert departure.read_left(own) == ME
            assert (own / "left-20200101T000000Z" / "older").exists(), "an older one goes last"
        directory.close()
        if knife.count < at:
            break
        at += 1
    assert at > 12


def test_older_data_go_only_when_the_newer_ones_are_in_place(tmp_path: Path) -> None:
    data, own = fill(tmp_path), tmp_path / "raftsched-1"
    for _ in range(3):
        departure.begin_setting_aside(own, WALL_MS)
        DataDirectory(tmp_path, instance=None).close()
        assert len(look(own, data)) == 1
        assert len(list(own.glob("left-*"))) == 1
        fill(tmp_path)


def test_a_kill_while_the_wish_is_written_leaves_all_or_nothing(tmp_path: Path) -> None:
    at = 0
    while True:
        own = tmp_path / str(at)
        own.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            knife = Guillotine(patch, at)
            with contextlib.suppress(KilledError):
                departure.write_left(own, *ME)
        assert departure.read_left(own) in (None, ME)
        if knife.count < at or at > 10:
            break
        at += 1
    assert departure.read_left(own) == ME


@pytest.mark.parametrize("content", [b"", b"junk", b"1", b"1 2 3", b"-1 2", b"1 caf\xc3", bytes(9)])
def test_a_damaged_wish_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "LEFT").write_bytes(content)
    with pytest.raises(FatalError, match=r"LEFT is damaged: .*remove the file to go on"):
        departure.read_left(tmp_path)
    (tmp_path / departure.SETTING_ASIDE).write_text("../elsewhere")
    with pytest.raises(FatalError, match="names no folder"):
        departure.finish_setting_aside(tmp_path)


# -- one life


class Lines:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def __getattr__(self, _level: str):
        return lambda message, **fields: self.lines.append(f"{message} {fields}")


class Life:
    """A `Leaving` whose cluster is two flags."""

    def __init__(self, path: Path, *, doubt_ms: int = 20) -> None:
        self.path, self.log = path, Lines()
        self.is_member, self.barrier_fails = True, 0
        self.leaving = Leaving(
            path, *ME, is_member=lambda: self.is_member, barrier=self.barrier, doubt_ms=doubt_ms, log=self.log, wall_ms=lambda: WALL_MS
        )

    async def barrier(self) -> None:
        if self.barrier_fails:
            self.barrier_fails -= 1
            raise status_of(EtcdError.NO_LEADER)

    async def leave(self, error: EtcdError | None = None) -> None:
        async def remove() -> None:
            assert departure.read_left(self.path) == ME, "the wish is on disk before the removal is proposed"
            if error:
                raise status_of(error)
            self.is_member = False

        await self.leaving.leave(self.may_leave, remove)

    async def may_leave(self) -> None:
        assert not self.leaving._asked or self.wish, "nothing is written before the answer"

    @property
    def wish(self) -> bool:
        return departure.read_left(self.path) is not None


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaving, "RETRY_S", 0.005)


async def test_who_left_ends_and_a_later_life_sets_the_data_aside(tmp_path: Path) -> None:
    life = Life(tmp_path)
    await life.leave()
    end = life.leaving.removed()
    assert (type(end), str(end)) == (FatalError, LEFT_LINE), "not in this life: the pod is about to end"
    later = Life(tmp_path)
    assert later.leaving.left_before
    assert isinstance(later.leaving.removed(), IncarnationOverError)
    assert (tmp_path / departure.SETTING_ASIDE).read_text() == FOLDER


async def test_whom_somebody_else_removed_ends_with_its_line(tmp_path: Path) -> None:
    end = Life(tmp_path).leaving.removed()
    assert (type(end), str(end)) == (FatalError, REMOVED_LINE)
    assert not (tmp_path / departure.SETTING_ASIDE).exists()


@pytest.mark.parametrize("error", [EtcdError.UNHEALTHY, EtcdError.NOT_ENOUGH_STARTED_MEMBERS])
async def test_a_refused_removal_takes_the_wish_back(tmp_path: Path, error: EtcdError) -> None:
    life = Life(tmp_path)
    with pytest.raises(StatusError):
        await life.leave(error)
    assert not life.wish
    assert str(life.leaving.removed()) == REMOVED_LINE


class Duty:
    def __init__(self) -> None:
        self.told: list[str] = []

    async def give_away(self) -> None:
        await asyncio.sleep(0)
        self.told.append("given away")

    def take_up(self) -> None:
        self.told.append("taken up")


@pytest.mark.parametrize("error", [None, EtcdError.UNHEALTHY, EtcdError.TIMEOUT])
async def test_duties_go_before_the_member_and_come_back_if_it_may_stay(tmp_path: Path, error: EtcdError | None) -> None:
    life, duty = Life(tmp_path), Duty()
    life.leaving.duties = duty

    async def remove() -> None:
        duty.told.append("removal proposed")
        if error:
            raise status_of(error)

    with nullcontext() if error is None else pytest.raises(StatusError):
        await life.leaving.leave(life.may_leave, remove)
    assert duty.told == ["given away", "removal proposed"] + ["taken up"] * (error is not None)
    await life.leaving.close()


async def test_who_may_not_leave_has_given_nothing_away(tmp_path: Path) -> None:
    life, duty = Life(tmp_path), Duty()
    life.leaving.duties = duty

    async def may_leave() -> None:
        raise status_of(EtcdError.UNHEALTHY)

    for _ in range(3):
        with pytest.raises(StatusError):
            await life.leaving.leave(may_leave, may_leave)
    assert (duty.told, life.wish) == ([], False)
    assert str(life.leaving.removed()) == REMOVED_LINE
    await life.leave()
    assert duty.told == ["given away"]


async def test_duties_come_back_if_the_caller_goes_away_meanwhile(tmp_path: Path) -> None:
    life, duty = Life(tmp_path), Duty()
    life.leaving.duties = duty
    duty.give_away = asyncio.Event().wait  # type: ignore[method-assign, assignment]
    task = asyncio.create_task(life.leave())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert life.is_member
    assert duty.told == ["taken up"]
    await life.leaving.close()


async def test_an_unknown_outcome_is_looked_at_again(tmp_path: Path) -> None:
    life = Life(tmp_path)
    with pytest.raises(StatusError):
        await life.leave(EtcdError.TIMEOUT)
    assert life.wish
    with pytest.raises(StatusError):
        await life.leave(EtcdError.UNHEALTHY)  # says nothing about the try before
    assert life.wish
    life.barrier_fails = 3
    await until(lambda: not life.wish)
    assert not life.barrier_fails
    assert str(life.leaving.removed()) == REMOVED_LINE


async def test_an_unknown_outcome_that_was_a_removal_after_all(tmp_path: Path) -> None:
    life = Life(tmp_path)
    with pytest.raises(StatusError):
        await life.leave(EtcdError.TIMEOUT)
    life.is_member = False
    await asyncio.sleep(0.1)
    assert life.wish
    assert str(life.leaving.removed()) == LEFT_LINE
    await life.leaving.close()


async def test_a_caller_that_goes_away_is_an_unknown_outcome(tmp_path: Path) -> None:
    life = Life(tmp_path)
    task = asyncio.create_task(life.leaving.leave(life.may_leave, asyncio.Event().wait))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert life.wish
    await until(lambda: not life.wish)


async def test_a_later_life_that_is_a_member_still_drops_the_wish_in_time(tmp_path: Path) -> None:
    departure.write_left(tmp_path, *ME)
    life = Life(tmp_path, doubt_ms=50)
    life.leaving.tick()
    life.leaving.tick()
    await asyncio.sleep(0.01)
    assert life.wish, "the removal may still be on its way"
    await until(lambda: not life.wish)
    assert any("was not removed" in line for line in life.log.lines)
    assert str(life.leaving.removed()) == REMOVED_LINE


async def test_the_wish_of_another_member_counts_for_nothing(tmp_path: Path) -> None:
    departure.write_left(tmp_path, 0xB, 0xC)
    life = Life(tmp_path)
    assert not life.wish
    assert not life.leaving.left_before


async def test_nobody_leaves_whose_wish_cannot_be_written(tmp_path: Path) -> None:
    life = Life(tmp_path)
    shutil.rmtree(tmp_path)
    with pytest.raises(StatusError) as caught:
        await life.leave()
    assert caught.value.code == GrpcCode.INTERNAL
    assert life.is_member


# -- whole members


async def back(one: One) -> None:
    """As a process would: each end of an incarnation is followed by another."""
    for _ in range(3):
        try:
            await one.start_anew()
        except IncarnationOverError:
            await asyncio.sleep(0.1)
        else:
            return
    raise AssertionError(one.log.lines)


async def lenient_three(path: Path) -> Three:
    three = Three(path)
    ports = dict(zip("abc", free_ports(3), strict=True))
    three.all = [One(path, name, ports, strict_reconfig_check=False) for name in ports]  # else a change waits for 5 s
    await three.start()
    return three


@pytest.mark.parametrize("wanted", [True, False])
def test_a_member_killed_before_it_heard_of_its_removal(tmp_path: Path, wanted: bool) -> None:
    """It wrote LEFT, proposed its removal and was killed; or somebody else removed it while it was down."""

    async def scenario() -> None:
        three = await lenient_three(tmp_path)
        one, other = three.all[0], three.all[2]
        own = tmp_path / "c" / "c" / "raftsched-1"
        old_id = other.node.member_id
        try:
            await other.node.stop()
            if wanted:
                departure.write_left(own, old_id, other.node.cluster_id)
            await one.node.change_members(REMOVE_NODE, old_id, (), is_learner=False)
            if wanted:
                await asyncio.wait_for(back(other), 30)
                assert other.node.member_id != old_id
                assert len(list(own.glob("left-*/wal/*.wal"))) >= 1
                assert not (await other.put(b"l"))[0]
            else:
                with pytest.raises(FatalError, match="was removed from the cluster: to join again"):
                    await asyncio.wait_for(other.start_anew(), 30)
                assert not list(own.glob("left-*"))
        finally:
            await three.stop()

    asyncio.run(scenario())


def test_a_member_that_is_refused_again_and_again_keeps_its_jobs(tmp_path: Path) -> None:
    """One of three is down: two left would be one too few without another. Leader and follower alike; then the third comes back."""

    async def scenario() -> None:
        three = Three(tmp_path)
        await three.start()
        leader, (follower, down) = three.leader, three.followers
        duties = {one.name: Duty() for one in three.all}
        for one in three.all:
            one.node.set_duties(duties[one.name])
        try:
            await down.node.stop()
            for one in (follower, leader) * 3:
                with pytest.raises(StatusError) as caught:
                    await one.node.leave()
                assert caught.value.message == status_of(EtcdError.UNHEALTHY).message
                assert departure.read_left(tmp_path / one.name / one.name / "raftsched-1") is None
            assert leader.leads
            assert not any(duty.told for duty in duties.values())
            await down.start_anew()
            for _ in range(100):
                with contextlib.suppress(StatusError):
                    await follower.node.leave()
                    break
                await asyncio.sleep(0.1)  # healthy is who has been connected for 5 s
            assert duties[follower.name].told == ["given away"]
            assert {one.name for one in leader.node.members()} == {leader.name, down.name}
        finally:
            await three.stop()

    asyncio.run(scenario())


def test_three_to_one_to_three_on_kept_directories(tmp_path: Path) -> None:
    async def scenario() -> None:
        three = await lenient_three(tmp_path)
        first, *others = three.all
        before = {one.name: one.node.member_id for one in three.all}
        try:
            for one in reversed(others):
                await one.node.leave()
                await until(lambda one=one: bool(one.fatal))
                assert one.fatal == [LEFT_LINE]
                await one.node.stop()
            assert [one.name for one in first.node.members()] == ["a"]
            assert not (await first.put(b"k"))[0]
            for one in others:
                await asyncio.wait_for(back(one), 30)
            assert {one.name: one.member_id for one in first.node.members()}.keys() == before.keys()
            for one in others:
                assert one.node.member_id != before[one.name]
                own = tmp_path / one.name / one.name / "raftsched-1"
                assert len(list(own.glob("left-*/wal/*.wal"))) >= 1
                assert departure.read_left(own) is None
                assert any("set aside" in line for line in one.log.lines), one.log.lines
                assert not (await one.put(b"l"))[0]
        finally:
            await three.stop()

    asyncio.run(scenario())


def test_a_wish_that_came_to_nothing_and_a_removal_by_somebody_else(tmp_path: Path) -> None:
    async def scenario() -> None:
        ports = dict(zip("a", free_ports(1), strict=True))
        lone = One(tmp_path, "a", ports)
        await lone.node.start()
        with pytest.raises(StatusError):
            await lone.node.leave()  # nobody would be left
        own = tmp_path / "a" / "a" / "raftsched-1"
        assert departure.read_left(own) is None
        assert not (await lone.put(b"k"))[0]
        member_id, cluster_id = lone.node.member_id, lone.node.cluster_id
        await lone.node.stop()
        departure.write_left(own, member_id, cluster_id)  # killed before it proposed anything
        await lone.start_anew()
        assert (lone.node.member_id, lone.node.revision) == (member_id, 2)
        await lone.node.stop()

    asyncio.run(scenario())
