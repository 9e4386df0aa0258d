"""Random jobs for `trigger_stories`: as a request says them, and as their owner means them.

`scale`: what a story takes for its second, in seconds: 1, or 3600 where days go by.
"""

import random
from datetime import UTC, datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from google.protobuf import any_pb2
from trigger_model import NS, Cron, Every, Retry, Spec

from raftsched.pb.dapr import scheduler_pb2
from raftsched.testing.scheduling import policy

ZONES = ("", "UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "America/Santiago")
SHORT_CRONS = ("* * * * * *", "*/2 * * * * *", "*/7 * * ? * *", "0,15,30-40/5 * * * * *", "10/20 * * * * *", "5-59/3 */2 * * * *")
LONG_CRONS = (
    "0 30 2 * * *",
    "0 0 */6 * * mon-fri",
    "0 15 1,2,3 * * *",
    "30 59 23 * oct-nov sun,3",
    "0 0 0 1 * 1",
    "0 0 12 */2 mar-apr *",
    "@hourly",
    "@daily",
    "@midnight",
    "@weekly",
)
CHANGES = (  # instants by which clocks or calendars turn
    datetime(2026, 3, 29, 1, tzinfo=UTC),
    datetime(2026, 10, 25, 1, tzinfo=UTC),
    datetime(2026, 11, 1, 6, tzinfo=UTC),
    datetime(2026, 4, 4, 15, tzinfo=UTC),
    datetime(2026, 9, 6, 4, tzinfo=UTC),
    datetime(2028, 2, 29, 0, tzinfo=UTC),
    datetime(2027, 1, 1, 0, tzinfo=UTC),
)


class Drawn(NamedTuple):
    """A job for ScheduleJob, and what it means."""

    job: scheduler_pb2.Job
    spec: Spec


def beginning_ns(chance: random.Random, scale: int) -> int:
    """Where a story begins: shortly before something turns, or anywhere."""
    at_s = int(chance.choice(CHANGES).timestamp()) - chance.choice([5, 20, 60]) * scale
    if chance.random() < 0.3:
        at_s = chance.randrange(1_767_225_600, 1_830_000_000)
    return at_s * NS + chance.randrange(NS)


def go_duration(ns: int) -> str:
    """One of the ways to write it."""
    sign, ns = ("-", -ns) if ns < 0 else ("", ns)
    hours, rest = divmod(ns, 3600 * NS)
    seconds, below = divmod(rest, NS)
    parts = (f"{hours}h" if hours else "") + (f"{seconds}s" if seconds else "") + (f"{below}ns" if below else "")
    return sign + (parts or "0s")


def rfc3339(ns: int, chance: random.Random) -> str:
    zone = ZoneInfo(chance.choice(["UTC", "Europe/Berlin", "America/New_York"]))
    wall = datetime.fromtimestamp(ns // NS, zone)
    offset = wall.strftime("%z")
    return f"{wall:%Y-%m-%dT%H:%M:%S}.{ns % NS:09d}{offset[:3]}:{offset[3:]}"


def drawn_instant(chance: random.Random, now_ns: int, low: float, high: float, scale: int) -> tuple[str, Any]:
    """(text, from its base to the instant)."""
    delta = int(chance.uniform(low, high) * 1000) * scale * 1_000_000
    kind = chance.choice(["go", "iso", "instant"])
    if kind == "instant":
        return rfc3339(now_ns + delta, chance), lambda base: now_ns + delta
    if kind == "iso" and delta >= 0:
        seconds = delta // NS
        return f"PT{seconds // 60}M{seconds % 60}S", lambda base: base + seconds * NS
    return go_duration(delta), lambda base: base + delta


def drawn_schedule(chance: random.Random, scale: int) -> tuple[str | None, Every | Cron | None]:
    kind = chance.choice(["once", "every", "every", "cron", "cron"])
    if kind == "once":
        return None, None
    if kind == "every":
        interval_ns = chance.choice([0, 1, 250, 700, 1_000, 1_500, 2_300, 9_000]) * 1_000_000 * scale
        return f"@every {go_duration(interval_ns)}", Every(interval_ns)
    text, zone = chance.choice(SHORT_CRONS if scale == 1 else LONG_CRONS), chance.choice(ZONES)
    prefix = f"{chance.choice(['TZ', 'CRON_TZ'])}={zone} " if zone else ""
    return prefix + text, Cron(text, ZoneInfo(zone) if zone else UTC)


def drawn_policy(chance: random.Random, scale: int) -> tuple[bytes | None, Retry | None]:
    kind = chance.choice(["default", "drop", "constant", "constant"])
    if kind == "default":
        return None, Retry(NS, 3)
    if kind == "drop":
        return policy(drop=True), None
    interval = chance.choice([None, 0, 300, 1_700])
    most = chance.choice([0, 1, 2, 5])
    interval_ms = None if interval is None else interval * scale
    return policy(interval_ms=interval_ms, max_retries=most), Retry((interval_ms or 0) * 1_000_000, most)


def drawn_job(chance: random.Random, now_ns: int, scale: int) -> Drawn:
    """Any kind of job; who is quick ends soon."""
    text, schedule = drawn_schedule(chance, scale)
    quick = isinstance(schedule, Every) and schedule.interval_ns <= 300_000_000 * scale
    due = drawn_instant(chance, now_ns, -4, 8, scale) if schedule is None or chance.random() < 0.4 else None
    ttl = drawn_instant(chance, now_ns, 0, 15, scale) if schedule is not None and chance.random() < 0.3 else None
    repeats = chance.randrange(1, 6) if schedule is not None and (quick or chance.random() < 0.3) else None
    wire, retry = drawn_policy(chance, scale)
    payload = any_pb2.Any(type_url="x", value=chance.randbytes(4))
    spec = Spec(schedule, due and due[1], ttl and ttl[1], repeats, retry, payload.SerializeToString())
    job = scheduler_pb2.Job(schedule=text, repeats=repeats, due_time=due and due[0], ttl=ttl and ttl[0], data=payload)
    if wire is not None:
        job.failure_policy.ParseFromString(wire)
    return Drawn(job, spec)
