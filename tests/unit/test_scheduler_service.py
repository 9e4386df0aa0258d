"""The driver over the memory store, on a virtual clock: leadership, load, turns, store errors, shutdown."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count

import pytest

from raftsched.errors import EtcdError, status_of
from raftsched.scheduler.delivery.gates import Admission, Limit
from raftsched.scheduler.jobs import _jobs
from raftsched.scheduler.jobs.names import JOBS, LEADERSHIP, TARGET_JOB
from raftsched.scheduler.jobs.requests import leadership_value
from raftsched.scheduler.leadership import Partition
from raftsched.scheduler.service import UNHEALTHY_AFTER_MS, SchedulerService
from raftsched.testing.memory_etcd import MemoryKv
from raftsched.testing.peers import LogLines
from raftsched.testing.scheduling import APP, START_MS, Worker, metadata, result
from raftsched.types import Change

KEY = LEADERSHIP + b"s-0"
ROUTE = b"app||ns||app||"


class Site:
    """A service, its store, its clock."""

    def __init__(self, kv: MemoryKv | None = None) -> None:
        self.kv = kv or MemoryKv()
        self.ms = START_MS
        numbers = count(1)
        self.log, self.engine_log = LogLines(), LogLines()
        self.service = SchedulerService(
            self.kv,
            scheduler_id="s-0",
            address="127.0.0.1:50006",
            zone_source=lambda name: None,
            rng=lambda: next(numbers),
            log=self.log,
            engine_log=self.engine_log,
            workers=7,
            wall_ns=lambda: self.ms * 1_000_000,
            mono_ns=lambda: self.ms * 1_000_000,
        )

    def put(self, name: str, due_ms: int, *, schedule: bytes | None = None) -> bytes:
        value = _jobs.encode_stored_job(
            5, True, due_ms // 1000, due_ms % 1000 * 1_000_000, None, schedule, None, None, None, metadata(APP), None, _jobs.DEFAULT_POLICY
        )
        self.kv.etcd.put(JOBS + ROUTE + name.encode(), value)
        return ROUTE + name.encode()

    def connect(self) -> Worker:
        worker = Worker()
        worker.stream = self.service.open_stream(worker.push, worker, [(ROUTE, TARGET_JOB, None)], "ns", ())
        return worker

    async def move(self, ms: int = 0) -> None:
        """Time passes and the loop comes to rest."""
        self.ms += ms
        self.service._wake()
        await rest()


async def rest() -> None:
    for _ in range(40):
        await asyncio.sleep(0)


@asynccontextmanager
async def started(site: Site) -> AsyncIterator[Site]:
    await site.service.start()
    await rest()
    try:
        yield site
    finally:
        await site.service.stop()


async def until(condition: Callable[[], bool]) -> None:
    """For what waits on the loop's own timers (retries of 50 ms)."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_start_claims_the_key_with_one_lease_and_logs_what_others_look_for() -> None:
    async with started(Site()) as site:
        kv = site.kv.etcd.keys[KEY]
        assert _jobs.parse_leadership(kv.value)[0] == 1
        assert _jobs.parse_leadership(kv.value)[2] == "127.0.0.1:50006"
        assert list(site.kv.etcd.leases) == [kv.lease]
        assert site.service.ready.is_set()
        assert site.service.hosts == ("127.0.0.1:50006",)
        assert site.log.texts() == ["Cron is ready"]
        assert ("info", "Starting queue with workers", {"id": "s-0", "count": 7}) in site.engine_log.lines
    assert site.kv.etcd.keys == {}
    assert site.kv.etcd.leases == {}
    assert site.engine_log.texts()[-1] == "cron instance shutdown"


async def test_the_queue_line_ends_with_id_and_count() -> None:
    async with started(Site()) as site:
        [fields] = [fields for _, message, fields in site.engine_log.lines if message == "Starting queue with workers"]
        assert list(fields) == ["id", "count"]


async def test_an_older_lease_on_the_own_key_is_revoked() -> None:
    site = Site()
    old = site.kv.etcd.grant()
    site.kv.etcd.put(KEY, leadership_value(1, 99, "old"), old)
    async with started(site):
        assert old not in site.kv.etcd.leases
        assert len(site.kv.etcd.leases) == 1
        assert site.service.hosts == ("127.0.0.1:50006",)


