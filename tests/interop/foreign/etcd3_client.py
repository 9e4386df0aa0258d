"""What programs do with python-etcd3 and with its heir, etcd-sdk-python: the same calls."""

import importlib
import sys

library = importlib.import_module(sys.argv[1])
host, _, port = sys.argv[2].partition(":")
client = library.client(host=host, port=int(port), timeout=20)
top = sys.argv[1]

client.put(f"{top}/a", "1")
assert client.get(f"{top}/a")[0] == b"1"
assert client.get(f"{top}/none") == (None, None)
lease = client.lease(60)
client.put(f"{top}/b", "2", lease=lease)
assert [value for value, _ in client.get_prefix(f"{top}/")] == [b"1", b"2"]
assert [value for value, _ in client.get_range(f"{top}/a", f"{top}/b")] == [b"1"]
print("keys")
done, answers = client.transaction(
    compare=[client.transactions.value(f"{top}/a") == "1", client.transactions.version(f"{top}/b") > 0],
    success=[client.transactions.put(f"{top}/a", "3"), client.transactions.get(f"{top}/a")],
    failure=[],
)
assert done
assert answers[1][0][0] == b"3"
assert client.replace(f"{top}/a", "3", "4")
assert not client.replace(f"{top}/a", "3", "5")
assert not client.put_if_not_exists(f"{top}/a", "5")
print("transactions")
begin = client.get(f"{top}/a")[1].mod_revision
client.put(f"{top}/a", "6")
client.delete(f"{top}/a")
events, cancel = client.watch_prefix(f"{top}/", start_revision=begin)
seen = [type(next(events)).__name__ for _ in range(3)]
cancel()
assert seen == ["PutEvent", "PutEvent", "DeleteEvent"], seen
print("watch")
assert lease.granted_ttl == 60
assert [bytes(key) for key in lease.keys] == [f"{top}/b".encode()]
lease.refresh()
lease.revoke()
assert client.get(f"{top}/b") == (None, None)
print("leases")
with client.lock(f"{top}", ttl=10) as lock:
    assert lock.is_acquired()
    assert not client.lock(f"{top}", ttl=10).acquire(timeout=0)
print("locks")
status = client.status()
assert status.version == "3.7.1"
assert status.leader is not None
assert len(list(client.members)) in {1, 3}
assert list(client.list_alarms()) == []
client.compact(begin)
client.defragment()
client.delete_prefix(f"{top}/")
client.close()
print("cluster")
