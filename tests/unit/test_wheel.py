"""Named cases of the wheel: bounds, missed ticks, generations, snapshots, misuse; and the gates that noise cannot move."""

import heapq
import random
import sys
import threading
import time
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest

from raftsched._core import FREE_WHEN_DONE, HORIZON_MS, MISSED_COALESCE, MISSED_SKIP, TimerWheel

sys.path.insert(0, str(Path(__file__).parent.parent))
from wheel_model import buffers, drain, drain_keys

EVERY_SECOND = ((1 << 60) - 1, (1 << 60) - 1, (1 << 24) - 1, (1 << 32) - 2, (1 << 13) - 2, 127, True, True)
NOON = (1, 1, 1 << 12, (1 << 32) - 2, (1 << 13) - 2, 127, True, True)


def wheel_at(now: int, jobs: int = 1024, **options: object) -> TimerWheel:
    return TimerWheel(now, max_jobs=jobs, huge_pages=False, debug=True, **options)  # type: ignore[arg-type]


def dues(wheel: TimerWheel, now: int, capacity: int = 4096) -> list[int]:
    return [due for _, _, due in drain(wheel, now, capacity)]


# -- time


def test_a_clock_that_goes_back_stands_still() -> None:
    wheel = wheel_at(1000)
    wheel.arm(1, 1500)
    assert dues(wheel, 900) == []
    assert wheel.now == 1000
    assert dues(wheel, 1500) == [1500]


def test_never_early_and_at_its_millisecond() -> None:
    for ahead in (1, 255, 256, 511, 512, 513, 65_535, 65_536, 1 << 24, (1 << 32) + 7, 1 << 41):
        wheel = wheel_at(12_345)
        wheel.arm(1, 12_345 + ahead)
        assert dues(wheel, 12_345 + ahead - 1) == []
        assert dues(wheel, 12_345 + ahead) == [12_345 + ahead]


def test_overdue_fires_at_the_next_advance_even_if_now_stays() -> None:
    wheel = wheel_at(1000)
    wheel.arm(1, 1000)
    wheel.arm(2, 3)
    assert wheel.next_wakeup() == 1000
    assert sorted(dues(wheel, 1000)) == [3, 1000]
    assert wheel.next_wakeup() == -1


def test_a_cascade_that_delivers_now_meets_an_occupied_slot_of_the_same_ms() -> None:
    start = 1 << 40
    wheel = wheel_at(start)
    wheel.arm(1, start + 65_536)  # stays in an upper slot until a jump forces it down ...
    drain(wheel, start + 65_300)
    wheel.arm(2, start + 65_536)  # ... where a level-0 entry of the same ms waits
    assert sorted(tag for _, tag, _ in drain(wheel, start + 65_536)) == [1, 2]


def test_next_wakeup_is_minus_one_when_empty_and_never_too_late() -> None:
    wheel = wheel_at(5)
    assert wheel.next_wakeup() == -1
    handle = wheel.arm(1, 1_000_000)
    while (wakeup := wheel.next_wakeup()) < 1_000_000:
        assert wakeup > wheel.now
        assert dues(wheel, wakeup) == []
    wheel.disarm(handle)
    assert dues(wheel, 2_000_000) == []
    assert wheel.next_wakeup() == -1


def moved_at_once(*, waits: bool) -> tuple[int, int]:
    """100,000 jobs in one slot of 4.7 hours, three such slots ahead: the most that one call moves until it begins, and how many calls."""
    wide = 1 << 24
    wheel, draw = wheel_at(wide + 1, 1 << 17), random.Random(1)
    for tag in range(100_000):
        wheel.arm(tag, 4 * wide + draw.randrange(wide))
    most = calls = 0
    while (wakeup := wheel.next_wakeup()) <= 4 * wide:
        before = wheel.stats()["moved"]
        assert dues(wheel, min(wakeup, wheel.now + wheel.cascade_wait()) if waits else wakeup) == []
        most, calls = max(most, wheel.stats()["moved"] - before), calls + 1
    wheel.check_invariants()
    return most, calls