async def test_another_holder_is_waited_for() -> None:
    site = Site()
    site.kv.owns_directory = lambda: False  # type: ignore[method-assign]
    other = site.kv.etcd.grant()
    site.kv.etcd.put(KEY, leadership_value(1, 99, "other"), other)
    async with started(site):
        assert not site.service.ready.is_set()
        assert list(site.kv.etcd.leases) == [other]
        site.kv.etcd.revoke(other)
        await rest()
        assert site.service.ready.is_set()
        assert len(site.kv.etcd.leases) == 1


@pytest.mark.parametrize("how", ["revoked", "deleted", "overwritten"])
async def test_a_lost_key_is_claimed_again_with_one_lease(how: str) -> None:
    async with started(Site()) as site:
        before = site.kv.etcd.keys[KEY].lease
        if how == "revoked":
            site.kv.expire(before)
        elif how == "deleted":
            site.kv.etcd.delete(KEY)
        else:
            site.kv.etcd.put(KEY, leadership_value(1, 12345, "somebody"))
        await until(lambda: site.service.leadership.partition is not None)
        lease = site.kv.etcd.keys[KEY].lease
        assert lease not in (0, before)
        assert list(site.kv.etcd.leases) == [lease]


async def test_a_key_without_a_lease_is_waited_for_where_it_may_be_another_s() -> None:
    async with started(Site()) as site:
        site.kv.owns_directory = lambda: False  # type: ignore[method-assign]
        site.kv.etcd.put(KEY, leadership_value(1, 12345, "somebody"))
        await rest()
        assert site.service.leadership.partition is None
        site.kv.etcd.delete(KEY)
        await until(lambda: site.service.leadership.partition is not None)


async def test_a_change_told_while_the_keys_are_read_is_not_overwritten_by_the_answer() -> None:
    site = Site()
    plain = site.kv.range

    async def slow(request: bytes) -> tuple[int, bytes]:
        answer = await plain(request)
        if KEY in site.kv.etcd.keys and (kv := site.kv.etcd.keys[KEY]).lease:
            site.kv.range = plain  # type: ignore[method-assign]
            site.kv.etcd.revoke(kv.lease)  # after the reading, before its answer is looked at
        return answer

    site.kv.range = slow  # type: ignore[method-assign]
    async with started(site):
        await until(lambda: KEY in site.kv.etcd.keys and site.service.leadership.partition is not None)
        assert site.kv.etcd.keys[KEY].lease in site.kv.etcd.leases


async def test_a_key_that_went_with_the_history_is_claimed_again() -> None:
    async with started(Site()) as site:
        lease = site.kv.etcd.keys[KEY].lease
        sinks, site.kv.etcd.sinks = site.kv.etcd.sinks, []
        site.kv.etcd.revoke(lease)
        site.kv.etcd.sinks = sinks
        site.service.on_reset()
        await until(lambda: KEY in site.kv.etcd.keys and site.service.leadership.partition is not None)


async def test_a_claim_whose_answer_is_lost_is_renewed() -> None:
    site = Site()
    site.kv.fail_next = [EtcdError.TIMEOUT]
    async with started(site):
        await until(lambda: site.service.leadership.partition is not None)
        assert list(site.kv._lost) == [site.kv.etcd.keys[KEY].lease] == list(site.kv.etcd.leases)


async def test_a_load_that_fails_is_tried_again() -> None:
    site = Site()
    plain, failures = site.kv.scan, [EtcdError.STOPPED, EtcdError.CORRUPT]

    async def failing(prefix: bytes, on_page: Callable[[Sequence[Change]], None]) -> int:
        if failures:
            raise status_of(failures.pop())
        return await plain(prefix, on_page)

    site.kv.scan = failing  # type: ignore[method-assign]
    site.put("a", START_MS)
    async with started(site):
        worker = site.connect()
        await until(lambda: worker.got != [])
        assert [text for text in site.engine_log.texts() if "could not be loaded" in text] != []


async def test_a_stop_that_is_cancelled_lets_go_of_the_loop_and_the_store() -> None:
    site = Site()
    await site.service.start()
    await rest()
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    site.kv.lease_revoke = lambda lease: never  # type: ignore[method-assign, assignment, return-value]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(site.service.stop(), 0.01)
    assert site.service._timer is None
    assert site.kv.etcd.sinks == []


