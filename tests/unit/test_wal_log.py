"""The open log on a real directory: group commit, segments, retention, space, errors."""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raftsched.errors import CorruptError, FatalError
from raftsched.store.wal.disk import RealDisk
from raftsched.store.wal.format import ConfState, Metadata, SnapshotMark, encode_mark, parse_segment_name, segment_name
from raftsched.store.wal.log import Log, open_log
from raftsched.store.wal.recovery import Recovered, recover
from raftsched.store.wal.segments import Segment, arrange, droppable
from raftsched.types import HardState

METADATA = Metadata(node_id=7, cluster_id=9)
SMALL = {"segment_bytes": 64 << 10, "zero_ahead_bytes": 8 << 10, "reserve_bytes": 16 << 10}


def until(condition: Callable[[], bool], what: str) -> None:
    """Waits for another thread; the log has no clock to move."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.002)


def append(log: Log, first: int, datas: list[bytes], term: int = 1, state: HardState | None = None) -> None:
    batch = log.append(state, first, [term] * len(datas), datas)
    assert log.wait_durable(batch, 20_000)
    assert log.completed() == batch


def reopen(path: Path, **options: int) -> tuple[Log, Recovered]:
    return open_log(str(path), metadata=METADATA, **{**SMALL, **options})


def test_what_is_durable_is_there_after_reopening(tmp_path: Path) -> None:
    log, recovered = reopen(tmp_path)
    assert (recovered.hard_state, recovered.datas, recovered.mark) == (None, [], SnapshotMark(index=0, term=0))
    append(log, 1, [b"a", b""], state=HardState(1, 7, 0))
    append(log, 3, [b"c" * 300_000], state=HardState(1, 7, 2))  # by reference, and larger than a segment
    batch = log.append(
        HardState(2, 7, 3), 4, [2, 2], [b"conf", b"normal"], types=[1, 0], mark=encode_mark(SnapshotMark(3, 1, ConfState((7,))))
    )
    assert batch == 3
    log.close()  # writes out what is queued
    log.close()
    with pytest.raises(FatalError, match="closed"):
        log.append(None, 6, [2], [b"x"])
    log, recovered = reopen(tmp_path, after_index=1)
    assert recovered.hard_state == HardState(2, 7, 3)
    assert (recovered.first_index, recovered.terms, recovered.datas) == (2, [1, 1, 2, 2], [b"", b"c" * 300_000, b"conf", b"normal"])
    assert (recovered.types, recovered.base_term) == ({2: 1}, 1)
    assert recovered.mark == SnapshotMark(3, 1, ConfState((7,)))
    append(log, 4, [b"replaced"], term=3)
    log.close()
    log, recovered = reopen(tmp_path, after_index=3)
    assert (recovered.terms, recovered.datas, recovered.types) == ([3], [b"replaced"], {})
    log.close()


def test_batches_that_wait_share_one_sync(tmp_path: Path) -> None:
    log, _ = open_log(str(tmp_path), metadata=METADATA)
    for index in range(1, 2001):
        log.append(None, index, [1], [b"x" * 100])
    assert log.wait_durable(2000, 20_000)
    assert log.completed() == 2000
    assert log.sync_count < 1000
    assert log.queued_bytes == 0
    log.close()


def test_bad_batches_are_refused_and_change_nothing(tmp_path: Path) -> None:
    log, _ = reopen(tmp_path)
    append(log, 1, [b"a"])
    for arguments, error in [
        ((None, 3, [1], [b"gap"]), ValueError),
        ((None, 0, [1], [b"zero"]), ValueError),
        ((None, 2, [1, 1], [b"one"]), ValueError),
        ((None, 2, [0], [b"term"]), ValueError),
        ((None, 2, [], []), ValueError),
        ((None, 2, [1], ["text"]), TypeError),
        ((None, 2, [1, -1], [b"a", b"b"]), OverflowError),
        ((HardState(1, -1, 0), 2, [1], [b"a"]), OverflowError),
    ]:
        with pytest.raises(error):
            log.append(*arguments)
    with pytest.raises(ValueError, match="type"):
        log.append(None, 2, [1], [b"a"], types=[3])
    append(log, 2, [b"b"])
    log.close()
    assert reopen(tmp_path)[1].datas == [b"a", b"b"]


def test_segments_rotate_and_are_let_go(tmp_path: Path) -> None:
    log, _ = reopen(tmp_path, keep_segments=2)
    index = 1
    for _ in range(300):
        append(log, index, [os.urandom(1000)], state=HardState(1, 7, index - 1))
        index += 1
        until(lambda: log.no_space or log.room_bytes > 8 << 10, "room")
    names = sorted(name for name in os.listdir(tmp_path) if parse_segment_name(name))
    assert len(names) >= 4
    sequences = [parse_segment_name(name) for name in names]
    assert [numbers[0] for numbers in sequences if numbers] == list(range(len(names)))
    gone = log.release(applied_index=index - 1, mark_index=index - 1)
    assert gone == names[:-3]  # of the droppable ones two stay, and the one in use
    assert log.release(applied_index=index - 1, mark_index=index - 1) == []
    until(lambda: not log.drops_pending, "drops")
    assert sorted(name for name in os.listdir(tmp_path) if parse_segment_name(name)) == names[-3:]
    log.close()
    log, recovered = reopen(tmp_path, after_index=200)
    assert recovered.last_index == index - 1
    assert len(recovered.datas) == index - 1 - 200
    assert recovered.hard_state == HardState(1, 7, index - 2)
    with pytest.raises(CorruptError, match="begins at entry"):
        reopen(tmp_path, after_index=5)
    log.close()


def segments_of(*first_indexes: int, size: int = 100) -> list[Segment]:
    return [Segment(number, first, segment_name(number, first), size) for number, first in enumerate(first_indexes)]


@pytest.mark.parametrize(
    ("to_index", "keep_count", "keep_bytes", "dropped"),
    [
        (100, 1, 10_000, 3),
        (100, 0, 10_000, 0),  # 0 = all stay
        (100, 0, 250, 3),  # but not more than the space bound allows
        (100, 9, 10_000, 0),
        (100, 9, 0, 4),  # the one in use never goes
        (29, 1, 10_000, 1),  # entries 20..29 end with the second one
        (28, 1, 0, 1),
        (0, 1, 0, 0),
    ],
)
def test_which_segments_go(to_index: int, keep_count: int, keep_bytes: int, dropped: int) -> None:
    segments = segments_of(0, 20, 30, 40, 50)
    going = droppable(segments, to_index=to_index, keep_count=keep_count, keep_bytes=keep_bytes)
    assert going == segments[:dropped]


def test_only_segment_names_count() -> None:
    name = segment_name(0, 0)
    assert [s.name for s in arrange([("reserve", 5), (name, 7), ("spare.1.tmp", 1), (name.upper().replace("WAL", "wal") + "x", 1)])] == [
        name
    ]


def test_fresh_log_is_small_and_private(tmp_path: Path) -> None:
    log, _ = open_log(str(tmp_path), metadata=METADATA)
    append(log, 1, [b"x"])
    until(lambda: log.reserve_ready and log.room_bytes >= 4 << 20, "preparation")
    sizes = {name: (tmp_path / name).stat() for name in os.listdir(tmp_path)}
    assert sum(stat.st_size for stat in sizes.values()) <= 20 << 20
    assert {stat.st_mode & 0o777 for stat in sizes.values()} == {0o600}
    log.close()


def test_unfinished_segments_are_thrown_away(tmp_path: Path) -> None:
    log, _ = reopen(tmp_path)
    append(log, 1, [b"x"])
    log.close()
    (tmp_path / "spare.0000000000000001.tmp").write_bytes(b"junk")
    log, recovered = reopen(tmp_path)
    assert recovered.datas == [b"x"]
    assert "spare.0000000000000001.tmp" not in os.listdir(tmp_path)
    log.close()


def test_a_flipped_bit_is_refused_wherever_it_is_and_clears_nothing_behind(tmp_path: Path) -> None:
    """Each byte of the log, the start of a batch as well as its body: what is behind it was acknowledged."""
    for name in ("log", "flipped"):
        (tmp_path / name).mkdir()
    log, _ = reopen(tmp_path / "log")
    for first in range(1, 9):
        append(log, first, [b"entry %d" % first])
    end = len((tmp_path / "log" / segment_name(0, 0)).read_bytes().rstrip(b"\0"))
    append(log, 9, [b"the last batch"])
    log.close()
    sound = (tmp_path / "log" / segment_name(0, 0)).read_bytes()
    for offset in range(end):
        disk = RealDisk(str(tmp_path / "flipped"))
        (tmp_path / "flipped" / segment_name(0, 0)).write_bytes(sound[:offset] + bytes([sound[offset] ^ 0x40]) + sound[offset + 1 :])
        try:
            assert len(recover(disk, after_index=0).datas) == 9, offset  # padding
        except CorruptError:
            assert (tmp_path / "flipped" / segment_name(0, 0)).read_bytes()[offset + 1 :] == sound[offset + 1 :]


def test_log_of_another_member_is_refused(tmp_path: Path) -> None:
    reopen(tmp_path)[0].close()
    with pytest.raises(CorruptError, match="belongs to member 7 of cluster 9"):
        open_log(str(tmp_path), metadata=Metadata(node_id=8, cluster_id=9), **SMALL)
    with pytest.raises(FatalError, match="cannot read"):
        open_log(str(tmp_path / "nowhere"), metadata=METADATA)


# --------------------------------------------------------------------------------------------------------------------
# A full disk
# --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """32 MiB of tmpfs."""
    where = tmp_path / "small"
    where.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(where)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


def privileged_room(log: Log) -> list[bool]:
    """Looked at often: what is turned into zeros counts, and who is refused once is refused until space is freed."""
    stop, found = time.monotonic() + 0.02, list[bool]()
    while not found or time.monotonic() < stop:
        found.append(log.has_room(1 << 16, privileged=True))
    return found


@contextlib.contextmanager
def slow_threads() -> Iterator[None]:
    """All other threads of this process share this one's processor, and get little of it."""
    processors = os.sched_getaffinity(0)
    threads = [int(one.name) for one in Path("/proc/self/task").iterdir() if int(one.name) != threading.get_native_id()]
    for thread in threads:
        os.setpriority(os.PRIO_PROCESS, thread, 19)
        os.sched_setaffinity(thread, {min(processors)})
    os.sched_setaffinity(0, {min(processors)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, processors)


def test_a_reserve_that_becomes_zeros_counts_meanwhile(small_disk: Path) -> None:
    """All of it is turned at once, so that what is turned is all there is; before, a delete could be refused for those milliseconds."""
    log, _ = open_log(str(small_disk), metadata=METADATA, zero_ahead_bytes=8 << 20, reserve_bytes=(9 << 20) + (64 << 10))
    until(lambda: log.reserve_ready and log.room_bytes >= 8 << 20, "preparation")
    with (small_disk / "other").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(64 << 10)):
            pass
    index, refused = 1, 0
    with slow_threads():
        while log.reserve_ready or log.room_bytes < 4 << 20:
            if log.reserve_ready and log.room_bytes >= 128 << 10:  # never more than there is, however late the preparer comes
                log.append(HardState(1, 7, index - 1), index, [1], [bytes(128 << 10)])
                index += 1
            stop = time.monotonic() + 0.01
            while time.monotonic() < stop:
                refused += not log.has_room(7 << 20, privileged=True)
            assert index < 600
    assert refused == 0
    log.close()


