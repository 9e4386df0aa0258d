"""Forming: the rules one by one, the bytes of asks and answers, and a seeded simulation with losses, restarts and wiped disks."""

import functools
import random
from dataclasses import replace

import pytest

from raftsched import limits
from raftsched.store import asks, membership
from raftsched.store.asks import Empty, Granted, InCluster, JoinAsk, Later, Listed, Look, Refused
from raftsched.store.forming import (
    ANSWER_FRESH_MS,
    SAY_AGAIN_MS,
    Form,
    Forming,
    GoOn,
    Join,
    Refuse,
    Wait,
    check_listed,
    check_peers,
    founders,
)
from raftsched.types import MemberInfo

TOKEN = "etcd-cluster"
A, B, C, D = (Listed(name, (f"http://{name}:2380",)) for name in "abcd")
ABC = (A, B, C)


def url(one: Listed) -> str:
    return one.peer_urls[0]


def forming(own: Listed = A, listed=ABC, form_wait_ms: int | None = 3_000, token: str = TOKEN) -> Forming:
    return Forming(own, listed, form_wait_ms=form_wait_ms, cluster_token=token)


def empty(own: Listed, listed=ABC, token: str = TOKEN) -> Empty:
    return forming(own, listed, token=token).answer


def cluster(own: Listed, *, cluster_id: int = 0xC1, incarnation: int = 5, founding: bool = False, members=()) -> InCluster:
    return InCluster(own.name, cluster_id, incarnation, founding, tuple(members) or founders(ABC, TOKEN))


# -- rules


def test_a_lone_listed_member_forms_at_once_what_it_always_formed() -> None:
    alone = Listed("default", ("http://localhost:2380",))
    decision = forming(alone, (alone,)).decide(0)
    assert isinstance(decision, Form)
    assert f"{decision.cluster_id:x}" == "cdf818194e3a8c32"
    assert [f"{one.member_id:x}" for one in decision.members] == ["8e9e05c52164694d"]


def test_all_have_answered_empty_with_the_same_list() -> None:
    one = forming()
    one.heard(url(B), empty(B), 0)
    assert isinstance(one.decide(0), Wait)
    one.heard(url(C), empty(C, (C, B, A)), 10)
    assert isinstance(one.decide(10), Form)


def test_every_founder_writes_the_same_entries_however_it_decided() -> None:
    by_all, by_majority = forming(A), forming(B, (B, C, A))
    for other in (B, C):
        by_all.heard(url(other), empty(other), 0)
    by_majority.unreachable(url(C), 0)
    by_majority.heard(url(A), empty(A), 2_900)
    first, second = by_all.decide(0), by_majority.decide(3_000)
    assert isinstance(first, Form)
    assert first == second
    assert first.entries == second.entries
    ids = [membership.decode_change(entry)[1] for entry in first.entries]
    assert ids == sorted(ids)
    assert first.cluster_id == membership.make_cluster_id(ids)


def test_a_majority_forms_only_after_the_rest_stayed_silent_for_the_whole_wait() -> None:
    one = forming()
    one.unreachable(url(C), 100)
    one.heard(url(B), empty(B), 3_000)
    assert isinstance(one.decide(3_099), Wait)
    assert isinstance(one.decide(3_100), Form)
    one.heard(url(C), empty(C, (A, C)), 3_100)  # it is there after all, and of another mind
    assert isinstance(one.decide(3_101), Wait)
    one.unreachable(url(C), 3_200)
    one.heard(url(B), empty(B), 6_100)
    assert isinstance(one.decide(6_199), Wait)
    assert isinstance(one.decide(6_200), Form)


def test_a_minority_never_forms() -> None:
    one = forming(A, (A, B))
    one.unreachable(url(B), 0)
    assert isinstance(one.decide(10**9), Wait)
    one = forming()
    one.unreachable(url(B), 0)
    one.unreachable(url(C), 0)
    assert isinstance(one.decide(10**9), Wait)


def test_one_that_has_not_been_asked_to_the_end_is_not_missing_yet() -> None:
    one = forming()
    one.heard(url(B), empty(B), 10**6)
    assert isinstance(one.decide(10**6), Wait)