def test_a_sleeper_that_wakes_for_the_cascade_never_moves_much_at_once() -> None:
    assert moved_at_once(waits=False)[0] >= 100_000
    most, calls = moved_at_once(waits=True)
    assert most <= 16 * 127
    assert calls <= 1_000


def test_a_sleeper_without_anything_near_is_not_woken_for_the_cascade() -> None:
    wheel = wheel_at(1 << 40)
    assert wheel.cascade_wait() == (1 << 63) - 1
    wheel.arm(1, (1 << 40) + (10 << 32))  # ten slots of 50 days ahead
    assert wheel.cascade_wait() == 9 << 32
    wheel.arm(2, (1 << 40) + 600)  # the third slot of a quarter of a second
    assert wheel.cascade_wait() == 256


def test_the_horizon() -> None:
    wheel = wheel_at(HORIZON_MS - 1000)
    handle = wheel.arm(1, HORIZON_MS - 500, 600)
    assert dues(wheel, HORIZON_MS) == [HORIZON_MS - 500]
    assert len(wheel) == 0  # due + period is past the end of 9999: disarmed, no longer live
    assert wheel.due_of(handle) == -1
    wheel.rearm(handle, HORIZON_MS)
    assert dues(wheel, HORIZON_MS + 5) == [HORIZON_MS]
    for wrong in (-1, HORIZON_MS + 1):
        with pytest.raises(OverflowError):
            wheel.arm(1, wrong)
        with pytest.raises(OverflowError):
            wheel.schedule(b"a", wrong)
        with pytest.raises(OverflowError):
            wheel.rearm(handle, wrong)


# -- missed ticks


@pytest.mark.parametrize("capacity", [4096, 128])
def test_all_missed_ticks_fire(capacity: int) -> None:
    wheel = wheel_at(0)
    wheel.arm(1, 100, 10)
    assert dues(wheel, 10_000, capacity) == list(range(100, 10_001, 10))
    assert wheel.next_wakeup() <= 10_010


def test_missed_ticks_coalesce_or_skip_against_the_target_of_the_call() -> None:
    wheel = wheel_at(0)
    wheel.arm(1, 100, 1, flags=MISSED_COALESCE)
    wheel.arm(2, 100, 7, flags=MISSED_SKIP)
    assert sorted((tag, due) for _, tag, due in drain(wheel, 100_000)) == [(1, 100), (2, 99_997)]
    assert sorted((tag, due) for _, tag, due in drain(wheel, 100_005)) == [(1, 100_001), (2, 100_004)]
    assert dues(wheel, 100_006) == [100_006]