def test_full_disk_refuses_spends_the_reserve_and_recovers(small_disk: Path) -> None:
    log, _ = open_log(str(small_disk), metadata=METADATA)
    until(lambda: log.reserve_ready and log.room_bytes >= 4 << 20, "preparation")
    assert log.has_room()
    other = small_disk / "other"
    index = 1

    def put(count: int, size: int = 64 << 10) -> None:
        nonlocal index
        for _ in range(count):
            append(log, index, [bytes([index & 255]) * size], state=HardState(1, 7, index - 1))
            index += 1

    put(16)
    with other.open("wb", buffering=0) as file, contextlib.suppress(OSError):  # somebody else takes the rest
        while file.write(bytes(64 << 10)):
            pass
    while log.has_room(1 << 16):
        put(1)
        assert index < 600
    assert log.has_room(1 << 16, privileged=True)
    assert log.reserve_ready
    privileged = 0
    looks: list[bool] = []
    while all(found := privileged_room(log)):  # deletes and compaction go on: into the last zeros, then into the reserve
        put(1)
        privileged += 1
        assert privileged < 600
        assert not log.has_room(1 << 16)
    for _ in range(10):
        looks += privileged_room(log)
    assert not any(found[found.index(False) :] + looks), "refused for a moment"
    assert log.no_space
    assert privileged * (1 << 16) > 8 << 20
    until(lambda: not log.reserve_ready, "the reserve is spent")
    before = log.completed()
    stuck = log.append(HardState(1, 7, index - 1), index, [1], [b"waits" * 400_000])  # 2 MB into nothing
    until(lambda: log.stalled, "a batch that finds no room waits")
    assert log.completed() == before  # no error, and not durable
    other.unlink()
    assert log.wait_durable(stuck, 20_000)
    until(lambda: log.reserve_ready and not log.no_space and log.has_room(), "all is well again")
    assert not log.stalled
    log.close()
    log, recovered = open_log(str(small_disk), after_index=0)
    assert recovered.last_index == index
    assert recovered.datas[:-1] == [bytes([n & 255]) * (64 << 10) for n in range(1, index)]
    assert recovered.datas[-1] == b"waits" * 400_000
    log.close()