def test_without_a_limit_all_are_needed_and_the_missing_one_is_named_every_ten_seconds() -> None:
    one = forming(form_wait_ms=None)
    one.unreachable(url(C), 0)
    said = []
    for now_ms in range(0, 60_000, 200):
        one.heard(url(B), empty(B), now_ms)
        decision = one.decide(now_ms)
        assert isinstance(decision, Wait)
        said += [(now_ms, decision.line)] if decision.line else []
    assert [when for when, _ in said] == list(range(0, 60_000, SAY_AGAIN_MS))
    assert "c (http://c:2380) not reached" in said[0][1]
    assert "b (" not in said[0][1]


def test_an_old_answer_does_not_form() -> None:
    one = forming()
    one.heard(url(B), empty(B), 0)
    one.heard(url(C), empty(C), ANSWER_FRESH_MS + 1)
    assert isinstance(one.decide(ANSWER_FRESH_MS + 1), Wait)


def test_a_cluster_of_any_listed_member_is_joined_whatever_the_others_say() -> None:
    one = forming()
    one.heard(url(B), empty(B), 0)
    one.heard(url(C), cluster(C), 0)
    assert one.decide(0) == Join(url(C), 0xC1)


def test_members_of_the_cluster_are_asked_in_turn() -> None:
    one = forming()
    for other in (B, C):
        one.heard(url(other), cluster(other), 0)
    assert {one.decide(0).url, one.decide(0).url} == {url(B), url(C)}


def test_a_founder_that_decided_first_counts_as_empty() -> None:
    ours = forming().founding.cluster_id
    one = forming()
    one.heard(url(B), cluster(B, cluster_id=ours, incarnation=0, founding=True), 0)
    one.heard(url(C), empty(C), 0)
    assert isinstance(one.decide(0), Form)
    one.heard(url(B), cluster(B, cluster_id=ours, founding=False), 0)
    assert isinstance(one.decide(0), Join)  # something has happened there: the own id may have been used before
    one.heard(url(B), cluster(B, cluster_id=7, incarnation=0, founding=True), 0)
    assert isinstance(one.decide(0), Join)  # of another list


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"cluster_id": 0xC2}, ("b is in cluster c1 begun as 5", "c is in cluster c2 begun as 5")),
        ({"cluster_id": 0xC2, "incarnation": 6}, ("b is in cluster c1 begun as 5", "c is in cluster c2 begun as 6")),
        ({"cluster_id": 0xC2, "incarnation": 0}, ("b is in cluster c1 begun as 5", "c is in cluster c2")),
        ({"incarnation": 6}, ("b is in cluster c1 begun as 5", "c is in cluster c1 begun as 6")),
    ],
)
def test_between_two_clusters_nobody_chooses(other: dict, words: tuple[str, str]) -> None:
    one = forming()
    one.heard(url(B), cluster(B), 0)
    one.heard(url(C), cluster(C, **other), 0)
    decision = one.decide(0)
    assert isinstance(decision, Wait)
    assert all(part in decision.line for part in words)
    one.heard(url(C), cluster(C, incarnation=0), 1)  # of the same cluster, and does not know more yet
    assert isinstance(one.decide(1), Join)
    one.unreachable(url(C), 2)  # it has refused to serve
    assert isinstance(one.decide(2), Join)


@pytest.mark.parametrize(
    ("listed", "token", "words"),
    [
        ((A, B), TOKEN, "b has another list of members: it lacks c;"),
        ((A, B, C, D), TOKEN, "it has d besides"),
        (ABC, "other", "another cluster token"),
    ],
)
def test_different_lists_wait_and_say_the_difference(listed, token: str, words: str) -> None:
    one = forming(form_wait_ms=0)
    one.unreachable(url(C), 0)
    one.heard(url(B), empty(B, listed, token), 0)
    decision = one.decide(1_000)
    assert isinstance(decision, Wait)
    assert words in decision.line


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (empty(B, (A, B, Listed("c", ("http://elsewhere:2380",)))), "c is http://c:2380 here and http://elsewhere:2380 at b"),
        (empty(B, (A, B, Listed("x", ("http://c:2380",)))), "http://c:2380 is c here and x at b"),
        (empty(C), "http://b:2380 is listed as b, but c answers there"),
    ],
)
def test_lists_that_contradict_each_other_are_refused(answer: Empty, words: str) -> None:
    one = forming()
    one.heard(url(B), answer, 0)
    decision = one.decide(0)
    assert isinstance(decision, Refuse)
    assert words in decision.line


