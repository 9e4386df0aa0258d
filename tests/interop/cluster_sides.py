"""One cluster of raftsched and one of real etcds, asked the same: answers become text in which members are called by their parts.

A member's part is leader, follower or other, as it was when `Side.cast` was last called; its id, name and ports are written as
`leader.id` and so on, so that the two clusters' answers can be compared as text.
"""

import json
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message

from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.pb.etcd import rpc_pb2_grpc as stubs
from raftsched.testing.cluster import Cluster, Member

PARTS = ("leader", "follower", "other")
CALL_TIMEOUT_S = 9.0  # more than the 7 s that a member waits for the others
CALLER_LATE = "4 Deadline Exceeded"
Ask = Callable[["Side"], Any]
"""Begins a unary call on one side; its future."""


class Services:
    """Stubs for one member."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.kv = stubs.KVStub(channel)
        self.lease = stubs.LeaseStub(channel)
        self.watch = stubs.WatchStub(channel)
        self.cluster = stubs.ClusterStub(channel)
        self.maintenance = stubs.MaintenanceStub(channel)


class Side:
    """One of the two clusters; has three members with parts."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._channels = [grpc.insecure_channel(one.client_address) for one in cluster.members]
        self._services = [Services(channel) for channel in self._channels]
        self.ids = [one.status(5).header.member_id for one in cluster.members]
        self.cluster_id = cluster.members[0].status(5).header.cluster_id
        self.parts: dict[str, Member] = {}
        self.added: dict[int, str] = {}  # ids of members that no process is
        self.cast()

    def cast(self) -> None:
        """Gives the parts anew: after the leader changed. One that is dead is the last."""
        leader = self.cluster.leader()
        rest = sorted((one for one in self.cluster.members if one is not leader), key=lambda one: not one.running)
        self.parts = dict(zip(PARTS, (leader, *rest), strict=True))

    def to(self, part: str) -> Services:
        return self._services[self.parts[part].number]

    def id(self, part: str) -> int:
        return self.ids[self.parts[part].number]

    def peer_url(self, part: str) -> str:
        return f"http://127.0.0.1:{self.cluster.advertised[self.parts[part].number]}"

    def find_added(self, name: str = "added") -> int:
        """The one member that is no process of this cluster."""
        [found] = [one.ID for one in self.to("leader").cluster.MemberList(pb.MemberListRequest()).members if one.ID not in self.ids]
        self.added[found] = name
        return found

    def remove_added(self) -> None:
        """All members that are no process of this cluster."""
        for one in self.to("leader").cluster.MemberList(pb.MemberListRequest(linearizable=True)).members:
            if one.ID not in self.ids:
                self.to("leader").cluster.MemberRemove(pb.MemberRemoveRequest(ID=one.ID))

    def close(self) -> None:
        for channel in self._channels:
            channel.close()

    # -- text

    def _names(self) -> Iterator[tuple[str, str]]:
        for part, member in self.parts.items():
            number, member_id = member.number, self.ids[member.number]
            yield str(member_id), f"{part}.id"
            yield f"{member_id:x}", f"{part}.hex"
            yield member.name, f"{part}.name"
            yield str(self.cluster.advertised[number]), f"{part}.peer"
            yield str(member.client_port), f"{part}.client"
        for member_id, name in self.added.items():
            yield str(member_id), f"{name}.id"
            yield f"{member_id:x}", f"{name}.hex"
        yield str(self.cluster_id), "cluster.id"
        yield f"{self.cluster_id:x}", "cluster.hex"

    def normal(self, text: str) -> str:
        names = dict(self._names())
        pattern = r"(?<![0-9a-f])(" + "|".join(sorted(map(re.escape, names), key=len, reverse=True)) + r")(?![0-9a-f])"
        return re.sub(pattern, lambda found: names[found[1]], text.replace("localhost", "127.0.0.1"))

    def tell(self, answer: Message) -> str:
        """An answer as text; its header only by what is in it, its members in the order of their texts."""
        told = []
        for field, value in answer.ListFields():
            if field.name == "header":
                filled = [name for name in ("revision", "raft_term") if getattr(value, name)]
                told.append(self.normal(f"header {value.cluster_id} {value.member_id} {filled}"))
            elif field.name == "members":
                assert [one.ID for one in value] == sorted(one.ID for one in value)
                told.append("members " + " | ".join(sorted(self.normal(_flat(one)) for one in value)))
            else:
                told.append(f"{field.name} {self.normal(_flat(value) if isinstance(value, Message) else str(value))}")
        return "; ".join(told)

    def outcome(self, call: Any) -> str:
        """Of a call that was begun."""
        try:
            return "OK " + re.sub(r"\bID: \d+", "ID: new.id", self.tell(call.result()))
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and "RST_STREAM" in (error.details() or ""):
                return CALLER_LATE  # the server saw the deadline pass before the client did, and reset the stream
            return f"{error.code().value[0]} {self.normal(error.details() or '')}"