def test_cron_re_arms_by_the_same_rules() -> None:
    wheel = wheel_at(0)
    second, noon = wheel.add_cron(EVERY_SECOND), wheel.add_cron(NOON)
    wheel.arm(1, 1000, spec=second)
    wheel.arm(2, 1000, spec=second, flags=MISSED_COALESCE)
    wheel.arm(3, 1000, spec=second, flags=MISSED_SKIP)
    wheel.arm(4, 500, spec=noon)
    fires = drain(wheel, 5999)
    assert [due for _, tag, due in fires if tag == 1] == [1000, 2000, 3000, 4000, 5000]
    assert [due for _, tag, due in fires if tag == 2] == [1000]
    assert [due for _, tag, due in fires if tag == 3] == [5000]
    assert [due for _, tag, due in fires if tag == 4] == [500]
    assert sorted(tag for _, tag, _ in drain(wheel, 6000)) == [1, 2, 3]
    day = 86_400_000
    assert [due for _, tag, due in drain(wheel, 3 * day) if tag == 4] == [day // 2, day + day // 2, 2 * day + day // 2]


def test_a_cron_spec_that_changes_its_meaning_is_not_answered_from_memory() -> None:
    wheel = wheel_at(0)
    spec = wheel.add_cron(EVERY_SECOND)
    wheel.arm(1, 1000, spec=spec)
    drain(wheel, 1000)
    wheel.cron.release(spec)
    assert wheel.add_cron(NOON) == spec
    wheel.arm(2, 1000, spec=spec)
    drain(wheel, 1000)
    assert wheel.next_wakeup() <= 2000
    drain(wheel, 2000)  # the tick that was computed before
    assert dues(wheel, 86_399_000) == [43_200_000, 43_200_000]


# -- handles, tags, keys


def test_a_stale_handle_does_nothing() -> None:
    wheel = wheel_at(0)
    old = wheel.arm(1, 50)
    assert wheel.disarm(old)
    new = wheel.arm(2, 60)
    assert old & 0xFFFFFFFF == new & 0xFFFFFFFF
    assert old != new
    for call in (wheel.disarm, wheel.pause, lambda handle: wheel.rearm(handle, 5)):
        assert not call(old)
    assert wheel.due_of(old) == -2
    assert not wheel.disarm(12345 << 32 | 999_999)
    tags = array("I", [0, 0])
    wheel.tags_of(array("Q", [old, new]), 2, tags)
    assert list(tags) == [2**32 - 1, 2]
    assert [tag for _, tag, _ in drain(wheel, 100)] == [2]


def test_a_one_shot_keeps_its_handle_until_it_is_disarmed() -> None:
    """The engine's way: fire, wait for the result, re-arm by handle."""
    wheel = wheel_at(0)
    handles = array("Q", [0] * 300)
    wheel.arm_packed(array("I", range(300)), array("q", range(1, 301)), handles)
    assert len(wheel) == 300
    assert len(dues(wheel, 300)) == 300
    assert len(wheel) == 0
    stale = handles[7]
    wheel.disarm(stale)
    assert wheel.rearm_packed(handles, array("q", range(1001, 1301))) == 299
    assert sorted(dues(wheel, 2000)) == [1001 + i for i in range(300) if i != 7]
    assert wheel.disarm_packed(handles) == 299
    assert wheel.stats()["keys"] == 0
    wheel.check_invariants()


def test_a_keyless_job_costs_no_key_table_entry_and_few_bytes() -> None:
    count = 200_000
    wheel = wheel_at(0, count)
    words = wheel.stats()["table_words"]
    rng = random.Random(1)
    handles = array("Q", bytes(8 * count))
    wheel.arm_packed(array("I", range(count)), array("q", [int(rng.expovariate(1 / 60_000)) for _ in range(count)]), handles)
    stats = wheel.stats()
    assert stats["table_words"] == words
    assert stats["keys"] == 0
    assert (stats["slots"] * 64 + stats["chunks"] * 1024) / count <= 90


def test_long_keys_of_fired_one_shots_are_read_until_the_slot_is_used_again() -> None:
    wheel = wheel_at(0)
    key = b"k" * 200
    handle = wheel.schedule(key, 10, tag=7, flags=FREE_WHEN_DONE)
    assert drain_keys(wheel, 10) == [(key, 10)]
    assert wheel.get(key) is None
    assert not wheel.cancel(key)
    assert wheel.pack(array("Q", [handle]), array("q", [10]), 1) == (10).to_bytes(8, "little") + (200).to_bytes(2, "little") + key
    wheel.arm(9, 20)
    assert wheel.keys_of(array("Q", [handle]), 1) == [None]
    with pytest.raises(ValueError, match="stale"):
        wheel.pack(array("Q", [handle]), array("q", [10]), 1)


def test_key_table_grows_with_every_key_found() -> None:
    wheel = wheel_at(0, 60_000)
    keys = [b"job-%d" % i for i in range(50_000)]
    for i, key in enumerate(keys):
        wheel.schedule(key, i)
        if i % 5 == 4:
            wheel.cancel(keys[i - 2])
        if i % 4096 == 0:
            wheel.check_invariants()
    wheel.check_invariants()
    assert len(wheel) == 40_000
    assert all((wheel.get(key) is None) == (i % 5 == 2) for i, key in enumerate(keys))


def test_batches_by_key() -> None:
    wheel = wheel_at(0)
    keys = [b"%d" % i * (i % 20) for i in range(1, 200)]
    blob, offsets = b"".join(keys), array("I", [0])
    for key in keys:
        offsets.append(offsets[-1] + len(key))
    due, period = array("q", range(1000, 1199)), array("q", [0] * 199)
    assert wheel.schedule_packed(blob, offsets, due, period) == 199
    assert len(wheel) == len(set(keys))
    assert wheel.schedule_many(keys, due, period) == 199
    assert len(wheel) == len(set(keys))
    assert set(drain_keys(wheel, 1100)) <= {(key, at) for key, at in zip(keys, due, strict=True)}
    assert wheel.cancel_packed(blob, offsets) == len(set(keys))
    assert len(wheel) == wheel.stats()["keys"] == 0


# -- snapshots


def test_export_then_load_has_the_same_future() -> None:
    rng, first = random.Random(3), wheel_at(1 << 40, 4096)
    spec = first.add_cron(NOON)
    for i in range(1500):
        due = (1 << 40) + rng.randrange(1 << rng.choice([4, 12, 20]))
        if i % 3:
            first.schedule(rng.randbytes(rng.choice([4, 30, 31, 90])), due, rng.choice([0, 700]), tag=i)
        elif i % 2:
            first.arm(i, due, spec=spec)
        else:
            first.disarm(first.arm(i, due))
    paused = first.arm(9999, 1 << 41)
    first.pause(paused)
    second = wheel_at(1 << 40, 4096, hash_seed=9)
    second.add_cron(NOON)
    handles, at, loaded = array("Q", bytes(8 * 4096)), 0, 0
    while at < first.slots:  # in pieces
        loaded += second.load(first.export(at, 100), handles)
        at += 100
    second.check_invariants()
    assert len(first) == len(second) == loaded - 1
    assert second.due_of(handles[first.slots % 100 - 1]) == -1  # the paused one came last
    for now in range(1 << 40, (1 << 40) + 40_000, 997):
        assert sorted((tag, due) for _, tag, due in drain(first, now)) == sorted((tag, due) for _, tag, due in drain(second, now))


@pytest.mark.parametrize("blob", [b"x", bytes(24), b"\xff" * 25, bytes(21) + b"\x05\0\0\0" + b"abc"])
def test_a_broken_export_changes_nothing(blob: bytes) -> None:
    wheel = wheel_at(0)
    good = wheel_at(0)
    good.arm(1, 5)
    with pytest.raises(ValueError, match="export"):
        wheel.load(good.export(0, 10) + blob)
    assert wheel.slots == 0


# -- misuse


def test_a_full_wheel_refuses_and_stays_whole() -> None:
    wheel = wheel_at(0, 4)
    one = array("q", [5])
    for key in (b"a", b"b", b"c", b"d"):
        wheel.schedule(key, 5)
    for call in (
        lambda: wheel.schedule(b"e", 5),
        lambda: wheel.arm(1, 5),
        lambda: wheel.schedule_many([b"e"], one, one),
        lambda: wheel.arm_packed(array("I", [1]), one, array("Q", [0])),
    ):
        with pytest.raises(MemoryError):
            call()
    wheel.schedule_many([b"a", b"d"], array("q", [7, 7]), array("q", [0, 0]))  # known keys still move
    assert len(wheel) == 4
    wheel.check_invariants()


def test_a_bulk_insert_into_a_wheel_that_fills_up_in_the_middle_changes_nothing() -> None:
    wheel = wheel_at(0, 50)
    keys = [b"%d" % i for i in range(60)]
    with pytest.raises(MemoryError):
        wheel.schedule_many(keys, array("q", [5] * 60), array("q", [0] * 60))
    with pytest.raises(OverflowError):
        wheel.schedule_many(keys[:2], array("q", [5, -1]), array("q", [0, 0]))
    assert len(wheel) == wheel.slots == 0


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (ValueError, lambda w: w.advance(1, array("Q", bytes(8 * 64)), array("q", bytes(8 * 64)))),
        (ValueError, lambda w: w.advance(1, array("Q", bytes(8 * 256)), array("q", bytes(8 * 128)))),
        (OverflowError, lambda w: w.advance(-1, *buffers(128)[:2])),
        (TypeError, lambda w: w.schedule_many(["a"], array("q", [1]), array("q", [1]))),
        (TypeError, lambda w: w.schedule("a", 1)),
        (ValueError, lambda w: w.schedule_packed(b"abc", array("I", [0, 9]), array("q", [1]), array("q", [1]))),
        (ValueError, lambda w: w.schedule_packed(b"abc", array("I", [2, 1]), array("q", [1]), array("q", [1]))),
        (ValueError, lambda w: w.schedule_packed(b"abc", array("I", [0, 1]), array("q", [1, 2]), array("q", [1]))),
        (ValueError, lambda w: w.arm(1, 5, spec=0)),
        (ValueError, lambda w: w.arm(1, 5, flags=3)),
        (ValueError, lambda w: w.arm(1, 5, flags=128)),
        (OverflowError, lambda w: w.arm(1, 5, -1)),
        (OverflowError, lambda w: w.arm(-1, 5)),
        (ValueError, lambda w: w.add_cron((0, *EVERY_SECOND[1:]))),
        (ValueError, lambda w: w.add_cron((1 << 60, *EVERY_SECOND[1:]))),
        (ValueError, lambda w: w.add_cron(EVERY_SECOND, 3)),
        (ValueError, lambda w: w.set_zone(0, array("q", [5, 5]), array("i", [0, 0]))),
        (ValueError, lambda w: w.set_zone(5000, array("q", [5]), array("i", [0]))),
        (ValueError, lambda w: w.cron.release(0)),
        (ValueError, lambda w: w.tags_of(array("Q", [1]), 2, array("I", [1, 2]))),
        (ValueError, lambda w: w.reserve(10_000)),
        (ValueError, lambda w: TimerWheel(0, max_jobs=0)),
        (ValueError, lambda w: TimerWheel(0, max_jobs=1 << 28)),
        (OverflowError, lambda w: TimerWheel(-1)),
    ],
)
def test_misuse_is_refused(error: type[Exception], call: Callable[[TimerWheel], object]) -> None:
    wheel = wheel_at(0)
    with pytest.raises(error):
        call(wheel)
    assert len(wheel) == 0


