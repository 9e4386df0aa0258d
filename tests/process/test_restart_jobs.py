"""Jobs over kill -9: every tick counts once in the store, whatever moment the server dies at (issue §5, "Restart").

What is known from outside: a delivery carries a job's name; the counter key tells what is committed. A job never overlaps itself, so in
the life of one server it gets one delivery per committed tick, and at most one more: that of the tick whose result was not committed.
"""

import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import FAILED, SUCCESS, Clients, Worker, composed, constant, instant_ns, wait_for

from raftsched.testing.process import ServerProcess

pytestmark = [pytest.mark.process, pytest.mark.once]
KILLS = 15
INTERVAL_NS = 200_000_000


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[ServerProcess]:
    """Not started yet, because these tests do that often."""
    server = ServerProcess(tmp_path / "server")
    yield server
    if server.process is not None:
        server.kill()


def restart(server: ServerProcess) -> None:
    server.kill()
    server.start()


def counts(clients: Clients, names: list[str]) -> dict[str, int]:
    found = {name: clients.counter(name) for name in names}
    return {name: 0 if counter is None else counter.count for name, counter in found.items()}


@pytest.mark.slow
def test_no_tick_is_lost_and_none_that_was_committed_comes_again(stopped: ServerProcess) -> None:
    names = [f"tick-{number}" for number in range(5)]
    chance = random.Random(7)
    before = dict.fromkeys(names, 0)
    again = 0
    stopped.start()
    clients = Clients(stopped)
    for name in names:
        clients.schedule(name, schedule="@every 200ms")
    for _ in range(KILLS):
        worker = Worker(stopped, answer=lambda _: SUCCESS if chance.random() < 0.9 else None)
        time.sleep(chance.uniform(0.1, 0.7))  # the moment of the kill, not a wait for a condition
        stopped.kill()
        worker.stop()
        clients.close()
        stopped.start()
        clients = Clients(stopped)
        after = counts(clients, names)  # nobody is connected, so nothing can be committed now
        delivered = Counter(worker.deliveries)
        for name in names:
            extra = delivered[name] - (after[name] - before[name])
            assert extra in (0, 1), f"{name}: {before[name]} then {after[name]} ticks committed, {delivered[name]} delivered in between"
            again += extra
        before = after
    with Worker(stopped):
        wait_for(lambda: all(behind_ns(clients, name) < 2 * INTERVAL_NS for name in names), 60, "the missed ticks were not caught up with")
    for name in names:
        job, counter = clients.stored_job(name), clients.counter(name)
        assert job is not None
        assert counter is not None
        assert instant_ns(counter.last_trigger) == instant_ns(job.start) + counter.count * INTERVAL_NS, (
            "a tick is missing, or counted twice"
        )
    assert min(before.values()) > KILLS
    assert again > 0, "no kill hit a tick that was under way: nothing was shown"
    clients.close()
    assert stopped.stop() == 0


def behind_ns(clients: Clients, name: str) -> int:
    counter = clients.counter(name)
    return time.time_ns() if counter is None else time.time_ns() - instant_ns(counter.last_trigger)


def test_a_tick_without_a_result_comes_again(stopped: ServerProcess) -> None:
    stopped.start()
    clients = Clients(stopped)
    clients.schedule("silent", due_time="0s", schedule="@every 1h")
    with Worker(stopped, answer=lambda _: None) as worker:
        wait_for(lambda: worker.deliveries, 10, "never delivered")
        restart(stopped)
        wait_for(lambda: len(worker.deliveries) == 2, 10, "not delivered again")
        assert counts(clients, ["silent"]) == {"silent": 0}
    clients.close()


def test_a_finished_one_shot_does_not_come_back(stopped: ServerProcess) -> None:
    stopped.start()
    clients = Clients(stopped)
    with Worker(stopped) as worker:
        clients.schedule("once", due_time="0s")
        wait_for(lambda: not clients.under(b"dapr/jobs/"), 10, "its key stays")
        restart(stopped)
        clients.schedule("later", due_time="0s")
        wait_for(lambda: "later" in worker.deliveries, 15, "the worker gets nothing more")
        assert worker.deliveries == ["once", "later"]
        wait_for(lambda: not clients.under(b"dapr/jobs/"), 10, "its key stays")
        assert clients.under(b"dapr/counters/") == {}
    clients.close()


def test_repeats_are_counted_over_restarts(stopped: ServerProcess) -> None:
    stopped.start()
    clients = Clients(stopped)
    clients.schedule("five", schedule="@every 200ms", repeats=5)
    clients.schedule("bounded", schedule="@every 1s", ttl="3s")
    answers = {"five": 2, "bounded": 1}

    def answer(name: str) -> int | None:
        answers[name] -= 1
        return SUCCESS if answers[name] >= 0 else None

    with Worker(stopped, answer=answer):
        wait_for(lambda: counts(clients, ["five", "bounded"]) == {"five": 2, "bounded": 1}, 10, "not counted")
    stopped.kill()
    time.sleep(2)  # the ttl passes while nobody is there: its ticks are due all the same
    stopped.start()
    assert counts(clients, ["five", "bounded"]) == {"five": 2, "bounded": 1}
    with Worker(stopped) as worker:
        wait_for(lambda: not clients.under(b"dapr/jobs/"), 10, "the jobs do not end")
        assert Counter(worker.deliveries) == {"five": 3, "bounded": 2}
    assert clients.under(b"dapr/counters/") == {}
    clients.close()


def test_attempts_are_counted_over_restarts(stopped: ServerProcess) -> None:
    stopped.start()
    clients = Clients(stopped)
    clients.schedule("failing", due_time="0s", policy=constant(50, 4))
    left = 3

    def fail_thrice(_: str) -> int | None:
        nonlocal left
        left -= 1
        return FAILED if left >= 0 else None

    def attempts() -> int:
        counter = clients.counter("failing")
        return 0 if counter is None else counter.attempts

    with Worker(stopped, answer=fail_thrice) as worker:
        wait_for(lambda: len(worker.deliveries) == 4, 10, "not tried again")
        assert attempts() == 3
        stopped.kill()
    stopped.start()
    assert attempts() == 3
    with Worker(stopped, answer=lambda _: FAILED) as worker:
        wait_for(lambda: not clients.under(b"dapr/jobs/"), 10, "tried for ever")
        assert len(worker.deliveries) == 2, "five deliveries in all for four retries, the fourth twice because of the kill"
    assert clients.get(b"dapr/counters/" + composed("failing")) is None
    clients.close()