def _flat(message: Message) -> str:
    return " ".join(str(message).split())


class Pair:
    """Both clusters. `differences` fills up; a test asserts at its end that there are none."""

    def __init__(self, subject: Cluster, judge: Cluster) -> None:
        self.subject, self.judge = Side(subject), Side(judge)
        self.differences: list[str] = []
        self.compared = 0

    def __iter__(self) -> Iterator[Side]:
        return iter((self.subject, self.judge))

    def ask(self, title: str, ask: Ask, *, known: tuple[str, str] | None = None) -> None:
        """One call on both. `known`: what raftsched and what etcd say where they differ on purpose."""
        self.ask_all({title: ask}, {} if known is None else {title: known})

    def ask_all(self, calls: dict[str, Ask], known: dict[str, tuple[str, str]]) -> None:
        """All at once, so that those that time out wait together."""
        begun = [(title, [(side, ask(side)) for side in self]) for title, ask in calls.items()]
        for title, both in begun:
            ours, theirs = (side.outcome(call) for side, call in both)
            self.compare(title, ours, theirs, known.get(title))

    def compare(self, title: str, ours: str, theirs: str, known: tuple[str, str] | None = None) -> None:
        self.compared += 1
        if (ours, theirs) != (known or (theirs, theirs)):
            self.differences.append(f"{title}\n  raftsched: {ours}\n  etcd:      {theirs}")

    def begin(self) -> None:
        """Everybody runs, has its part, and nothing was compared."""
        for side in self:
            side.cluster.start()
            side.cast()
            side.added.clear()
        self.differences, self.compared = [], 0

    def close(self) -> None:
        for side in self:
            side.close()


# -- etcdctl

FIGURES = re.compile(r'"(revision|raft_term|raftTerm|raftIndex|raftAppliedIndex|dbSize\w*|hash|hash_revision|compact_revision)":-?\d+')


def run_etcdctl(program: Path, side: Side, words: Sequence[str]) -> str:
    """Exit code, output and errors, normalized; endpoints in the order of the parts."""
    endpoints = ",".join(side.parts[part].client_address for part in PARTS)
    done = subprocess.run([program, f"--endpoints={endpoints}", *words], capture_output=True, text=True, timeout=60, check=False)
    errors = "\n".join(line for line in done.stderr.splitlines() if not line.startswith('{"level"'))
    return f"exit {done.returncode}\n" + "\n".join(_normal_output(side, text) for text in (done.stdout, errors))


def _normal_output(side: Side, text: str) -> str:
    text = FIGURES.sub(r'"\1":#', side.normal(re.sub(" +", " ", text)))
    text = re.sub(r"\b\d+(\.\d+)?(µs|ms|s)\b", "# s", text)
    try:
        found = json.loads(re.sub(r":#", ":0", re.sub(r":((?:leader|follower|other|added|cluster)\.id)\b", r':"\1"', text)))
    except ValueError:
        return "\n".join(sorted(line.strip() for line in text.splitlines()))
    if isinstance(found, dict):
        found["header"].pop("member_id")  # the console asks whichever it likes
        found.get("member", {}).pop("ID", None)
        for one in found["members"]:
            one["ID"] = one["ID"] if isinstance(one["ID"], str) else "new.id"
        found["members"].sort(key=lambda one: sorted(one.get("peerURLs", ())))
    if isinstance(found, list):
        found.sort(key=lambda one: str(one.get("Endpoint", one.get("endpoint"))))
    return json.dumps(found, sort_keys=True)