def test_reserve_comes_first() -> None:
    wheel = wheel_at(0, 5000)
    wheel.reserve(5000)
    assert wheel.stats()["table_words"] * 7 >= 5000 * 10
    wheel.arm(1, 5)
    with pytest.raises(RuntimeError, match="first"):
        wheel.reserve(10)


def test_one_owner_thread_in_debug() -> None:
    wheel, seen = wheel_at(0), []

    def use() -> None:
        try:
            wheel.arm(1, 5)
        except RuntimeError as error:
            seen.append(str(error))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert seen == ["the wheel belongs to another thread"]
    assert len(wheel) == 0


# -- metamorphic


def test_hash_seed_does_not_change_the_sequence() -> None:
    sequences = []
    for seed in (1, 2):
        rng, wheel = random.Random(5), TimerWheel(0, max_jobs=5000, hash_seed=seed, huge_pages=False)
        for i in range(5000):
            wheel.schedule(b"job-%d" % i, rng.randrange(1 << 20), rng.choice([0, 7000, 60_000]), flags=MISSED_COALESCE)
        sequences.append([drain_keys(wheel, now) for now in range(0, 1 << 20, 1 << 14)])
    assert sequences[0] == sequences[1]


def test_one_shots_do_not_depend_on_the_steps() -> None:
    outcomes = []
    for step in (1, 77, 1 << 17):
        rng, wheel = random.Random(6), wheel_at(0, 5000)
        for i in range(5000):
            wheel.arm(i, rng.randrange(1, 1 << 17))
        fires = [fire for now in [*range(step, 1 << 17, step), 1 << 17] for fire in drain(wheel, now, 128)]
        outcomes.append(sorted((tag, due) for _, tag, due in fires))
        assert len(fires) == 5000
    assert outcomes[0] == outcomes[1] == outcomes[2]