def test_closing_with_a_batch_that_finds_no_room_says_so(small_disk: Path) -> None:
    log, _ = open_log(str(small_disk), metadata=METADATA, zero_ahead_bytes=64 << 10, reserve_bytes=64 << 10)
    until(lambda: log.reserve_ready, "preparation")
    log.append(None, 1, [1], [bytes(64 << 20)])
    until(lambda: log.stalled, "stalled")
    with pytest.raises(FatalError, match=r"no space for the last writes to 0{16}-0{16}\.wal: No space left"):
        log.close()
    assert open_log(str(small_disk))[1].datas == []


# --------------------------------------------------------------------------------------------------------------------
# Failing calls, injected below the log; and kills
# --------------------------------------------------------------------------------------------------------------------

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/uio.h>
static int countdown(const char *name, int *left) {
    if (!*left) { const char *text = getenv(name); *left = text ? atoi(text) : -1; }
    return *left > 0 && --*left == 0 ? (*left = -1, 1) : 0;
}
int fdatasync(int fd) {
    static int left;
    if (countdown("FAIL_SYNC", &left)) { errno = EIO; return -1; }
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
}
int fsync(int fd) {
    static int left;
    if (countdown("FAIL_FSYNC", &left)) { errno = EIO; return -1; }
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
}
ssize_t pwritev(int fd, const struct iovec *v, int n, off_t at) {
    static int left;
    if (countdown("FAIL_WRITE", &left)) { errno = EIO; return -1; }
    return ((ssize_t (*)(int, const struct iovec *, int, off_t))dlsym(RTLD_NEXT, "pwritev"))(fd, v, n, at);
}
ssize_t pwritev64(int fd, const struct iovec *v, int n, off_t at) { return pwritev(fd, v, n, at); }
"""

CHILD = """
import sys
from raftsched.errors import FatalError
from raftsched.store.wal.format import Metadata
from raftsched.store.wal.log import open_log
from raftsched.types import HardState
options = {"segment_bytes": 64 << 10, "zero_ahead_bytes": 8 << 10, "reserve_bytes": 16 << 10}
try:
    log, recovered = open_log(sys.argv[1], metadata=Metadata(node_id=7, cluster_id=9), **options)
    index = recovered.last_index + 1
    while index < int(sys.argv[2]):
        batch = log.append(HardState(1, 7, index - 1), index, [1, 1], [b"%d" % index * 300, b"%d" % (index + 1) * 10])
        assert log.wait_durable(batch, 20000)
        index += 2
        sys.stdout.write(f"{index - 1}\\n")
        sys.stdout.flush()
    log.close()
