"""Installing a snapshot: every step at which a kill may come, and what the next start makes of it."""

import asyncio
import hashlib
import shutil
import time
from pathlib import Path

import pytest

from raftsched.errors import CorruptError, FatalError, NoSpaceError
from raftsched.store import membership
from raftsched.store.backend._lmdb import Backend
from raftsched.store.backend.directory import DataDirectory
from raftsched.store.node.opening import Member, open_member
from raftsched.store.node.options import NodeOptions, SystemClock
from raftsched.store.node.receiving import RECEIVED, Receiving, install_received
from raftsched.store.snapshot import install, part
from raftsched.store.snapshot.install import Stored
from raftsched.store.snapshot.outgoing import Copy, send
from raftsched.store.snapshot.stream import Offer, Pace, Partial
from raftsched.store.wal.disk import RealDisk
from raftsched.store.wal.format import ConfState
from raftsched.store.wal.recovery import peek_mark
from raftsched.store.wal.segments import arrange
from raftsched.testing.bulk import pair
from raftsched.types import HardState, MemberInfo

OPTIONS = NodeOptions(data_dir="x", wal_segment_bytes=256 << 10)
ME = membership.make_member_id(OPTIONS.peer_urls, OPTIONS.cluster_token)
INDEX, TERM = 500, 4


def options(path: Path) -> NodeOptions:
    return NodeOptions(data_dir=str(path), wal_segment_bytes=OPTIONS.wal_segment_bytes)


def snapshot(path: Path, *, index: int = INDEX, term: int = TERM, version: bytes = b"new") -> Path:
    """A compacting copy of somebody's database."""
    backend = Backend(str(path / "theirs"))
    me = membership.encode_json(MemberInfo(ME, "", OPTIONS.peer_urls, ()))
    side = [("members", membership.bucket_key(ME), me), ("cluster", b"clusterVersion", version)]
    backend.commit(None, [], side, index, term)
    assert backend.wait(10_000)
    backend.completed()
    backend.start_copy(str(path / "copy"))
    assert backend.wait_bulk(10_000)
    backend.close()
    return path / "copy"


def old_member(path: Path, *, tail: list[tuple[int, bytes]] | None = None) -> None:
    """A member that has applied some entries, and whose log has an uncommitted tail [(term, data)]."""
    member = open_member(options(path), SystemClock())
    assert member.fresh
    log, backend = member.log, member.backend
    me = membership.encode_json(MemberInfo(ME, "", OPTIONS.peer_urls, ()))
    backend.commit(None, [], [("members", membership.bucket_key(ME), me), ("cluster", b"clusterVersion", b"old")], 1, 1)
    assert backend.wait(10_000)
    backend.completed()
    terms = [term for term, _ in tail or ()]
    if terms:
        assert log.wait_durable(log.append(HardState(max(terms), 0, 1), 2, terms, [data for _, data in tail or ()]), 10_000)
    member.close()


def receive(path: Path, copy: Path) -> Stored:
    """What `incoming` does, in one piece."""
    directory = DataDirectory(path, instance=None)
    try:
        file = install.prepare(directory, (copy / "data.mdb").stat().st_size, reserve_bytes=0)
        shutil.copy(copy / "data.mdb", file)
        return install.secure(directory)
    finally:
        directory.close()


def facts(member: Member) -> tuple[str, int, int, int, int]:
    kernel = member.replica.kernel
    return member.applier.membership.cluster_version, kernel.applied, kernel.commit, kernel.first_index, kernel.last_index


def opened(path: Path) -> tuple[tuple[str, int, int, int, int], str]:
    """What a start finds; it can go on from there, twice."""
    found = []
    for _ in range(2):
        member = open_member(options(path), SystemClock())
        found.append((facts(member), member.installed))
        names = {one.name for one in member.directory.path.iterdir() if one.name.startswith("db.")}
        assert names == {Path(member.backend.path).name}
        member.close()
    assert found[0][0] == found[1][0]
    assert found[1][1] == ""
    return found[0]


OLD = ("old", 1, 1, 2, 1)
NEW = ("new", INDEX, INDEX, INDEX + 1, INDEX)


class Killed(Exception):
    pass