def test_what_is_no_answer_to_a_look_is_nobody() -> None:
    one = forming()
    for answer in (None, Later("busy"), Refused("no")):
        one.heard(url(B), answer, 0)
        one.heard(url(C), empty(C), 3_000)
        assert isinstance(one.decide(3_000), Form)


def test_one_url_of_two_is_enough() -> None:
    two = Listed("b", ("http://b:1", "http://b:2"))
    one = forming(A, (A, two))
    one.heard("http://b:1", empty(two, (A, two)), 0)
    one.unreachable("http://b:2", 1)
    assert isinstance(one.decide(1), Form)


def test_a_stranger_is_not_counted() -> None:
    one = forming()
    one.heard("http://nobody:1", empty(B), 0)
    one.unreachable("http://nobody:1", 0)
    assert isinstance(one.decide(0), Wait)


# -- a member with data


def own(incarnation: int = 5, **more) -> InCluster:
    return cluster(A, incarnation=incarnation, **more)


def test_who_is_of_the_same_cluster_or_silent_or_new_is_no_obstacle() -> None:
    for heard in ([], [cluster(B)], [cluster(B), cluster(C)], [cluster(B, incarnation=0)]):
        assert check_peers(own(), heard) == GoOn("")
    assert check_peers(own(0), [cluster(B), cluster(C)]) == GoOn("")  # it was away since the beginning
    assert check_peers(own(0), [cluster(B, incarnation=0)]) == GoOn("")


@pytest.mark.parametrize("other", [{"cluster_id": 0xC2}, {"incarnation": 6}])
def test_a_slow_old_member_refuses_what_a_wiped_majority_formed(other: dict) -> None:
    refused = check_peers(own(), [cluster(B, **other), cluster(C, **other)])
    assert isinstance(refused, Refuse)
    assert "belong to cluster c1 begun as 5" in refused.line
    assert "b, c: cluster" in refused.line
    met = check_peers(own(), [cluster(B), cluster(C, **other)])
    assert isinstance(met, GoOn)
    assert "c: cluster" in met.line
    assert isinstance(check_peers(own(), [cluster(C, **other)]), Wait)


def test_one_that_was_away_since_the_beginning_follows_the_majority_of_two_beginnings() -> None:
    assert isinstance(check_peers(own(0), [cluster(B, incarnation=6), cluster(C, incarnation=7)]), GoOn)
    assert isinstance(check_peers(own(0), [cluster(B, cluster_id=9), cluster(C, cluster_id=9)]), Refuse)


def test_a_directory_of_another_cluster_is_refused_among_members_of_one() -> None:
    alone = InCluster("a", 0xB1, 3, founding=False, members=(MemberInfo(1, "a", ("http://alone:1",), ()),))
    theirs = cluster(B, cluster_id=0xC1)
    for heard in ([], [replace(theirs, cluster_id=0xB1)]):
        assert check_listed(alone, ABC, heard) == GoOn("")
    refused = check_listed(alone, ABC, [theirs])
    assert isinstance(refused, Refuse)
    assert refused.line == (
        "the data here belong to cluster b1 begun as 3, but b, which is listed, is in cluster c1 begun as 5 with a, b, c: "
        "refusing to serve. Nothing was changed; to join theirs, move the data directory away"
    )
    met = check_listed(alone, ABC, [replace(theirs, members=(MemberInfo(2, "b", B.peer_urls, ()),))])
    assert isinstance(met, GoOn)
    assert met.line.endswith("b, which is listed, is in cluster c1 begun as 5 with b: two clusters will never be one")


def test_one_that_serves_stops_for_a_cluster_that_can_serve_and_for_no_single_old_member() -> None:
    alone = InCluster("a", 0xB1, 3, founding=False, members=(MemberInfo(1, "a", ("http://alone:1",), ()),))
    theirs = [cluster(one, cluster_id=0xC1) for one in (B, C)]
    for heard in (theirs[:1], theirs[1:], [theirs[0], replace(theirs[1], cluster_id=0xC2)]):
        assert isinstance(check_listed(alone, ABC, heard), Refuse)
        met = check_listed(alone, ABC, heard, serving=True)
        assert isinstance(met, GoOn)
        assert "two clusters will never be one" in met.line
    refused = check_listed(alone, ABC, theirs, serving=True)
    assert isinstance(refused, Refuse)
    assert refused.line.endswith(
        "with a, b, c: not serving any more. What was written here stays here; to join theirs, move the data directory away"
    )