except FatalError as error:
    sys.stdout.write(f"fatal {error}\\n")
    sys.exit(1)
"""


def check_contents(path: Path, acknowledged: int) -> int:
    log, recovered = reopen(path)
    assert recovered.last_index >= acknowledged
    for number, data in enumerate(recovered.datas, 1):
        assert data == b"%d" % number * (300 if number % 2 else 10)
    log.close()
    return recovered.last_index


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which((sysconfig.get_config_var("CC") or "cc").split()[0])
    if compiler is None or sys.platform != "linux":
        pytest.skip("injecting faults needs a C compiler and LD_PRELOAD")
    where = tmp_path_factory.mktemp("shim")
    (where / "shim.c").write_text(SHIM)
    subprocess.run([compiler, "-shared", "-fPIC", "-w", "-o", str(where / "shim.so"), str(where / "shim.c"), "-ldl"], check=True)
    return where / "shim.so"


@pytest.mark.parametrize("call", ["FAIL_SYNC", "FAIL_FSYNC", "FAIL_WRITE"])
def test_a_failed_write_or_sync_ends_the_log(tmp_path: Path, shim: Path, call: str) -> None:
    """At each of the first calls and at later ones: one line, exit 1, nothing acknowledged lost, a clean next start (T2)."""
    acknowledged = 0
    failed = 0
    for number in [*range(1, 13), 25, 60]:
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(tmp_path), str(acknowledged + 400)],
            env={**os.environ, "LD_PRELOAD": str(shim), call: str(number)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        lines = done.stdout.split("\n")[:-1]
        assert not done.stderr
        if done.returncode:
            failed += 1
            assert "Input/output error" in lines[-1]
            assert str(tmp_path) in lines[-1]
        acknowledged = max([acknowledged, *(int(line) for line in lines if line.isdigit())])
        if os.listdir(tmp_path) and any(parse_segment_name(name) for name in os.listdir(tmp_path)):
            acknowledged = check_contents(tmp_path, acknowledged)
    # of the fsyncs only the first segment's two and those of recovery are sure to come; how many segments follow is a matter of speed
    assert failed >= (2 if call == "FAIL_FSYNC" else 8)


def test_killed_again_and_again_nothing_durable_is_lost(tmp_path: Path) -> None:
    acknowledged = 0
    for delay in range(12):
        with subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path), "1000000000"], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            for _ in range(20 + 37 * delay):
                acknowledged = int(child.stdout.readline())
            child.kill()
            rest = child.stdout.read().split(b"\n")[:-1]
        acknowledged = int(rest[-1]) if rest else acknowledged
        acknowledged = check_contents(tmp_path, acknowledged)
    assert acknowledged > 1000


def test_errno_texts_are_what_the_lines_carry() -> None:
    assert os.strerror(errno.EIO) == "Input/output error"
