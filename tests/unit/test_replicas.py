"""What a set of leadership keys means, and what of it may be taken for agreement."""

from raftsched.pb.etcd import kv_pb2
from raftsched.scheduler.jobs.names import LEADERSHIP
from raftsched.scheduler.jobs.requests import leadership_value
from raftsched.scheduler.replicas import Replicas, own_uid
from raftsched.types import Change

OWN_UID = own_uid(7 << 32)
OURS = own_uid(9 << 32)
DAPRS = 0x1234_5678_9ABC_DEF0


def name(one: str) -> bytes:
    return LEADERSHIP + one.encode()


class Store:
    """Writes keys and tells the replicas under test."""

    def __init__(self, own: str = "b", *, shared: bool = False) -> None:
        self.replicas = Replicas(name(own), OWN_UID, shared=shared)
        self.own = own
        self.revision = 10
        self.created: dict[str, int] = {}

    def put(self, one: str, total: int, uid: int = 0) -> bool:
        self.revision += 1
        created = self.created.setdefault(one, self.revision)
        value = leadership_value(total, uid or (OWN_UID if one == self.own else 100), f"{one}:1")
        kv = kv_pb2.KeyValue(key=name(one), value=value, create_revision=created, mod_revision=self.revision, lease=5)
        return self.replicas.note([Change(False, name(one), self.revision, 0, kv.SerializeToString())])

    def delete(self, one: str) -> bool:
        self.revision += 1
        self.created.pop(one, None)
        return self.replicas.note([Change(True, name(one), self.revision, 0, b"")])


def test_all_agree_when_each_key_says_the_size_and_is_no_older_than_the_youngest() -> None:
    store = Store()
    store.put("b", 1)
    assert store.replicas.agreed() == ["b:1"]
    store.put("a", 2)
    assert store.replicas.agreed() is None
    store.put("b", 2)
    assert store.replicas.agreed() == ["a:1", "b:1"]
    assert store.replicas.place() == (2, 1)


def test_one_that_leaves_while_another_joins_makes_no_agreement() -> None:
    store = Store()
    for one in "bcd":
        store.put(one, 3)
    for one in "bc":
        store.put(one, 3)
    assert store.replicas.agreed() is not None
    store.delete("d")
    store.put("a", 3)  # three keys, and each says three
    assert store.replicas.agreed() is None
    store.put("c", 3)
    assert store.replicas.agreed() is None
    store.put("b", 3)
    assert store.replicas.agreed() == ["a:1", "b:1", "c:1"]


def test_who_comes_back_is_a_new_one() -> None:
    store = Store()
    store.put("b", 1)
    store.put("a", 2)
    store.put("b", 2)
    assert store.replicas.agreed() is not None
    assert store.delete("a")
    store.put("a", 2)
    assert store.replicas.agreed() is None


def test_a_given_up_key_never_agrees_and_goes_without_a_trace() -> None:
    store = Store()
    store.put("a", 2)
    store.put("b", 2)
    store.put("a", 0)
    assert store.replicas.agreed() is None
    assert not store.delete("a")


def test_the_own_key_is_of_this_incarnation_and_its_end_is_no_surprise() -> None:
    store = Store()
    store.put("b", 1, uid=99)
    assert store.replicas.own is None
    store.put("b", 1)
    assert store.replicas.own is not None
    assert not store.delete("b")
    assert store.replicas.own is None


def test_what_was_read_is_compared_with_what_was_known() -> None:
    store = Store()
    store.put("a", 2)
    store.put("b", 2)
    known = store.replicas.keys[name("b")]
    row = (name("b"), known.value, known.changed, known.lease, known.created)
    assert store.replicas.replace([row])  # a went unseen
    assert list(store.replicas.keys) == [name("b")]
    assert not store.replicas.replace([row])


def test_an_older_change_and_an_unreadable_key() -> None:
    store = Store()
    store.put("b", 1)
    store.put("a", 2)
    store.put("b", 2)
    stale = kv_pb2.KeyValue(key=name("a"), value=b"", create_revision=1, mod_revision=1).SerializeToString()
    assert not store.replicas.note([Change(False, name("a"), 1, 0, stale), Change(True, name("a"), 2, 0, b"")])
    assert store.replicas.agreed() is not None
    bad = kv_pb2.KeyValue(key=name("a"), value=b"by hand", create_revision=store.created["a"], mod_revision=99).SerializeToString()
    store.replicas.note([Change(False, name("a"), 99, 0, bad)])
    assert store.replicas.agreed() is None


def test_uids_tell_whose_a_key_is() -> None:
    chances = [0, 1, 2**64 - 1, *(3**40 * number % 2**64 for number in range(500))]
    for chance in chances:
        uid = own_uid(chance)
        assert own_uid(uid) == uid
        assert uid >> 32 == chance >> 32
        assert uid < 2**64
    store = Store(shared=True)
    store.put("a", 1, uid=DAPRS)
    assert store.replicas.keys[name("a")].dapr
    store.put("b", 2)
    assert not store.replicas.keys[name("b")].dapr
    assert store.replicas.mixed


def test_a_key_of_daprs_counts_by_its_size_alone() -> None:
    """Dapr does not write a key again for another set of the same size; ours does, and is waited for."""
    for uid, agreed in ((DAPRS, True), (OURS, False)):
        store = Store(shared=True)
        store.put("a", 2, uid=uid)
        store.put("c", 2, uid=DAPRS)
        store.delete("c")
        store.put("b", 2)
        assert (store.replicas.agreed() is not None) is agreed
    store = Store()  # an embedded store is nobody else's
    store.put("a", 2, uid=DAPRS)
    store.put("c", 2, uid=DAPRS)
    store.delete("c")
    store.put("b", 2)
    assert store.replicas.agreed() is None
    assert not store.replicas.mixed


def test_a_key_of_daprs_that_says_another_size_is_waited_for() -> None:
    store = Store(shared=True)
    store.put("a", 1, uid=DAPRS)
    store.put("b", 2)
    assert store.replicas.agreed() is None
    store.put("a", 2, uid=DAPRS)
    assert store.replicas.agreed() == ["a:1", "b:1"]
