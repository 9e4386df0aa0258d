"""A member that is started with data that are not, or no longer, its own: one clear line, and no damage to anybody."""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from clustering import get, put
from serving import ends, wait_for

from raftsched.cli.app import run
from raftsched.testing.cluster import Cluster, Member
from raftsched.testing.process import free_ports

pytestmark = pytest.mark.process
FATAL = 'level=fatal msg="Fatal error running scheduler: '


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path / "cluster") as made:
        yield made


def digests(member: Member) -> dict[str, str]:
    """Of all files, but those that say who has it open."""
    files = (path for path in (member.directory / "data").rglob("*") if path.is_file() and path.name not in {"LOCK", "lock.mdb"})
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def refuses(member: Member) -> str:
    """Starts it; its last words."""
    member.start(wait=False)
    assert ends(member) == 1, member.logs()
    assert "Traceback" not in member.logs()
    [line] = [line for line in member.stdout_path.read_text().splitlines()[-3:] if FATAL in line]
    return line.partition(FATAL)[2]


def comes_back_empty(member: Member) -> None:
    """Until it votes again: a learner serves next to nothing."""
    member.wipe()
    member.start(wait=False)
    member.wait_ready(60)
    wait_for(lambda: (status := member.status()) is not None and not status.isLearner, 60, member.logs)


def take_foreign_data(member: Member, tmp_path: Path) -> Path:
    """Another cluster's, of one member; where its own are kept."""
    lone = Member(tmp_path / "lone", 2, (), free_ports(1)[0])
    lone.command = [word for word in lone.command if not word.startswith("--etcd-initial-cluster=")]
    lone.command.append(f"--etcd-initial-cluster={lone.name}=http://127.0.0.1:{free_ports(1)[0]}")
    lone.start()
    put(lone, b"k", b"lone")
    lone.stop()
    data, kept = member.directory / "data", member.directory / "kept"
    data.rename(kept)
    shutil.copytree(lone.directory / "data", data)
    return kept


def test_the_directory_of_another_cluster_started_while_all_others_are_down(cluster: Cluster, tmp_path: Path) -> None:
    """Nobody can tell it from a lone member that is to get company, so it serves; it stops when the others are there."""
    put(cluster.leader(), b"k", b"ours")
    *others, member = cluster.members
    for one in cluster.members:
        one.stop()
    take_foreign_data(member, tmp_path)
    member.start()
    assert get(member, b"k") == b"lone"
    for one in others:
        one.start(wait=False)
    assert ends(member) == 1, member.logs()
    [line] = [line for line in member.stdout_path.read_text().splitlines()[-3:] if FATAL in line]
    assert ": not serving any more. What was written here stays here; to join theirs, move the data directory away" in line
    for one in others:
        one.wait_ready(30)
        assert get(one, b"k") == b"ours"
    refuses(member)
    comes_back_empty(member)
    assert get(member, b"k") == b"ours"


def test_the_directory_of_another_cluster(cluster: Cluster, tmp_path: Path) -> None:
    """One that could be served alone, as a second cluster behind the address of a member of the first."""
    put(cluster.leader(), b"k", b"ours")
    member = cluster.members[2]
    member.stop()
    kept = take_foreign_data(member, tmp_path)
    data = member.directory / "data"
    before = digests(member)
    line = refuses(member)
    assert line.startswith("the data here belong to cluster ")
    assert f", which is listed, is in cluster {cluster.leader().status().header.cluster_id:x} begun as " in line
    assert ": refusing to serve. Nothing was changed; to join theirs, move the data directory away" in line
    assert digests(member) == before
    shutil.rmtree(data)
    kept.rename(data)
    member.start()
    assert get(member, b"k") == b"ours"
    assert put(cluster.leader(), b"k", b"still") > 0


def test_the_directory_of_another_member(cluster: Cluster) -> None:
    """Two processes of one member id would vote twice."""
    put(cluster.leader(), b"k", b"ours")
    copied, member = cluster.members[1], cluster.members[2]
    for one in (copied, member):
        one.stop()
    shutil.rmtree(member.directory / "data")
    shutil.copytree(copied.directory / "data", member.directory / "data")
    [own] = (member.directory / "data").glob("default-*")
    own.rename(own.with_name(f"default-{member.name}"))
    copied.start(wait=False)
    before = digests(member)
    line = refuses(member)
    assert f"holds the data of member {copied.name}, and this one is {member.name}: refusing to serve. Nothing was changed" in line
    assert digests(member) == before
    copied.wait_ready(30)
    assert put(copied, b"k", b"still") > 0
    comes_back_empty(member)
    assert get(member, b"k") == b"still"


def test_a_member_that_was_removed_while_it_was_down(cluster: Cluster) -> None:
    gone = cluster.followers()[0]
    put(gone, b"k", b"before")
    gone.stop()
    other = cluster.leader()
    remove = ["member", "remove", gone.name, f"--address={other.client_address}"]
    wait_for(lambda: run(remove) == 0, 10, "as long as it counts as there, two would be no majority")
    put(other, b"k", b"after")
    for _ in range(2):  # again and again, as a StatefulSet would
        line = refuses(gone)
        assert line.startswith("this member was removed from the cluster: to join again, start with an empty data directory")
    term = other.status().raftTerm
    assert put(other, b"k", b"later") > 0
    assert other.status().raftTerm == term, "it has disturbed them"
    comes_back_empty(gone)
    assert get(gone, b"k") == b"later"


def test_data_of_a_newer_version(cluster: Cluster) -> None:
    put(cluster.leader(), b"k", b"ours")
    member = cluster.followers()[0]
    member.stop()
    [version] = (member.directory / "data").rglob("VERSION")
    text = version.read_text()
    version.write_text("raftsched-2\n")
    before = digests(member)
    line = refuses(member)
    assert "says 'raftsched-2': data of another version, this one reads 'raftsched-1'" in line
    assert digests(member) == before
    assert put(cluster.leader(), b"k", b"others go on") > 0
    version.write_text(text)
    member.start()
    assert get(member, b"k") == b"others go on"