def test_a_cluster_that_has_the_majority_of_its_list_gives_way_to_no_old_member() -> None:
    """C was never started with this cluster, so by its name nobody knows it; its directory is older."""
    two = tuple(MemberInfo(number, one.name, one.peer_urls, ()) for number, one in enumerate((A, B), 1))
    mine = InCluster("a", 0xB1, 3, founding=False, members=two)
    met = check_listed(mine, ABC, [cluster(C, cluster_id=0xC1)])
    assert isinstance(met, GoOn)
    assert "c, which is listed, is in cluster c1" in met.line


# -- bytes


ANSWERS = [
    empty(A),
    cluster(B),
    cluster(B, founding=True, incarnation=0),
    Granted(7, 8, founders(ABC, TOKEN), True),
    Refused("removed"),
    Later("no leader", ("http://a:1", "http://b:1")),
]
ASKS = [Look("a"), Look("a", 5, 6), JoinAsk("a", ("http://a:1", "http://a:2"))]


def test_bytes_there_and_back() -> None:
    for answer in ANSWERS:
        assert asks.decode_answer(asks.encode_answer(answer)) == answer
    for ask in ASKS:
        assert asks.decode_ask(asks.encode_ask(ask)) == ask


def test_the_hash_of_a_list_is_of_its_content() -> None:
    assert asks.hash_list(ABC, TOKEN) == asks.hash_list((C, A, B), TOKEN)
    different = [(A, B), (A, B, D), (A, Listed("b", ("http://c:2380",)), C), (A, Listed("bhttp://b:2380", ()), C)]
    assert len({asks.hash_list(one, TOKEN) for one in [ABC, *different]}) == 5
    assert asks.hash_list(ABC, "t") != asks.hash_list(ABC, TOKEN)


def test_garbage_is_no_message() -> None:
    rng = random.Random(1)
    wire = [asks.encode_answer(one) for one in ANSWERS] + [asks.encode_ask(one) for one in ASKS]
    for _ in range(4_000):
        data = bytearray(rng.choice(wire))
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        cut = bytes(data[: rng.randrange(len(data) + 1)])
        for one in (cut, bytes(data), rng.randbytes(rng.randrange(60))):
            asks.decode_answer(one)
            asks.decode_ask(one)
    assert asks.decode_answer(b"") is None
    assert asks.decode_ask(b"\x08\x63") is None
    member = MemberInfo(1, "n" * 1_000, ("http://a:1",), ())
    many = [MemberInfo(1 + number, "", ("http://a:1",), ()) for number in range(limits.MEMBERS_MAX + 1)]
    assert asks.decode_answer(asks.encode_answer(InCluster("a", 1, 2, False, (member,) * limits.MEMBERS_MAX))) is not None
    assert asks.decode_answer(asks.encode_answer(InCluster("a", 1, 2, False, (member,) * 300))) is None  # too long
    assert asks.decode_answer(asks.encode_answer(InCluster("a", 1, 2, False, tuple(many)))) is None  # too many
    assert asks.decode_answer(asks.encode_answer(Refused("x" * limits.ASK_BYTES_MAX))) is None
    nested = b"[" * 100_000 + b"]" * 100_000
    assert asks.decode_answer(b"\x08\x02\x28\x01" + b"\x42" + asks.varint_field(0, 0) + asks.bytes_field(8, nested)[1:]) is None


# -- simulation


