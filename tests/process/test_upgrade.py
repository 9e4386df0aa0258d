"""A rolling upgrade of three processes under load: two versions work together, and the cluster's rises when all have the new one."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from clustering import get, put, under_load
from serving import ends, fetch, wait_for

from raftsched import server
from raftsched.testing.cluster import Cluster, Member

pytestmark = [pytest.mark.process, pytest.mark.slow]
MAJOR, MINOR, _ = server.ETCD_VERSION
OLD, NEW = f"{MAJOR}.{MINOR}.0", f"{MAJOR}.{MINOR + 1}.0"
LOOKS_S = 1.0  # a leader looks at the versions every half a second
GAP_MS_MAX = 5_000.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as made:
        yield made


def shown(member: Member) -> str:
    """The cluster's version, as this member knows it."""
    return str(json.loads(fetch(member.client_port, "/version")[1])["etcdcluster"])


def upgraded(member: Member) -> list[str]:
    """The command of the next version."""
    assert member.command[1:3] == ["-m", "raftsched"]
    return [member.command[0], str(Path(__file__).with_name("newer_member.py")), *member.command[3:]]


def test_a_rolling_upgrade_under_load(cluster: Cluster) -> None:
    wait_for(lambda: [shown(one) for one in cluster.members] == [OLD] * 3, 20, cluster.logs)
    old_command = cluster.members[0].command
    with under_load(cluster) as load:
        for member in cluster.members:
            time.sleep(LOOKS_S)
            assert [shown(one) for one in cluster.members] == [OLD] * 3, "raised before all agree"
            begin = load.now_ns()
            assert member.stop() == 0
            cluster.leader()
            member.command = upgraded(member)
            member.start()
            cluster.leader()
            assert load.longest_gap_ms(begin) < GAP_MS_MAX
        wait_for(lambda: [shown(one) for one in cluster.members] == [NEW] * 3, 20, cluster.logs)
        time.sleep(LOOKS_S)  # load on the raised version
    back = cluster.members[0]
    assert back.stop() == 0
    back.command, newer = old_command, back.command
    back.start(wait=False)
    assert ends(back) == 1
    assert f"of version {OLD}, its cluster is of version {NEW}" in back.logs()
    put(cluster.members[1], b"k", b"two go on")
    back.command = newer
    back.start()
    wait_for(lambda: get(back, b"k", serializable=True) == b"two go on", 20, cluster.logs)
