"""Seeded schedules of faults over three and five kernels; and proof that the checker sees what it must."""

import pytest
from raft_cluster import APPEND_RESPONSE, Cluster, Member

from raftsched.store.raft._kernel import KernelError, Message


def play(cluster: Cluster, steps: int) -> None:
    for _ in range(steps):
        cluster.step()


@pytest.mark.parametrize("block", range(8))
@pytest.mark.parametrize("size", [3, 5])
def test_no_schedule_breaks_a_promise(size: int, block: int) -> None:
    committed = 0
    for seed in range(block * 10, block * 10 + 10):
        cluster = Cluster(seed, size)
        play(cluster, 4000)
        cluster.heal()
        committed += len(cluster.agreed())
    assert committed > 100  # the schedules got work done; how much is chance: a block of five members has 180 to 1,100


@pytest.mark.parametrize("block", range(8))
@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_schedule_with_members_that_come_and_go_breaks_a_promise(size: int, block: int) -> None:
    committed = changes = 0
    for seed in range(block * 10, block * 10 + 10):
        cluster = Cluster(seed, size, joiners=3)
        play(cluster, 4000)
        cluster.heal()
        committed += len(cluster.agreed())
        changes += cluster.changed
    assert committed > 200
    assert changes > 20


class LyingMember(Member):
    """Says `persisted` before anything is on disk: a log without fsync (D1)."""

    def drain(self) -> None:
        super().drain()
        if self.unsynced and self.kernel is not None:
            self.kernel.persisted(self.unsynced[-1][0])
            super().drain()


def broken(mutation: str, seed: int) -> Cluster:
    cluster = Cluster(seed, 3)
    if mutation == "no fsync":
        for member_id in cluster.ids:
            cluster.members[member_id] = LyingMember(cluster, member_id)
    elif mutation == "acks without a term":  # L3
        post = cluster.post

        def forge(message: Message) -> None:
            post(message)
            if message.type == APPEND_RESPONSE and not message.reject:
                for term in range(message.term + 1, message.term + 4):
                    post(Message(message.type, message.to, message.sender, term, index=message.index))

        cluster.post = forge
    elif mutation == "ack of the whole log":  # L1, L2: "my last index" instead of what was compared
        post = cluster.post

        def stretch(message: Message) -> None:
            if message.type == APPEND_RESPONSE and not message.reject:
                last = cluster.members[message.sender].kernel.last_index
                message = Message(message.type, message.to, message.sender, message.term, index=max(last, message.index))
            post(message)

        cluster.post = stretch
    elif mutation == "restart forgets term and vote":  # D2
        for member in cluster.members.values():
            restart = member.restart

            def forget(member: Member = member, restart=restart) -> None:
                member.disk.vote = 0
                member.disk.term = 0
                restart()

            member.restart = forget
    return cluster


@pytest.mark.parametrize("mutation", ["no fsync", "acks without a term", "ack of the whole log", "restart forgets term and vote"])
def test_the_checker_finds_a_broken_promise(mutation: str) -> None:
    for seed in range(400):
        cluster = broken(mutation, seed)
        try:
            play(cluster, 1500)
            cluster.heal()
        except (AssertionError, KernelError):  # the checker's, and the kernel's own
            return
    pytest.fail(f"{mutation}: not found")