class World:
    """Members, their disks and a network, in steps of 50 ms.

    Consensus is reduced to what forming meets of it: voters that are up, connected and of one beginning elect a leader as soon as they
    are a majority; the first leader of founders draws the incarnation; a joiner is taken in while there is a leader.
    """

    STEP_MS = 50

    def __init__(self, seed: int, count: int, *, form_wait_ms: int | None) -> None:
        self.rng = random.Random(seed)
        self.listed = tuple(Listed(f"m{number}", (f"http://m{number}:2380",)) for number in range(count))
        self.names = [one.name for one in self.listed]
        self.form_wait_ms = form_wait_ms
        self.now_ms = 0
        self.disks: dict[str, dict] = {}
        self.up: dict[str, Forming | None] = {}
        self.cut: set[frozenset[str]] = set()
        self.loss = self.rng.choice([0.0, 0.1, 0.4])
        self.refused: dict[str, str] = {}
        self.incarnations = 0
        self.served: list[tuple[int, frozenset[str]]] = []
        self.ids_of: dict[str, set[int]] = {}
        self.formed: set[tuple] = set()

    def start(self, name: str) -> None:
        self.refused.pop(name, None)
        if name in self.disks:
            self.up[name] = None
        else:
            mine = next(one for one in self.listed if one.name == name)
            self.up[name] = Forming(mine, self.listed, form_wait_ms=self.form_wait_ms, cluster_token=TOKEN)

    def stop(self, name: str, *, wipe: bool = False) -> None:
        self.up.pop(name, None)
        if wipe:
            self.disks.pop(name, None)

    def reaches(self, one: str, other: str) -> bool:
        return other in self.up and frozenset((one, other)) not in self.cut and self.rng.random() >= self.loss

    def answer_of(self, name: str):
        disk, state = self.disks.get(name), self.up[name]
        if disk is None:
            return state.answer
        return InCluster(name, disk["cluster"], disk["incarnation"], disk["founding"], self.members_of(disk))

    def members_of(self, disk: dict) -> tuple[MemberInfo, ...]:
        return tuple(MemberInfo(member_id, "", ("http://x:1",), ()) for member_id in sorted(disk["voters"]))

    def step(self) -> None:
        self.now_ms += self.STEP_MS
        for name in self.rng.sample(sorted(self.up), len(self.up)):
            if self.rng.random() < 0.5:
                if name in self.disks:
                    self.verify(name)
                else:
                    self.look(name)
        self.elect()

    def look(self, name: str) -> None:
        state = self.up[name]
        for other in self.listed:
            if other.name == name:
                continue
            if self.reaches(name, other.name):
                wire = asks.encode_answer(self.answer_of(other.name))
                state.heard(url(other), asks.decode_answer(wire), self.now_ms)
            else:
                state.unreachable(url(other), self.now_ms)
        decision = state.decide(self.now_ms)
        if isinstance(decision, Form):
            self.form(name, decision)
        elif isinstance(decision, Join):
            self.join(name, next(one.name for one in self.listed if url(one) == decision.url))
        elif isinstance(decision, Refuse):
            self.refused[name] = decision.line
            self.stop(name)

    def form(self, name: str, decision: Form) -> None:
        self.formed.add((decision.cluster_id, tuple(decision.entries)))
        if self.rng.random() < 0.2:
            self.stop(name)  # dies between the decision and the disk
            return
        mine = next(one for one in self.listed if one.name == name)
        ids = {one.member_id for one in decision.members}
        member_id = membership.make_member_id(mine.peer_urls, TOKEN)
        self.disks[name] = {"cluster": decision.cluster_id, "incarnation": 0, "founding": True, "me": member_id, "voters": ids}
        self.up[name] = None

    def join(self, name: str, at: str) -> None:
        disk = self.disks.get(at)
        leading = self.quorum_around(at) if disk else None
        if not leading:
            return
        fresh = self.rng.getrandbits(63) + 1
        urls_id = membership.make_member_id(next(one for one in self.listed if one.name == name).peer_urls, TOKEN)
        old = {urls_id} | {one["me"] for one in self.disks.values() if one.get("name") == name}
        voters = (disk["voters"] - old - self.ids_of.get(name, set())) | {fresh}
        self.ids_of.setdefault(name, set()).add(fresh)
        for one in leading:
            self.disks[one]["voters"] = set(voters)
        self.disks[name] = {**disk, "founding": False, "me": fresh, "voters": set(voters), "incarnation": disk["incarnation"]}
        self.up[name] = None

    def verify(self, name: str) -> None:
        answers = [self.answer_of(other) for other in self.names if other != name and self.reaches(name, other)]
        verdict = check_peers(self.answer_of(name), [one for one in answers if isinstance(one, InCluster)])
        if isinstance(verdict, Refuse):
            self.refused[name] = verdict.line
            self.stop(name)

    def quorum_around(self, name: str) -> list[str]:
        """Those who would follow one leader with `name`, if they are a majority of its voters; none of two beginnings follow each other."""
        disk = self.disks[name]
        near = [
            one
            for one in self.up
            if one in self.disks
            and self.disks[one]["cluster"] == disk["cluster"]
            and (one == name or frozenset((one, name)) not in self.cut)
        ]
        if len({self.disks[one]["incarnation"] for one in near} - {0}) > 1:
            return []
        voting = [one for one in near if self.disks[one]["me"] in disk["voters"]]
        return near if len(voting) > len(disk["voters"]) // 2 else []

    def has_majority(self, name: str) -> bool:
        """Whether those of one beginning, wherever they are, are enough for a leader."""
        disk = self.disks[name]
        same = [one for one in self.disks.values() if one["incarnation"] in (0, disk["incarnation"]) and one["me"] in disk["voters"]]
        return len(same) > len(disk["voters"]) // 2

    def elect(self) -> None:
        for name in sorted(self.up):
            near = self.quorum_around(name) if name in self.disks else []
            if not near:
                continue
            known = max(self.disks[one]["incarnation"] for one in near)
            if not known:
                self.incarnations += 1
                known = self.incarnations
                self.served.append((known, frozenset(one for one, disk in self.disks.items() if disk["incarnation"])))
            newest = max((self.disks[one] for one in near), key=lambda one: one["incarnation"])
            for one in near:
                self.disks[one] |= {"incarnation": known, "founding": False, "voters": set(newest["voters"])}


