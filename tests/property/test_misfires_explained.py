"""What is explained of an outage is what the engine runs after it: random schedules, policies and outages."""

from hypothesis import given, settings
from hypothesis import strategies as st

from raftsched.pb.v1 import state_pb2
from raftsched.scheduler.jobs.names import STATES
from raftsched.scheduler.schedule.explain import Asked, Outage, explain
from raftsched.scheduler.schedule.misfires import Misfire
from raftsched.testing.scheduling import START_MS, Bench

NS_PER_MS = 1_000_000
SCHEDULES = [
    "@every 1s",
    "@every 7s",
    "@every 1500ms",
    "*/5 * * * * *",
    "0 */2 * * * *",
    "30 0 * * * *",
    "CRON_TZ=Europe/Rome 0 30 2 * * *",
    "DIALECT=extended */5 * * * * *",
    "DIALECT=extended JITTER=3s @every 7s",
    "DIALECT=extended JITTER=20s H/2 * * * *",
]
FIRES = 12

policies = st.tuples(st.none() | st.integers(0, 4_000).map(lambda tenths: tenths * 100), st.sampled_from([0, 1, 2, 5]))


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(SCHEDULES),
    policies,
    st.integers(0, 200_000) | st.integers(0, 200).map(lambda s: s * 1_000),
    st.none() | st.integers(0, 300),
    st.none() | st.integers(1, 8),
)
def test_the_engine_runs_what_was_explained(
    schedule: str, policy: tuple[int | None, int], away_ms: int, ttl_s: int | None, repeats: int | None
) -> None:
    window_ms, most = policy
    bench = Bench()
    wanted = state_pb2.Misfire(max=most)
    if window_ms is not None:
        wanted.window.FromMilliseconds(window_ms)
    expires_ms = None if ttl_s is None else START_MS + ttl_s * 1_000
    name = bench.put("a", schedule=schedule, expires_ms=expires_ms, repeats=repeats)
    bench.etcd.put(STATES + name, state_pb2.JobExtra(misfire=wanted).SerializeToString())
    back_ns = (START_MS + away_ms) * NS_PER_MS
    asked = Asked(schedule, None, None if ttl_s is None else f"{ttl_s}s", repeats, name)
    misfire = Misfire(None if window_ms is None else window_ms * NS_PER_MS, most)
    found = explain(bench.schedules, asked, now_ns=START_MS * NS_PER_MS, count=FIRES, outage=Outage(back_ns, misfire))
    bench.now_ms = START_MS + away_ms
    bench.tick()
    worker = bench.connect_batched()
    came = []
    while worker.got and len(came) < found.missed:
        trigger = worker.got.pop()
        came.append(trigger.scheduled_at.ToNanoseconds())
        bench.ack(worker, trigger.id)
        bench.tick()
    assert came == [fire.at_ns for fire in found.fires[: found.missed]]
    if len(came) < FIRES:
        assert worker.got == []
        view = bench.engine.look(name)
        later = [fire.at_ns for fire in found.fires[found.missed :]]
        following = view[4] if view is not None and not view[5] else None
        assert (following and following[0] * 10**9 + following[1]) == (later[0] if later else None)
    if not ttl_s and found.missed < FIRES and came:
        assert bench.engine.metrics()["passed"][1] == found.passed_over
