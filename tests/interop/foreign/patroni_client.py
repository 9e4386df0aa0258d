"""What Patroni does with its class for etcd's API v3, over the JSON gateway: a node that becomes leader, keeps its place, and leaves."""

import sys
import time

from patroni.dcs import get_dcs
from patroni.dcs.etcd3 import Etcd3
from patroni.exceptions import PatroniFatalException

CONFIG = {"scope": "pat", "namespace": "service", "name": "node1", "ttl": 30, "loop_wait": 10, "retry_timeout": 10}


def open_dcs(name: str, address: str) -> Etcd3:
    dcs = get_dcs(CONFIG | {"name": name, "etcd3": {"host": address}})
    assert isinstance(dcs, Etcd3), PatroniFatalException
    return dcs


def until(holds, what: str) -> None:
    for _ in range(600):
        if holds():
            return
        time.sleep(0.1)
    raise AssertionError(f"waited in vain for {what}")


one, other = open_dcs("node1", sys.argv[1]), open_dcs("node2", sys.argv[1])
assert one.initialize(create_new=True, sysid="7")
assert not other.initialize(create_new=True, sysid="8")
print("initialize")
for dcs in (one, other):
    assert dcs.touch_member({"state": "running", "conn_url": "postgres://127.0.0.1/", "role": "replica"})
assert one.attempt_to_acquire_leader()
assert not other.attempt_to_acquire_leader()
print("leader")
# what the other knows, it knows by the watch behind its cache
until(lambda: (cluster := other.get_cluster()).leader is not None and cluster.leader.name == "node1", "the leader to be seen")
cluster = other.get_cluster()
assert sorted(member.name for member in cluster.members) == ["node1", "node2"]
print("cluster")
assert one.set_config_value('{"ttl":30}')
assert one.set_history_value("[]")
assert one.set_sync_state_value('{"leader":"node1"}')
assert one.update_leader(one.get_cluster(), 17, None, {})
until(lambda: other.get_cluster().status.last_lsn == 17, "the position")
print("status")
leader = one.get_cluster().leader
assert one.delete_leader(leader, 18)
until(lambda: other.get_cluster().is_unlocked(), "the lock to be free")
assert other.attempt_to_acquire_leader()
until(lambda: one.get_cluster().leader is not None and one.get_cluster().leader.name == "node2", "the new leader")
print("failover")
assert one.delete_cluster()
print("delete")