# -- gates: counts, not times


def armed(count: int, delays: Callable[[random.Random], int], period: bool) -> TimerWheel:
    rng, wheel = random.Random(11), TimerWheel(1 << 40, max_jobs=count, huge_pages=False)
    for tag in range(count):
        delay = 1 + delays(rng)
        wheel.arm(tag, (1 << 40) + int(rng.random() * delay) + 1 if period else (1 << 40) + delay, delay if period else 0)
    return wheel


@pytest.mark.parametrize(
    ("delays", "limit"),
    [(lambda rng: 1000 + int(rng.expovariate(1 / 60_000)), 2.3), (lambda rng: 3_600_000, 3.3)],
    ids=["exponential", "uniform hour"],
)
def test_entries_touched_per_fire(delays: Callable[[random.Random], int], limit: float) -> None:
    wheel = armed(300_000, delays, period=True)
    handles, due, _ = buffers(4096)
    for now in range((1 << 40) + 1, (1 << 40) + 70_001):
        wheel.advance(now, handles, due)
    stats = wheel.stats()
    assert stats["fired"] > 5_000
    assert stats["steps"] == 70_000
    assert (stats["moved"] + stats["visited"]) / stats["fired"] <= limit
    assert stats["max_step_excess"] <= 1500
    wheel.check_invariants()