async def test_the_number_of_replicas_is_followed_and_shares_the_jobs() -> None:
    async with started(Site()) as site:
        site.kv.etcd.put(LEADERSHIP + b"s-1", leadership_value(1, 50, "b:1"))
        await rest()
        assert _jobs.parse_leadership(site.kv.etcd.keys[KEY].value)[0] == 2
        assert site.service.leadership.partition == Partition(1, 0, ("127.0.0.1:50006",))  # the other has not followed yet
        site.kv.etcd.put(LEADERSHIP + b"s-1", leadership_value(2, 50, "b:1"))
        await rest()
        assert site.service.leadership.partition == Partition(2, 0, ("127.0.0.1:50006", "b:1"))
        worker = site.connect()
        site.put("mine", START_MS)  # partition 5: index 1
        await site.move(1)
        assert worker.take() == []
        site.kv.etcd.delete(LEADERSHIP + b"s-1")
        await rest()
        assert site.service.leadership.partition == Partition(1, 0, ("127.0.0.1:50006",))
        await site.move(1)
        assert worker.take() == [("mine", 1)]


async def test_shares_of_gates_go_by_the_addresses() -> None:
    """Spec §4, gates: i = the index of the own broadcast address among all, sorted, whatever the order of the ids."""
    async with started(Site()) as site:
        site.service.gates.declare("stream", "ns", [Limit("cat", None, 3)])
        site.kv.etcd.put(LEADERSHIP + b"a-first-by-id", leadership_value(2, 50, "z-last:1"))
        await rest()
        assert site.service.leadership.partition == Partition(2, 1, ("127.0.0.1:50006", "z-last:1"))
        admitted = [site.service.gates.admit(run, "ns", "cat", None) for run in range(3)]
        assert admitted == [Admission.GO, Admission.GO, Admission.WAIT]  # 3 = 2 + 1, and this one is the first


