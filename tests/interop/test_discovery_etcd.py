"""Discovery beside the real etcd 3.7: each is the service of the other's members, with the same keys and the same words."""

import json
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from raftsched.pb.etcd.rpc_pb2 import PutRequest, RangeRequest
from raftsched.pb.etcd.rpc_pb2_grpc import KVStub
from raftsched.testing.etcd_command import OURS, READY, Member

pytestmark = pytest.mark.process
PREFIX = b"/_etcd/registry/"
Program = Sequence[str | Path]


def put(service: Member, key: str, value: str) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{service.client_port}") as channel:
        KVStub(channel).Put(PutRequest(key=PREFIX + key.encode(), value=value.encode()), timeout=20)


def registered(service: Member, token: str) -> dict[str, str]:
    prefix = PREFIX + f"{token}/members/".encode()
    with grpc.insecure_channel(f"127.0.0.1:{service.client_port}") as channel:
        answer = KVStub(channel).Range(RangeRequest(key=prefix, range_end=prefix[:-1] + b"0"), timeout=20)
    return {pair.key.decode(): pair.value.decode() for pair in answer.kvs}


def discovered(
    directory: Path, program: Program, service: Member, ports: tuple[int, int] | None = None, *more: str
) -> tuple[int, list[str], Member]:
    """Exit code and errors of a member that does not start."""
    with Member(directory, "m", program=program) as member:
        if ports is not None:
            member.client_port, member.peer_port = ports
            member.client, member.peer = (f"http://127.0.0.1:{port}" for port in ports)
        member.cluster = ""
        member.start(f"--discovery-endpoints={service.client}", *more, wait=False)
        code = member.wait()
        lines = [json.loads(line) for line in member.log().splitlines() if line.startswith("{")]
        return code, [f"{line['msg']}: {line.get('error', '')}" for line in lines if line["level"] in {"warn", "error", "fatal"}], member


@pytest.mark.parametrize("ours_serves", [True, False])
def test_each_serves_the_others_members(etcd_program: Path, tmp_path: Path, ours_serves: bool) -> None:
    real: Program = [etcd_program]
    programs = (OURS, real) if ours_serves else (real, OURS)
    with ExitStack() as stack:
        service = stack.enter_context(Member(tmp_path, "service", program=programs[0])).start()
        put(service, "t/_config/size", "2")
        three = [stack.enter_context(Member(tmp_path, name, program=programs[1])) for name in ("m1", "m2", "m3")]
        for member in three:
            member.cluster = ""
        flags = ("--discovery-token=t", f"--discovery-endpoints={service.client}")
        for member in three[:2]:
            member.start(*flags, wait=False)
        for member in three[:2]:
            member.wait_for(READY)
        assert sorted(registered(service, "t").values()) == sorted(f"{one.name}={one.peer}" for one in three[:2])
        three[2].start(*flags, wait=False)
        assert three[2].wait() == 1
        assert three[2].lines("discovery failed to join cluster")[0]["error"] == "discovery: cluster is full"


def test_the_same_words_and_keys(etcd_program: Path, tmp_path: Path) -> None:
    with Member(tmp_path, "service", program=[etcd_program]) as service:
        service.start()
        put(service, "bad/_config/size", "x")
        put(service, "url/_config/size", "2")
        put(service, "url/members/1", "a=foo")
        for number, more in enumerate((
            ["--discovery-token=none"],
            ["--discovery-token=bad"],
            ["--discovery-token=url"],
            ["--discovery-token=none", "--initial-cluster-state=existing"],
            ["--discovery-token=none", "--discovery-cert=/none"],
            ["--discovery-token=none", "--discovery-cacert=/none"],
        )):  # fmt: skip
            own_code, own_words, member = discovered(tmp_path / f"own{number}", OURS, service, None, *more)
            keys = registered(service, "url")
            code, words, _ = discovered(tmp_path / f"real{number}", [etcd_program], service, (member.client_port, member.peer_port), *more)
            extra = ("Running http and grpc server", "bootstrap failed")  # the second is a line about a line that follows
            kept = [[one for one in some if not one.startswith(extra)] for some in (own_words, words)]
            assert (own_code, kept[0]) == (code, kept[1]) == (1, kept[1]), more
            assert kept[1], more
            assert registered(service, "url") == keys  # the id is the same
        assert len(keys) == 2
        service.stop(signal.SIGTERM)