def test_an_empty_member_takes_it_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "member"
    old_member(path)
    stored = receive(path, snapshot(tmp_path))
    assert stored == Stored(INDEX, TERM, ConfState(voters=(ME,)))
    member = open_member_without_finishing(path)
    line = install.install(member.directory, member.log, stored, log_holds_it=False)
    assert line.startswith(f"snapshot at entry {INDEX} of term {TERM} is in place in ")
    assert member.log.last_index == INDEX
    member.close()
    assert opened(path) == (NEW, "")
    member = open_member(options(path), SystemClock())
    assert (member.replica.kernel.term, member.mark_index) == (TERM, INDEX)
    batch = member.log.append(HardState(TERM + 1, ME, INDEX + 1), INDEX + 1, [TERM + 1], [b""])
    assert member.log.wait_durable(batch, 10_000)
    member.close()
    assert opened(path)[0] == ("new", INDEX, INDEX + 1, INDEX + 1, INDEX + 1)


def open_member_without_finishing(path: Path) -> Member:
    """A member that runs while it receives: the start came before the snapshot."""
    directory = DataDirectory(path, instance=None)
    incoming = directory.incoming_path
    aside = incoming.with_name("aside")
    directory.close()
    incoming.rename(aside)
    member = open_member(options(path), SystemClock())
    aside.rename(incoming)
    return member


STEPS = (
    "chunk",
    "received",
    "synced",
    "snap file",
    "mark appended",
    "mark synced",
    "part removed",
    "renamed",
    "directory synced",
    "old removed",
)