@pytest.mark.parametrize("first", [511, 60_000])
def test_ever_earlier_deadlines_stay_bounded(first: int) -> None:
    """Each job earlier than before, 300 times, near (all in level 0) and far; a textbook lazy wheel grows without end."""
    count, now = 5_000, 1_000_000
    wheel = wheel_at(now, count)
    keys = [b"%d" % i for i in range(count)]
    for due in range(now + first, now + first - 300, -1):
        for key in keys:
            wheel.schedule(key, due)
        assert wheel.stats()["entries"] <= (2 * count + 65_536) * 1.05
    for due in range(now, now - 300, -30):  # overdue: the entry already waiting is early enough
        for key in keys:
            wheel.reschedule(key, due)
        assert wheel.stats()["entries"] <= (2 * count + 65_536) * 1.05
    wheel.check_invariants()
    assert sorted(drain_keys(wheel, now)) == sorted((key, now - 270) for key in keys)


def test_entries_stay_bounded_when_jobs_fire_or_go() -> None:
    count = 100_000
    wheel = wheel_at(0, count)
    handles = array("Q", bytes(8 * count))
    wheel.arm_packed(array("I", range(count)), array("q", [1 << 30] * count), handles)
    wheel.rearm_packed(handles, array("q", [1000 + i for i in range(count)]))  # each leaves a stale entry far away
    assert wheel.stats()["entries"] == 2 * count
    assert len(drain(wheel, 1000 + count // 2)) > 50_000
    for handle in handles:
        wheel.disarm(handle)
    wheel.check_invariants()
    assert wheel.stats()["entries"] <= 65_536 * 1.05


def test_fifty_times_faster_than_heapq_and_dict() -> None:
    """A ratio in one run; the bench measures 1e6 and 1e7, this keeps a slip from passing unseen."""
    count, steps = 200_000, 2_000
    rng = random.Random(1)
    delays = [1000 + int(rng.expovariate(1 / 60_000)) for _ in range(count)]
    ratios: list[float] = []
    while not ratios or (max(ratios) < 50 and len(ratios) < 3):
        ratios.append(ratio(delays, steps))
    assert max(ratios) >= 50, ratios


def ratio(delays: list[int], steps: int) -> float:
    dues_now = [1 + int(random.Random(i).random() * delay) for i, delay in enumerate(delays)]
    wheel = TimerWheel(0, max_jobs=len(delays))
    for tag, (due, delay) in enumerate(zip(dues_now, delays, strict=True)):
        wheel.arm(tag, due, delay)
    handles, due_at, _ = buffers(4096)
    fired, started = 0, time.thread_time()
    for now in range(1, steps + 1):
        fired += wheel.advance(now, handles, due_at)
    wheel_ns = (time.thread_time() - started) / fired
    heap = [(due, tag) for tag, due in enumerate(dues_now)]
    heapq.heapify(heap)
    jobs = dict(enumerate(dues_now))
    fired, started = 0, time.thread_time()
    for now in range(1, steps + 1):
        while heap and heap[0][0] <= now:
            due, tag = heapq.heappop(heap)
            if jobs.get(tag) == due:
                fired += 1
                jobs[tag] = due + delays[tag]
                heapq.heappush(heap, (jobs[tag], tag))
    return ((time.thread_time() - started) / fired) / wheel_ns
