"""What /healthz says while a member waits for others (decision 0009), to a kubelet that starts and updates pods one by one."""

import time
from pathlib import Path

import pytest
from clustering import get, make_cluster, needs_raftsched, put
from serving import wait_for

from raftsched.limits import HEALTH_ALONE_MS
from raftsched.testing.cluster import Member

pytestmark = [pytest.mark.process, needs_raftsched]


def until_healthy(one: Member, timeout_s: float = 20) -> list[int]:
    """What /healthz says one after another, up to 200."""
    seen: list[int] = []
    deadline = time.monotonic() + timeout_s
    while 200 not in seen:
        assert time.monotonic() < deadline, f"{seen}\n{one.logs()}"
        code = one.health()
        if code and (not seen or seen[-1] != code):
            seen.append(code)
        time.sleep(0.01)
    return seen


def test_members_that_are_started_one_by_one_become_healthy_one_by_one(tmp_path: Path) -> None:
    cluster = make_cluster(tmp_path)
    first, second, third = cluster.members
    try:
        began = time.monotonic()
        first.start(wait=False)
        assert until_healthy(first) == [503, 200]
        assert time.monotonic() - began > HEALTH_ALONE_MS / 1000
        assert not first.listens, "it has nobody to form a cluster with"
        second.start(wait=False)
        until_healthy(second)
        third.start(wait=False)
        for one in cluster.members:
            one.wait_ready(30)
        put(first, b"k", b"v")

        # a rolling restart: who is not back yet is not healthy, or the next one would be stopped too early
        for one in cluster.members:
            one.stop()
            one.start(wait=False)
            until_healthy(one)
            assert one.listens, "healthy means here that it serves"
            assert get(one, b"k") == b"v"

        # the majority is gone: those who are left, and who comes back to them, wait; that is no illness
        second.kill()
        third.kill()
        time.sleep(HEALTH_ALONE_MS / 1000 + 2)
        assert first.health() == 200
        first.kill()
        first.start(wait=False)
        assert until_healthy(first) == [503, 200]
        assert not first.listens
        second.start(wait=False)
        wait_for(lambda: first.listens and second.listens, 20, cluster.logs())
        assert get(first, b"k") == b"v"
    finally:
        cluster.close()