async def test_what_stays_goes_on_while_the_others_follow() -> None:
    async with started(Site()) as site:
        worker = site.connect()
        site.put("moves", START_MS + 5)  # partition 5: index 1 of 2
        site.kv.etcd.put(LEADERSHIP + b"t", leadership_value(1, 50, "t:1"))
        await rest()
        site.kv.etcd.put(
            JOBS + ROUTE + b"stays",
            _jobs.encode_stored_job(4, True, START_MS // 1000, 0, None, None, None, None, None, metadata(APP), None, None),
        )
        await site.move(6)
        assert [name for name, _ in worker.take()] == ["stays"]


async def test_a_handover_waits_for_results_before_the_key_is_written() -> None:
    async with started(Site()) as site:
        worker = site.connect()
        site.put("moves", START_MS)
        await site.move(1)
        assert worker.take() == [("moves", 1)]
        site.kv.etcd.put(LEADERSHIP + b"t", leadership_value(1, 50, "t:1"))
        await rest()
        assert _jobs.parse_leadership(site.kv.etcd.keys[KEY].value)[0] == 1
        assert worker.stream is not None
        site.service.on_acks(worker.stream, [result(1)])
        await until(lambda: _jobs.parse_leadership(site.kv.etcd.keys[KEY].value)[0] == 2)
        assert not any(key.startswith(JOBS) for key in site.kv.etcd.keys)  # its result was stored


async def test_a_handover_does_not_wait_for_ever() -> None:
    async with started(Site()) as site:
        worker = site.connect()
        site.put("moves", START_MS)
        await site.move(1)
        assert worker.take() == [("moves", 1)]
        site.kv.etcd.put(LEADERSHIP + b"t", leadership_value(1, 50, "t:1"))
        began_s = asyncio.get_running_loop().time()
        await until(lambda: _jobs.parse_leadership(site.kv.etcd.keys[KEY].value)[0] == 2)
        assert 0.2 <= asyncio.get_running_loop().time() - began_s < 1


async def test_nothing_is_sent_once_the_fence_is_over_not_even_in_the_middle_of_a_turn() -> None:
    async with started(Site()) as site:
        worker = site.connect()
        plain = worker.push

        def push(message: bytes) -> bool:
            site.kv.fence = site.ms  # this process slept in the middle of its turn
            return plain(message)

        worker.push = push  # type: ignore[method-assign]
        stream = site.service.open_stream(push, worker, [(ROUTE, TARGET_JOB, None)], "ns", ())
        assert worker.stream is not None
        site.service.close_stream(worker.stream)
        for number in range(1_000):
            site.put(f"j{number}", START_MS)
        await site.move(1)
        assert 0 < len(worker.take()) <= 128
        await site.move(100)
        assert worker.take() == []
        site.kv.fence = 1 << 62
        await site.move(100)
        assert len(worker.take()) > 0
        assert stream.open


async def test_a_silent_member_s_key_is_given_up_first_and_goes_when_it_stays_silent() -> None:
    async with started(Site()) as site:
        other = site.kv.etcd.grant()
        site.kv.etcd.put(LEADERSHIP + b"t", leadership_value(2, 50, "t:1"), other)
        await rest()
        seen: list[int] = []

        class Watch:
            def on_changes(self, changes: Sequence[Change], revision: int) -> None:
                seen.extend(
                    -1 if change.deleted else _jobs.parse_leadership(_jobs.parse_kv(change.record)[1])[0]
                    for change in changes
                    if change.key == LEADERSHIP + b"t"
                )

            def on_reset(self) -> None: ...

        site.kv.etcd.sinks.append(Watch())
        site.kv.silent.add("t")
        await until(lambda: LEADERSHIP + b"t" not in site.kv.etcd.keys)
        assert seen == [0, -1]
        assert other not in site.kv.etcd.leases
        await until(lambda: site.service.leadership.partition == Partition(1, 0, ("127.0.0.1:50006",)))


async def test_who_is_given_up_stops_and_writes_its_key_again() -> None:
    async with started(Site()) as site:
        held = site.kv.etcd.keys[KEY]
        uid = _jobs.parse_leadership(held.value)[1]
        site.kv.etcd.put(KEY, leadership_value(0, uid, "127.0.0.1:50006"), held.lease)
        assert site.service.leadership.partition is None
        await until(lambda: site.service.leadership.partition is not None)
        assert list(site.kv.etcd.leases) == [held.lease]


async def test_a_clean_stop_among_others_gives_the_key_up_and_takes_the_last_results() -> None:
    site = Site()
    async with started(site):
        worker = site.connect()
        site.put("a", START_MS)
        site.kv.etcd.put(LEADERSHIP + b"t", leadership_value(2, 50, "t:1"))
        await rest()
        site.kv.etcd.delete(LEADERSHIP + b"t")
        await site.move(1)
        assert worker.take() == [("a", 1)]
        site.kv.etcd.put(LEADERSHIP + b"t", leadership_value(2, 50, "t:1"))
        stopping = asyncio.ensure_future(site.service.stop())
        await asyncio.sleep(0.02)
        assert KEY in site.kv.etcd.keys
        assert worker.stream is not None
        site.service.on_acks(worker.stream, [result(1)])
        await stopping
        assert list(site.kv.etcd.keys) == [LEADERSHIP + b"t"]


async def test_hosts_are_told_once_per_set() -> None:
    async with started(Site()) as site:
        told: list[tuple[str, ...]] = []
        site.service.host_listeners.add(told.append)
        for total in (1, 2, 2):
            site.kv.etcd.put(LEADERSHIP + b"s-1", leadership_value(total, 50, "b:1"))
            await rest()
        assert told == [("127.0.0.1:50006", "b:1")]


async def test_a_job_fires_is_acknowledged_and_goes() -> None:
    async with started(Site()) as site:
        worker = site.connect()
        site.put("a", START_MS + 50)
        await site.move(49)
        assert worker.take() == []
        await site.move(1)
        assert worker.take() == [("a", 1)]
        assert worker.stream is not None
        site.service.on_acks(worker.stream, [result(1)])
        await rest()
        assert list(site.kv.etcd.keys) == [KEY]


async def test_all_results_of_a_turn_are_one_entry() -> None:
    async with started(Site()) as site:
        worker = site.connect()
        for index in range(20):
            site.put(f"j{index}", START_MS)
        await site.move(1)
        assert len(worker.take()) == 20
        before = site.kv.entries
        assert worker.stream is not None
        site.service.on_acks(worker.stream, [result(index + 1) for index in range(12)])
        site.service.on_acks(worker.stream, [result(index + 1) for index in range(12, 20)])
        await rest()
        assert site.kv.entries == before + 1
        assert list(site.kv.etcd.keys) == [KEY]


async def test_jobs_in_the_store_are_loaded() -> None:
    site = Site()
    site.put("a", START_MS + 5)
    async with started(site):
        worker = site.connect()
        await site.move(5)
        assert worker.take() == [("a", 1)]
        assert ("info", "jobs loaded", {"count": 1}) in site.engine_log.lines


async def test_a_reset_loads_again_and_redelivers() -> None:
    async with started(Site()) as site:
        worker = site.connect()
        site.put("a", START_MS)
        await site.move(1)
        site.service.on_reset()
        await rest()
        await site.move(1)
        assert [name for name, _ in worker.take()] == ["a", "a"]
        assert worker.stream is not None
        site.service.on_acks(worker.stream, [result(1), result(2)])
        await rest()
        assert list(site.kv.etcd.keys) == [KEY]


async def test_a_full_store_pauses_triggers_and_resumes_by_itself() -> None:
    async with started(Site()) as site:
        worker = site.connect()
        site.put("a", START_MS, schedule=b"@every 1s")
        await site.move(1)
        assert worker.stream is not None
        site.put("b", START_MS + 3)
        site.kv.etcd.full = True
        site.service.on_acks(worker.stream, [result(1)])
        await rest()
        await site.move(5)
        assert worker.take() == [("a", 1)]  # b waits
        assert site.service.healthy
        site.ms += UNHEALTHY_AFTER_MS
        assert not site.service.healthy
        site.kv.etcd.full = False
        await until(lambda: site.service.healthy)
        await rest()
        # What was due meanwhile comes now: b, and the ticks of a one after another.
        assert sorted(name for name, _ in worker.take()) == ["a", "b"]
        assert "trigger results are stored again" in site.engine_log.texts()


@pytest.mark.parametrize("error", [EtcdError.TIMEOUT, EtcdError.NO_LEADER, EtcdError.TOO_MANY_REQUESTS])
async def test_unknown_and_refused_outcomes_are_sent_again_and_deliver_nothing_twice(error: EtcdError) -> None:
    async with started(Site()) as site:
        worker = site.connect()
        name = site.put("a", START_MS, schedule=b"@every 1s")
        await site.move(1)
        assert worker.stream is not None
        site.kv.fail_next = [error, error]
        site.service.on_acks(worker.stream, [result(1)])
        await rest()
        await until(lambda: site.service.engine.results_pending == 0)
        assert site.service.engine.describe(name)["count"] == 1  # type: ignore[index]
        await site.move(998)
        assert worker.take() == [("a", 1)]
        await site.move(1)
        assert worker.take() == [("a", 2)]


async def test_beyond_the_fence_nothing_fires() -> None:
    async with started(Site()) as site:
        worker = site.connect()
        site.kv.fence = 0
        site.put("a", START_MS)
        await site.move(10)
        assert worker.take() == []
        site.kv.fence = 1 << 62
        await site.move(1)
        assert worker.take() == [("a", 1)]


async def test_the_clock_stands_still_through_a_step_back() -> None:
    async with started(Site()) as site:
        worker = site.connect()
        site.put("a", START_MS + 100)
        await site.move(-5000)
        await site.move(5050)
        assert worker.take() == []
        await site.move(50)
        assert worker.take() == [("a", 1)]


async def test_after_a_step_back_nothing_fires_before_its_time_by_the_new_clock() -> None:
    site = Site()
    back_ms = 0
    site.service._wall_ns = lambda: (site.ms - back_ms) * 1_000_000
    async with started(site):
        worker = site.connect()
        await site.move(10)
        back_ms = 60_000
        await site.move(1)
        site.put("a", site.ms - back_ms + 5_000)
        for _ in range(4):
            await site.move(1_000)
        assert worker.take() == []
        await site.move(60_000)
        assert worker.take() == [("a", 1)]


async def test_a_message_that_is_no_result_cuts_the_stream_off() -> None:
    async with started(Site()) as site:
        worker = site.connect()
        assert worker.stream is not None
        site.service.on_acks(worker.stream, [b"\xff"])
        await rest()
        assert worker.cut == "unexpected message: a result is required"


async def test_after_stop_nothing_fires_and_results_that_were_there_are_stored() -> None:
    site = Site()
    async with started(site):
        worker = site.connect()
        site.put("a", START_MS)
        site.put("b", START_MS + 100)
        await site.move(1)
        assert worker.stream is not None
        assert site.service.engine.on_acks(worker.stream, [result(1)], site.ms) is None
    await site.move(1000)
    assert worker.take() == [("a", 1)]
    assert list(site.kv.etcd.keys) == [JOBS + ROUTE + b"b"]


async def test_notes_are_bounded() -> None:
    async with started(Site()) as site:
        for index in range(100):
            site.kv.etcd.put(JOBS + b"bad%d" % index, b"\xff")
        assert site.service.stats()["undecodable"] == 100
        assert len([1 for message in site.engine_log.texts() if message == "undecodable job"]) == 20


async def test_a_stop_that_cannot_revoke_says_so_and_ends() -> None:
    site = Site()
    await site.service.start()
    await rest()

    async def fails(lease: int) -> None:
        raise TimeoutError

    site.kv.lease_revoke = fails  # type: ignore[method-assign]
    await site.service.stop()
    assert any("could not be revoked" in text for text in site.engine_log.texts())
