"""The ticks of random schedules beside the Dapr Scheduler itself: jobs due in the past deliver what was missed tick by tick, so the
counters in both stores tell each instant that a schedule has, over leap years and the changes of summer time, years in a second.
"""

import random
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from amounts import SEED, Record
from dapr_pair import OPTIONS, Pair, Side, app, pair, schedule_request
from real_dapr import dapr_scheduler
from test_real_dapr_watch import Stream, opening, result

from raftsched.pb.dapr import scheduler_pb2 as pb
from raftsched.pb.dapr import stored_pb2
from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc

pytestmark = pytest.mark.process
JOBS = 60
TICKS = 25  # of each; the last one is not in the store: its counter goes with the job
TIMEOUT_S = 120
COUNTERS = b"dapr/counters/"
ZONES = ("", "", "TZ=Europe/Berlin ", "CRON_TZ=America/New_York ", "TZ=Asia/Kolkata ", "TZ=America/St_Johns ", "TZ=Australia/Lord_Howe ")
ZONES += ("TZ=Africa/Casablanca ", "TZ=America/Sao_Paulo ", "TZ=Pacific/Apia ", "TZ=Europe/Dublin ", "TZ=Local ", "TZ=Etc/GMT-14 ")


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pair(dapr_scheduler(), tmp_path_factory.mktemp("ticks")) as made:
        yield made


def item(chance: random.Random, low: int, high: int, names: tuple[str, ...] = ()) -> str:
    """One field of a schedule."""
    kind = chance.random()
    if kind < 0.3:
        return chance.choice("**?")
    first, last = sorted((chance.randint(low, high), chance.randint(low, high)))
    if kind < 0.5:
        return str(first)
    if kind < 0.6 and names:
        return chance.choice(names)
    if kind < 0.75:
        return f"{first}-{last}"
    if kind < 0.85:
        return f"{chance.choice(('*', f'{first}-{last}', str(first)))}/{chance.randint(1, high)}"
    return ",".join(str(chance.randint(low, high)) for _ in range(chance.randint(2, 4)))


def job(chance: random.Random) -> dict[str, Any]:
    """Its schedule, and a due time within fifty years from 1971 on: early enough that all ticks lie behind."""
    if chance.random() < 0.15:
        schedule = chance.choice(("@every 1h30m", "@every 999ms", "@every 2500h", "@yearly", "@monthly", "@weekly", "@daily", "@hourly"))
    else:
        days, months = ("mon", "TUE", "sun", "sat-sat"), ("jan", "FEB", "oct")
        fields = [item(chance, 0, 59), item(chance, 0, 59), item(chance, 0, 23), item(chance, 1, 28)]
        fields += [item(chance, 1, 12, months), item(chance, 0, 6, days)]
        if chance.random() < 0.6:  # around the changes of summer time
            fields[0], fields[1], fields[2] = "0", chance.choice(("0", "30", "*/15")), chance.choice(("0", "1", "2", "3", "1-3", "*"))
        schedule = chance.choice(ZONES) + " ".join(fields)
    due = f"{chance.randint(1971, 1999)}-{chance.randint(1, 12):02}-{chance.randint(1, 28):02}T{chance.randint(0, 23):02}:30:00.25Z"
    return {"schedule": schedule, "due_time": due, "repeats": TICKS}


def instants(side: Side) -> dict[bytes, list[tuple[int, int, int]]]:
    """Count and instant of every counter that was ever stored, by key."""
    found: dict[bytes, list[tuple[int, int, int]]] = {}
    create = rpc_pb2.WatchCreateRequest(key=COUNTERS, range_end=COUNTERS[:-1] + b"0", start_revision=1)
    last = side.kv.Range(rpc_pb2.RangeRequest(key=COUNTERS), timeout=TIMEOUT_S).header.revision
    fence = rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest())
    with grpc.insecure_channel(side.server.client_address, options=OPTIONS) as channel:
        requests = iter([rpc_pb2.WatchRequest(create_request=create)])
        stream = rpc_pb2_grpc.WatchStub(channel).Watch(open_ended(requests, fence), timeout=TIMEOUT_S)
        for response in stream:
            for event in response.events:
                if event.type == event.PUT:
                    counter = stored_pb2.Counter.FromString(event.kv.value)
                    found.setdefault(event.kv.key, []).append((counter.count, counter.last_trigger.seconds, counter.last_trigger.nanos))
            if not response.events and not response.created and response.header.revision >= last:
                break
        stream.cancel()
    return found


def open_ended(requests: Iterator[Any], fence: Any) -> Iterator[Any]:
    """The requests, then one for progress from time to time: it is answered behind all events."""
    yield from requests
    for _ in range(TIMEOUT_S * 2):
        time.sleep(0.5)
        yield fence


def run_down(side: Side, jobs: int) -> None:
    """All ticks of all jobs are answered."""
    stream, answered = Stream(side, opening(app_id="ticks")), 0
    begin = time.monotonic()
    while answered < jobs * TICKS:
        assert time.monotonic() - begin < TIMEOUT_S, f"{answered} ticks, {stream.end}\n{side.server.logs()}"
        if answered == len(stream.triggers):
            time.sleep(0.005)
            continue
        stream.send(result(pb.WatchJobsResponse.FromString(stream.triggers[answered]).id))
        answered += 1
    stream.until(lambda _: not side.stored(b"dapr/jobs/app||ns||ticks"))
    stream.close()


def test_the_ticks_of_random_schedules(sides: Pair, record_property: Record) -> None:
    chance, jobs = random.Random(SEED), {}
    while len(jobs) < JOBS:
        made = schedule_request(f"{len(jobs)}", app("ticks"), **job(chance))
        if sides.ours.call("ScheduleJob", made.SerializeToString()).code == "OK":  # else it never fires
            assert sides.theirs.call("ScheduleJob", made.SerializeToString()).code == "OK", made
            jobs[COUNTERS + f"app||ns||ticks||{len(jobs)}".encode()] = made.job
    for side in sides.sides:
        run_down(side, len(jobs))
    theirs, ours = (instants(side) for side in sides.sides)
    for key, made in jobs.items():
        assert theirs[key] == ours[key], f"{made}\ntheirs: {theirs[key]}\nours:   {ours[key]}"
        assert len(theirs[key]) == TICKS - 1
        sides.compared += len(theirs[key])
    record_property("compared", sides.compared)
