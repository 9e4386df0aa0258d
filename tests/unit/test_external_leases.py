"""`ExternalKv`'s user, lease and fence before a scripted etcd, and what it says of its health."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from external_side import UNAVAILABLE, Lines, Sink, fake, kv, lines, live, second, until

from raftsched.errors import EtcdError, StatusError
from raftsched.proposals import PUT
from raftsched.scheduler.bridge.external import condition, endpoints, leases
from raftsched.scheduler.bridge.external.kv import ExternalKv, Target
from raftsched.scheduler.jobs.names import JOBS
from raftsched.scheduler.jobs.requests import create_request, put_request, range_request
from raftsched.testing.fake_etcd import HANGS, LATE, LOST, FakeEtcd

__all__ = ["fake", "kv", "lines", "second"]  # fixtures


# -- the name


@pytest.fixture
async def named(fake: FakeEtcd, lines: Lines) -> AsyncIterator[ExternalKv]:
    made = ExternalKv([Target(fake.address, False)], log=lines, user="scheduler", password="secret")
    made.start()
    yield made
    await made.close()


async def test_a_token_is_taken_and_taken_anew(fake: FakeEtcd, named: ExternalKv) -> None:
    fake.password = "secret"
    await named.txn(create_request(b"a", b"1"))
    await live(named)
    count = fake.count("Authenticate")
    assert count == 1
    fake.tokens.clear()  # simple tokens run out
    results = await asyncio.gather(*(named.range(range_request(b"a")) for _ in range(10)))
    assert {revision for revision, _ in results} == {2}
    assert fake.count("Authenticate") == count + 1
    fake.tokens.clear()
    named._watch.restart()
    sink = Sink()
    named.subscribe(sink)
    fake.etcd.put(JOBS + b"a", b"1")
    await until(lambda: sink.changes)


async def test_a_write_refused_for_its_token_was_not_done_and_is_sent_again(fake: FakeEtcd, named: ExternalKv) -> None:
    fake.password = "secret"
    sink = await live(named)
    for error in (EtcdError.INVALID_AUTH_TOKEN, EtcdError.AUTH_OLD_REVISION):
        fake.faults["Put"].append(error)
        fake.tokens.add("x" * len(sink.results))
        named.write_many(PUT, [put_request(JOBS + b"a", b"1")], [int(error)], sink)
        await until(lambda error=error: int(error) in sink.results)  # type: ignore[misc]
    assert {result[0] for result in sink.results.values()} == {0}


async def test_a_user_at_an_etcd_without_authentication(fake: FakeEtcd, named: ExternalKv) -> None:
    """spec §11: MUST work; and when it is switched on later."""
    await named.txn(create_request(b"a", b"1"))
    fake.password = "secret"
    await named.txn(create_request(b"b", b"1"))
    fake.password = None
    await named.txn(create_request(b"c", b"1"))
    assert len(fake.etcd.keys) == 3


async def test_a_wrong_password_is_told_and_not_tried_all_the_time(fake: FakeEtcd, named: ExternalKv, lines: Lines) -> None:
    fake.password = "another"
    for _ in range(5):
        with pytest.raises(StatusError, match="authentication failed, invalid user ID or password"):
            await named.txn(create_request(b"a", b"1"))
    assert fake.count("Authenticate") <= 2
    assert "etcd refuses the user" in lines.lines
    fake.password = "secret"
    await until(lambda: named.reachable, 10)
    await named.txn(create_request(b"a", b"1"))


# -- leases


async def test_the_fence_is_counted_from_before_the_question(fake: FakeEtcd, kv: ExternalKv, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("EXTERNAL_RENEW_MS", 50), ("EXTERNAL_RENEW_TIMEOUT_MS", 2_000), ("EXTERNAL_RENEW_AGAIN_MS", 20)):
        monkeypatch.setattr(leases, name, value)
    assert kv.fence_ms() == 0
    before_ms = time.monotonic_ns() // 1_000_000
    lease = await kv.lease_grant(20)
    after_ms = time.monotonic_ns() // 1_000_000
    assert before_ms <= kv.fence_ms() - 16_000 <= after_ms
    first = kv.fence_ms()
    lost: list[bool] = []
    stop = kv.lease_keep_alive(lease, lambda: lost.append(True))
    await until(lambda: fake.renewals >= 3)
    assert kv.fence_ms() > first
    fake.faults["LeaseKeepAlive"].append(LATE)
    asked = fake.count("LeaseKeepAlive")
    await until(lambda: fake.count("LeaseKeepAlive") > asked)
    at_most_ms = time.monotonic_ns() // 1_000_000 + 16_000
    await asyncio.sleep(0.2)
    fake.faults["LeaseKeepAlive"].extend([HANGS] * 10)  # no other renewal
    fake.release.set()
    await until(lambda: fake.count("LeaseKeepAlive") > asked + 1)
    assert first < kv.fence_ms() <= at_most_ms
    fake.faults["LeaseKeepAlive"].clear()
    renewals = fake.renewals
    await until(lambda: fake.renewals > renewals)
    fake.faults["LeaseKeepAlive"].extend([EtcdError.NO_LEADER, UNAVAILABLE])
    renewals = fake.renewals
    await until(lambda: fake.renewals > renewals)
    assert not lost
    await kv.lease_revoke(lease)
    assert kv.fence_ms() == 0  # at once, before anybody else can be told
    await until(lambda: lost)
    stop()


async def test_a_lease_that_is_gone_ends_the_fence(fake: FakeEtcd, kv: ExternalKv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "EXTERNAL_RENEW_MS", 20)
    lease = await kv.lease_grant(20)
    lost: list[bool] = []
    kv.lease_keep_alive(lease, lambda: lost.append(True))
    await until(lambda: fake.renewals)
    fake.etcd.revoke(lease)
    await until(lambda: lost)
    assert kv.fence_ms() == 0
    assert lost == [True]


async def test_a_lost_answer_makes_no_second_lease(fake: FakeEtcd, kv: ExternalKv) -> None:
    fake.faults["LeaseGrant"].append(LOST)
    fake.faults["LeaseRevoke"].append(LOST)
    lease = await kv.lease_grant(20)
    assert list(fake.etcd.leases) == [lease]
    await kv.lease_revoke(lease)
    assert not fake.etcd.leases


async def test_a_renewal_that_hangs_is_given_up(fake: FakeEtcd, kv: ExternalKv, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("EXTERNAL_RENEW_MS", 20), ("EXTERNAL_RENEW_TIMEOUT_MS", 100), ("EXTERNAL_RENEW_AGAIN_MS", 20)):
        monkeypatch.setattr(leases, name, value)
    lease = await kv.lease_grant(20)
    fake.faults["LeaseKeepAlive"].extend([HANGS, HANGS])
    kv.lease_keep_alive(lease, lambda: None)
    await until(lambda: fake.renewals >= 2)


async def test_a_lease_that_is_not_renewed_is_said_with_what_follows(
    fake: FakeEtcd, kv: ExternalKv, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads are answered, renewals are not: the fence ends, which /healthz and the log tell, and it goes on by itself."""
    monkeypatch.setattr(condition, "EXTERNAL_LOOK_MS", 20)
    monkeypatch.setattr(condition, "EXTERNAL_UNHEALTHY_MS", 200)
    for name, value in (("EXTERNAL_RENEW_MS", 20), ("EXTERNAL_RENEW_AGAIN_MS", 20), ("EXTERNAL_FENCE_MARGIN_MS", 19_300)):
        monkeypatch.setattr(leases, name, value)
    await live(kv)
    await until(lambda: kv.reachable)
    lease = await kv.lease_grant(20)
    lost: list[bool] = []
    kv.lease_keep_alive(lease, lambda: lost.append(True))
    await until(lambda: fake.renewals >= 2)
    fake.faults["LeaseKeepAlive"].extend([EtcdError.TIMEOUT_WAIT_APPLIED] * 1000)
    await until(lambda: "leadership lease is not renewed" in kv.condition.trouble)
    assert kv.fence_ms() < time.monotonic_ns() // 1_000_000
    await until(lambda: not kv.healthy)
    told = [line for line in lines.lines if line.startswith("the leadership lease could not be renewed")]
    assert len(told) == 2  # when it begins, and when it has consequences
    assert "asked again in 20 ms, triggers pause in" in told[0]
    assert told[1].endswith("triggers pause until it is")
    assert kv.stats()["raftsched_external_lease_renewals_failed_total"] > 2
    fake.faults["LeaseKeepAlive"].clear()
    await until(lambda: kv.fence_ms() > time.monotonic_ns() // 1_000_000)
    assert "the leadership lease is answered for again" in lines.lines
    await until(lambda: kv.healthy and kv.reachable)
    assert not lost


# -- how it is


async def test_health_tells_of_trouble_after_a_while(fake: FakeEtcd, kv: ExternalKv, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(condition, "EXTERNAL_LOOK_MS", 20)
    monkeypatch.setattr(condition, "EXTERNAL_UNHEALTHY_MS", 300)
    assert kv.healthy
    await until(lambda: kv.reachable)
    for begin, end in ((lambda: fake.alarms.append("memberID:1 alarm:NOSPACE"), fake.alarms.clear),):
        begin()
        await until(lambda: not kv.reachable)
        assert kv.healthy  # for a moment
        await until(lambda: not kv.healthy)
        end()
        await until(lambda: kv.healthy and kv.reachable)
    await fake.close()
    await until(lambda: not kv.healthy)
    await fake.open()
    await until(lambda: kv.healthy and kv.reachable)
    told = [line for line in lines.lines if line.startswith(("etcd", "connected"))]
    assert told[0].startswith(("etcd is in trouble", "connected to etcd"))
    assert any("NOSPACE" in line for line in told)
    assert told.count("etcd answers again") >= 2


async def test_an_etcd_that_was_never_there_is_no_illness_at_first(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(condition, "EXTERNAL_LOOK_MS", 20)
    monkeypatch.setattr(condition, "EXTERNAL_UNHEALTHY_MS", 10)
    monkeypatch.setattr(condition, "EXTERNAL_START_MS", 500)
    gone = FakeEtcd()
    async with gone:
        pass
    kv = ExternalKv([Target(gone.address, False)], log=lines)
    kv.start()
    await asyncio.sleep(0.2)
    assert kv.healthy
    assert not kv.reachable
    await until(lambda: not kv.healthy)
    async with FakeEtcd() as late:
        kv._caller.endpoints._targets = [Target(late.address, False)]
        kv._caller.endpoints._channels.clear()
        await until(lambda: kv.healthy and kv.reachable)
        await kv.close()


async def test_another_member_is_asked_when_one_fails(fake: FakeEtcd, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "EXTERNAL_AVOID_MS", 60_000)
    second = FakeEtcd(fake.etcd)
    second.history = fake.history
    async with second:
        kv = ExternalKv([Target(fake.address, False), Target(second.address, False)], log=lines)
        kv.start()
        sink = await live(kv)
        asked, other = (fake, second) if fake.watches else (second, fake)
        await asked.close()
        fake.etcd.put(JOBS + b"a", b"1")
        await until(lambda: sink.changes)
        assert other.watches
        await kv.range(range_request(b"a"))
        assert kv._caller.endpoints.address == other.address
        assert sum(line.startswith("a member of etcd failed: ") for line in lines.lines) == 1
        await kv.close()
        if asked is fake:
            await fake.open()
        else:
            await second.open()