def killed_at(step: str, path: Path, copy: Path, monkeypatch: pytest.MonkeyPatch, *, holds: bool = False, remembered: bool = False) -> None:
    """Goes through an installation and leaves the directory as a kill right after `step` leaves it. `remembered`: what was received is kept
    for the next life."""

    def kill(*_arguments: object, **_more: object) -> None:
        raise Killed

    directory = DataDirectory(path, instance=None)
    data = (copy / "data.mdb").read_bytes()
    file = install.prepare(directory, len(data), reserve_bytes=0)
    came = data[: len(data) // 2] if step == "chunk" else data
    file.write_bytes(came)
    if remembered:
        partial = Partial(Offer(INDEX, TERM, len(data), hashlib.sha256(data).digest()))
        partial.took(came)
        part.write(file.parent, partial)
    if step in {"chunk", "received"}:
        directory.close()
        return
    stored = install.secure(directory)
    directory.close()
    if step == "synced":
        return
    member = open_member_without_finishing(path)
    if step == "snap file":
        monkeypatch.setattr(install, "mark", kill)
    elif step == "mark appended":
        monkeypatch.setattr(member.log.__class__, "wait_durable", kill)
    elif step == "mark synced":
        monkeypatch.setattr(install, "put_in_place", kill)
    elif step == "part removed":
        monkeypatch.setattr(member.directory.__class__, "name_incoming", kill)
    elif step == "renamed":
        monkeypatch.setattr("raftsched.store.backend.directory._sync", kill)
    try:
        install.install(member.directory, member.log, stored, log_holds_it=holds)
    except Killed:
        assert step not in {"directory synced", "old removed"}
    else:
        assert step in {"directory synced", "old removed"}
    if step == "old removed":
        shutil.rmtree(member.backend.path)
    monkeypatch.undo()
    member.close()


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("tail", [0, 1000], ids=["behind", "with a foreign tail"])
def test_a_kill_at_every_step(tmp_path: Path, step: str, tail: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "member"
    old_member(path, tail=[(2 + index // 600, b"foreign %d" % index * 20) for index in range(tail)])
    killed_at(step, path, snapshot(tmp_path), monkeypatch)
    found, line = opened(path)
    if STEPS.index(step) < STEPS.index("mark appended"):
        assert found == ("old", 1, 1, 2, 1 + tail)
        assert "was discarded" in line
    else:
        assert found == NEW
        assert ("was finished" in line) == (step in {"mark appended", "mark synced", "part removed"})


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_every_step_of_what_is_remembered(tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start finds the old state or the new one; beside the old one it keeps what came, and the stream goes on there to the new one."""
    path, copy = tmp_path / "member", snapshot(tmp_path)
    old_member(path)
    killed_at(step, path, copy, monkeypatch, remembered=True)
    if STEPS.index(step) >= STEPS.index("mark appended"):
        assert opened(path)[0] == NEW
        return
    for _ in range(2):  # a second start keeps it too
        member = open_member(options(path), SystemClock())
        assert facts(member) == OLD
        assert f"a snapshot at entry {INDEX} are kept" in member.installed
        member.close()
    member = open_member(options(path), SystemClock())
    got, counters = asyncio.run(sent_to(member, copy))
    size_bytes = (copy / "data.mdb").stat().st_size
    assert counters[RECEIVED] == (size_bytes - size_bytes // 2 if step == "chunk" else 0)
    assert "is in place" in install_received(member, got[0])
    member.close()
    assert opened(path) == (NEW, "")


def test_what_is_remembered_of_a_snapshot_that_is_too_old_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, copy = tmp_path / "member", snapshot(tmp_path)
    old_member(path)
    killed_at("chunk", path, copy, monkeypatch, remembered=True)
    monkeypatch.setattr(install, "stored_applied_index", lambda _path: INDEX)
    assert "was discarded" in open_and_close(path)


def open_and_close(path: Path) -> str:
    member = open_member(options(path), SystemClock())
    assert not member.directory.incoming_path.exists()
    member.close()
    return member.installed


async def sent_to(member: Member, copy: Path) -> tuple[list[Stored], dict[str, float]]:
    """One stream of the copy to that member: what it got, and its counters."""
    data, got = (copy / "data.mdb").read_bytes(), list[Stored]()
    offer = Offer(INDEX, TERM, len(data), hashlib.sha256(data).digest())
    one, other = pair(1, 2)
    receiving = Receiving(member, got.append, time.monotonic_ns, Quiet())
    sending = send(
        one, Copy(copy, Stored(INDEX, TERM, ConfState((ME,))), offer), pace=Pace(1 << 40), mono_ns=time.monotonic_ns, log=Quiet()
    )
    results = await asyncio.gather(sending, receiving.on_bulk(1, other), return_exceptions=True)
    streams = receiving.streams
    assert (streams.in_flight, streams.successes, streams.failures) == ({1: 0}, {1: len(got)}, {1: 1 - len(got)})
    assert (results[0] is None) == bool(got)
    return got, receiving.counters()


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_while_the_log_holds_the_entry(tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log stays, with what it has behind the snapshot."""
    path = tmp_path / "member"
    old_member(path, tail=[(TERM, b"entry %d" % index) for index in range(2, 601)])
    killed_at(step, path, snapshot(tmp_path), monkeypatch, holds=True)
    found, _ = opened(path)
    if STEPS.index(step) < STEPS.index("mark appended"):
        assert found == ("old", 1, 1, 2, 600)
    else:
        assert found == ("new", INDEX, INDEX, INDEX + 1, 600)


def test_a_mark_that_reached_the_disk_in_part(tmp_path: Path) -> None:
    """A power cut while the batch is written keeps any prefix: the old state or the new one."""
    path, copy = tmp_path / "member", snapshot(tmp_path)
    old_member(path, tail=[(2, b"foreign")])
    stored = receive(path, copy)
    member = open_member_without_finishing(path)
    [segment] = arrange(RealDisk(str(member.directory.wal_path)).sizes())
    file = member.directory.wal_path / segment.name
    before = file.read_bytes()
    install.mark(member.log, stored, log_holds_it=False)
    member.close()
    after = file.read_bytes()
    changed = [at for at in range(len(before)) if before[at] != after[at]]
    seen = set()
    for stop in range(changed[0], changed[-1] + 2):
        shutil.rmtree(tmp_path / "again", ignore_errors=True)
        shutil.copytree(path, tmp_path / "again")
        torn = tmp_path / "again" / file.relative_to(path)
        torn.write_bytes(after[:stop] + before[stop : len(after)])
        found, line = opened(tmp_path / "again")
        assert (found, "was finished" in line) in {(("old", 1, 1, 2, 2), False), (NEW, True)}
        seen.add(found)
    assert len(seen) == 2


def test_a_name_that_was_not_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power cut either name may be there: both lead to the new state."""
    path = tmp_path / "member"
    old_member(path)
    killed_at("renamed", path, snapshot(tmp_path), monkeypatch)
    own = path / "raftsched-1"
    shutil.copytree(path, tmp_path / "other")
    (tmp_path / "other" / "raftsched-1" / "db.1").rename(tmp_path / "other" / "raftsched-1" / "db.1.incoming")
    assert sorted(one.name for one in own.glob("db.*")) == ["db.0", "db.1"]
    assert opened(path) == (NEW, "")
    assert opened(tmp_path / "other")[0] == NEW


def test_what_does_not_belong_together_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "member"
    old_member(path)
    killed_at("mark synced", path, snapshot(tmp_path), monkeypatch)
    shutil.copytree(path, tmp_path / "without")
    shutil.rmtree(tmp_path / "without" / "raftsched-1" / "db.1.incoming")
    with pytest.raises(CorruptError, match="the snapshot at 500 is not in the store, which ends at 1"):
        open_member(options(tmp_path / "without"), SystemClock())
    (tmp_path / "b").mkdir()
    other = snapshot(tmp_path / "b", index=501)
    shutil.copy(other / "data.mdb", path / "raftsched-1" / "db.1.incoming" / "data.mdb")
    with pytest.raises(FatalError, match=r"mark is of entry 500, the snapshot in .* of 501"):
        open_member(options(path), SystemClock())
    assert (path / "raftsched-1" / "db.0").exists()


def test_kills_while_a_start_finishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "member"
    old_member(path)
    killed_at("mark synced", path, snapshot(tmp_path), monkeypatch)

    def kill(*_arguments: object) -> None:
        raise Killed

    for place in ("raftsched.store.snapshot.install.put_in_place", "raftsched.store.backend.directory._sync"):
        with monkeypatch.context() as patch:
            patch.setattr(place, kill)
            with pytest.raises(Killed):
                open_member(options(path), SystemClock())
    assert opened(path)[0] == NEW


def test_no_room_for_it(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path, instance=None)
    with pytest.raises(NoSpaceError, match=r"a snapshot needs \d+ bytes in .*, \d+ are free"):
        install.prepare(directory, 1 << 60, reserve_bytes=0)
    assert not directory.incoming_path.exists()
    first = install.prepare(directory, 10, reserve_bytes=0)
    first.write_bytes(b"half")
    assert install.prepare(directory, 10, reserve_bytes=0) == first
    assert not first.exists()  # it begins anew
    directory.close()


def test_a_defragment_meanwhile_takes_the_number(tmp_path: Path) -> None:
    """The received database gets a name above every other, whatever it was called while it was received."""
    path = tmp_path / "member"
    old_member(path)
    stored = receive(path, snapshot(tmp_path))
    member = open_member_without_finishing(path)
    assert member.directory.incoming_path.name == "db.1.incoming"
    member.directory.start_defragment(member.backend)
    assert member.backend.wait_bulk(10_000)
    member.backend.bulk_completed()
    shutil.rmtree(member.directory.finish_defragment(member.backend))
    install.install(member.directory, member.log, stored, log_holds_it=False)
    assert sorted(one.name for one in member.directory.path.glob("db.*")) == ["db.1", "db.2"]
    member.close()
    assert opened(path) == (NEW, "")


def test_a_mark_of_its_own_that_comes_behind_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1. A snapshot's mark is synced.  2. The rename fails.  3. A mark of the member's own, begun before, is written."""
    path = tmp_path / "member"
    old_member(path)
    stored = receive(path, snapshot(tmp_path))
    member = open_member_without_finishing(path)
    with monkeypatch.context() as patch:
        patch.setattr(DataDirectory, "name_incoming", lambda _self: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        with pytest.raises(FatalError, match=r"cannot name the snapshot in .*: Input/output error"):
            install.install(member.directory, member.log, stored, log_holds_it=False)
    install.mark(member.log, Stored(1, 1, ConfState((ME,))), log_holds_it=True)
    member.close()
    found, line = opened(path)
    assert found == NEW
    assert "was finished" in line


def test_an_ordinary_mark_finishes_nothing(tmp_path: Path) -> None:
    """A mark of the member's own is never above its database, so a half-received snapshot beside it is discarded."""
    path = tmp_path / "member"
    old_member(path)
    member = open_member(options(path), SystemClock())
    install.mark(member.log, Stored(1, 1, ConfState((ME,))), log_holds_it=True)
    member.close()
    assert peek_mark(RealDisk(str(path / "raftsched-1" / "wal"))).index == 1
    receive(path, snapshot(tmp_path))
    found, line = opened(path)
    assert found == OLD
    assert "was discarded" in line


def test_a_member_receives_installs_and_opens_anew(tmp_path: Path) -> None:
    """The whole way, once over a log that must go and once over one that holds the entry; then a snapshot that came too late."""
    copy = snapshot(tmp_path)
    for name, tail, last in (("foreign", [(2, b"foreign %d" % index) for index in range(700)], INDEX), ("same", None, 600)):
        path = tmp_path / name
        old_member(path, tail=tail or [(TERM, b"entry %d" % index) for index in range(2, 601)])
        member = open_member(options(path), SystemClock())
        [stored], _ = asyncio.run(sent_to(member, copy))
        assert "is in place" in install_received(member, stored)
        member.close()
        assert opened(path) == (("new", INDEX, INDEX, INDEX + 1, last), "")
        member = open_member(options(path), SystemClock())
        assert asyncio.run(sent_to(member, copy))[0] == []  # refused: it is committed here
        member.close()
        stored = receive(path, copy)
        member = open_member_without_finishing(path)
        assert install_received(member, stored) == ""
        assert not member.directory.incoming_path.exists()
        member.close()
        assert opened(path)[0][0] == "new"


class Quiet:
    def info(self, message: str, /, **fields: object) -> None:
        pass

    debug = warning = error = info