def run(seed: int, *, wipes: bool, form_wait_ms: int | None) -> World:
    world = World(seed, seed % 2 * 2 + 3, form_wait_ms=form_wait_ms)
    rng = world.rng
    for _ in range(400):
        world.step()
        name = rng.choice(world.names)
        chance = rng.random()
        if name not in world.up and chance < 0.2:
            world.start(name)
        elif name in world.up and chance < 0.02:
            world.stop(name, wipe=wipes and rng.random() < 0.5)
        elif chance > 0.98:
            pair = frozenset(rng.sample(world.names, 2))
            world.cut ^= {pair}
    return world


def heal(world: World) -> None:
    world.cut.clear()
    world.loss = 0.0
    for _ in range(400):
        for name in world.names:
            if name not in world.up and name not in world.refused:
                world.start(name)
        world.step()


@functools.cache
def healed(seed: int, *, wipes: bool, form_wait_ms: int | None) -> World:
    world = run(seed, wipes=wipes, form_wait_ms=form_wait_ms)
    heal(world)
    return world


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("form_wait_ms", [None, 500])
def test_without_lost_disks_one_list_is_one_cluster_and_all_end_in_it(seed: int, form_wait_ms: int | None) -> None:
    world = healed(seed, wipes=False, form_wait_ms=form_wait_ms)
    assert len(world.formed) == 1
    assert world.incarnations == 1
    assert not world.refused
    assert {(one["cluster"], one["incarnation"]) for one in world.disks.values()} == {(next(iter(world.formed))[0], 1)}
    assert len(world.disks) == len(world.names)


@pytest.mark.parametrize("seed", [*range(10), 4_018])  # 4 018: two beginnings, and neither has its majority any more
@pytest.mark.parametrize("form_wait_ms", [None, 500])
def test_a_second_beginning_needs_lost_disks_and_whoever_is_left_says_so(seed: int, form_wait_ms: int | None) -> None:
    """No majority may hold the data any more; where all are waited for, nobody at all."""
    world = healed(1_000 + seed, wipes=True, form_wait_ms=form_wait_ms)
    assert len(world.formed) == 1  # whoever forms writes the same
    for number, holders in world.served[1:]:
        assert len(holders) <= (len(world.names) // 2 if form_wait_ms else 0), f"beginning {number} with data at {sorted(holders)}"
    kinds = {one["incarnation"]: name for name, one in world.disks.items() if name not in world.refused}
    assert len(kinds) <= 1 or not any(world.has_majority(name) for name in kinds.values()), (kinds, world.refused)
    for name, one in world.disks.items():
        if one["incarnation"] not in kinds:
            assert "refusing to serve" in world.refused[name]


def test_the_simulation_does_reach_second_beginnings_and_refusals() -> None:
    worlds = [healed(1_000 + seed, wipes=True, form_wait_ms=500) for seed in range(10)]
    assert any(world.incarnations > 1 for world in worlds)
    assert any(world.refused for world in worlds)
