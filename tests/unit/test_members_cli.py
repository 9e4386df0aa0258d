"""`raftsched member …` against a cluster and a Kubernetes API made for the test: output, exit codes, and when leaving removes nothing."""

import json
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
import trustme

from raftsched.cli import kube, member
from raftsched.cli.app import run
from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc
from raftsched.testing.kubernetes import KubernetesApi

NAME = "dapr-scheduler-server"


class Cluster(rpc_pb2_grpc.ClusterServicer):
    """The table of members; `failures` are the codes of the next answers."""

    def __init__(self) -> None:
        self.members = [
            rpc_pb2.Member(ID=0xABC0 + one, name=f"{NAME}-{one}", peerURLs=[f"http://m{one}:2380"], clientURLs=[f"http://m{one}:2379"])
            for one in range(3)
        ]
        self.failures: list[tuple[grpc.StatusCode, str]] = []
        self.lost_answers = 0
        self.calls: list[str] = []

    def _fail(self, context: grpc.ServicerContext) -> None:
        if self.failures:
            context.abort(*self.failures.pop(0))

    def MemberList(self, request: rpc_pb2.MemberListRequest, context: grpc.ServicerContext) -> rpc_pb2.MemberListResponse:
        assert request.linearizable
        self.calls.append("list")
        return rpc_pb2.MemberListResponse(members=self.members)

    def MemberAdd(self, request: rpc_pb2.MemberAddRequest, context: grpc.ServicerContext) -> rpc_pb2.MemberAddResponse:
        self._fail(context)
        added = rpc_pb2.Member(ID=0xFFFF_FFFF_FFFF_FFFF, peerURLs=request.peerURLs, isLearner=request.isLearner)
        self.members.append(added)
        return rpc_pb2.MemberAddResponse(member=added, members=self.members)

    def MemberRemove(self, request: rpc_pb2.MemberRemoveRequest, context: grpc.ServicerContext) -> rpc_pb2.MemberRemoveResponse:
        self.calls.append("remove")
        self._fail(context)
        if all(one.ID != request.ID for one in self.members):
            context.abort(grpc.StatusCode.NOT_FOUND, "etcdserver: member not found")
        self.members = [one for one in self.members if one.ID != request.ID]
        if self.lost_answers:
            self.lost_answers -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "etcdserver: request timed out")
        return rpc_pb2.MemberRemoveResponse(members=self.members)

    def MemberPromote(self, request: rpc_pb2.MemberPromoteRequest, context: grpc.ServicerContext) -> rpc_pb2.MemberPromoteResponse:
        self._fail(context)
        for one in self.members:
            if one.ID == request.ID:
                one.isLearner = False
        return rpc_pb2.MemberPromoteResponse(members=self.members)

    def MemberUpdate(self, request: rpc_pb2.MemberUpdateRequest, context: grpc.ServicerContext) -> rpc_pb2.MemberUpdateResponse:
        self._fail(context)
        for one in self.members:
            if one.ID == request.ID:
                one.peerURLs[:] = request.peerURLs
        return rpc_pb2.MemberUpdateResponse(members=self.members)

    @property
    def ordinals(self) -> list[int]:
        return [one.ID - 0xABC0 for one in self.members]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    made = Cluster()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    rpc_pb2_grpc.add_ClusterServicer_to_server(made, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("RAFTSCHED_ETCD_ADDRESS", f"127.0.0.1:{port}")
    monkeypatch.setattr(member, "RETRY_S", 0.01)
    yield made
    server.stop(None).wait()


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesApi]:
    with KubernetesApi(tmp_path) as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")  # the API is never asked through one
        monkeypatch.setenv("no_grpc_proxy", "127.0.0.1")
        yield made


def leave(api: KubernetesApi | None, name: str, *words: str) -> int:
    folder = [f"--service-account-dir={api.folder}"] if api else []
    return run(["member", "leave", "--id", name, *folder, *words])


# -- list, add, remove, promote, update


def test_the_list_as_a_table_and_as_json(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.members.append(rpc_pb2.Member(ID=0x8E9E05C52164694D, peerURLs=["http://x:1", "http://y:1"], isLearner=True))
    assert run(["member", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["ID", "STATUS", "NAME", "PEER", "URLS", "CLIENT", "URLS", "ROLE"]
    assert lines[1].split() == ["abc0", "started", f"{NAME}-0", "http://m0:2380", "http://m0:2379", "voter"]
    assert lines[4].split() == ["8e9e05c52164694d", "unstarted", "http://x:1,http://y:1", "learner"]
    for words in (["--json"], ["-o", "json"]):
        assert run(["member", "list", *words]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert shown[3] == {
            "id": "8e9e05c52164694d",
            "name": "",
            "status": "unstarted",
            "peer_urls": ["http://x:1", "http://y:1"],
            "client_urls": [],
            "learner": True,
        }


def test_a_member_by_hand(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["member", "add", "http://m9:2380", "--learner"]) == 0
    assert capsys.readouterr().out.startswith("added ffffffffffffffff\nID ")
    assert run(["member", "promote", "FFFFFFFFFFFFFFFF", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["promoted"]["id"] == "ffffffffffffffff"
    assert not cluster.members[3].isLearner
    assert run(["member", "update", f"{NAME}-1", "http://n:1", "http://n:2"]) == 0
    assert list(cluster.members[1].peerURLs) == ["http://n:1", "http://n:2"]
    assert run(["member", "remove", "abc2"]) == 0
    assert run(["member", "remove", f"{NAME}-0"]) == 0
    assert [f"{one.ID:x}" for one in cluster.members] == ["abc1", "ffffffffffffffff"]


def test_what_goes_wrong_is_one_line_and_a_code(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("remove", "promote"):
        assert run(["member", command, "nobody"]) == 3
        assert capsys.readouterr().err == "Error: no member nobody\n"
    assert run(["member", "update", "nobody", "http://a:1"]) == 3
    cluster.failures = [(grpc.StatusCode.FAILED_PRECONDITION, "etcdserver: Peer URLs already exists")]
    assert run(["member", "add", "http://m0:2380"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "Error: etcdserver: Peer URLs already exists"
    cluster.members[1].name = cluster.members[0].name
    assert run(["member", "remove", f"{NAME}-0"]) == 2
    assert capsys.readouterr().err == f"Error: several members are named {NAME}-0: abc0, abc1; give the id\n"
    assert len(cluster.members) == 3
    assert run(["member", "add"]) == 2


def test_a_name_that_reads_like_an_id_is_an_id_first(cluster: Cluster) -> None:
    cluster.members[0].name = "abc2"
    cluster.members[1].name = "dead"
    assert run(["member", "remove", "abc2"]) == 0
    assert run(["member", "remove", "dead"]) == 0
    assert cluster.ordinals == [0]


def test_a_port_that_is_not_etcds(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    assert run(["member", "list", "-a", f"127.0.0.1:{port}"]) == 1
    assert capsys.readouterr().err.startswith("Error: this is not the etcd port of a member that can do this: ")
    server.stop(None).wait()
    assert run(["member", "list", "-a", f"127.0.0.1:{port}"]) == 1
    assert capsys.readouterr().err.startswith("Error: cannot reach the server: ")


# -- leave


def test_leaving_removes_the_member_of_this_name(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert leave(None, f"{NAME}-1") == 0
    assert cluster.ordinals == [0, 2]
    assert capsys.readouterr().out.startswith("removed abc1\n")
    assert leave(None, f"{NAME}-1") == 0
    assert capsys.readouterr().out == f"nothing removed: {NAME}-1 is no member\n"


def test_the_name_is_that_of_the_host_if_none_is_given(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: f"{NAME}-2")
    assert run(["member", "leave"]) == 0
    monkeypatch.setenv("RAFTSCHED_ID", f"{NAME}-1")
    assert run(["member", "leave"]) == 0
    assert cluster.ordinals == [0]


def test_only_an_ordinal_that_is_scaled_away_is_removed(cluster: Cluster, api: KubernetesApi, capsys: pytest.CaptureFixture[str]) -> None:
    for ordinal in range(3):
        assert leave(api, f"{NAME}-{ordinal}", "--if-scaled-down") == 0
    assert cluster.calls == []
    assert f"nothing removed: StatefulSet {NAME} is to have 3 replicas, ordinal 0 among them\n" in capsys.readouterr().out
    assert api.seen[-1] == (f"/apis/apps/v1/namespaces/dapr-system/statefulsets/{NAME}", "Bearer secret")
    api.scale(2)
    assert leave(api, f"{NAME}-1", "--if-scaled-down") == 0
    assert cluster.ordinals == [0, 1, 2]
    assert leave(api, f"{NAME}-2", "--if-scaled-down") == 0
    assert cluster.ordinals == [0, 1]


def test_ordinals_may_start_elsewhere_and_zero_replicas_keep_all(cluster: Cluster, api: KubernetesApi) -> None:
    api.scale(1, ordinals={"start": 1})
    assert leave(api, f"{NAME}-1", "--if-scaled-down") == 0
    assert len(cluster.members) == 3
    assert leave(api, f"{NAME}-2", "--if-scaled-down") == 0
    assert leave(api, f"{NAME}-0", "--if-scaled-down") == 0
    assert cluster.ordinals == [1]
    api.scale(0)
    assert leave(api, f"{NAME}-1", "--if-scaled-down", "--json") == 0
    assert cluster.ordinals == [1]


@pytest.mark.parametrize(
    ("code", "body", "words"),
    [
        (403, b"{}", "answers 403 for https://127.0.0.1:"),
        (404, b"{}", "there is none"),
        (401, b"", "the service account is not accepted"),
        (500, b"", "answers 500"),
        (200, b"no json", "something else than the StatefulSet"),
        (200, b"[]", "something else than the StatefulSet"),
        (200, b'{"spec": []}', "something else than the StatefulSet"),
        (200, b'{"spec": {"replicas": "2"}}', "no number of replicas"),
        (200, b'{"spec": {"replicas": -1}}', "no number of replicas"),
        (200, b'{"spec": {"replicas": true}}', "no number of replicas"),
        (200, b'{"spec": {"ordinals": 5}}', "something else"),
        (200, b"[" * 100_000, "something else"),
    ],
)
def test_what_the_api_does_not_tell_removes_nothing(
    cluster: Cluster, api: KubernetesApi, capsys: pytest.CaptureFixture[str], code: int, body: bytes, words: str
) -> None:
    api.code, api.body = code, body
    assert leave(api, f"{NAME}-2", "--if-scaled-down") == 0
    out = capsys.readouterr().out
    assert words in out
    assert out.startswith("nothing removed: ")
    assert out.count("\n") == 1
    assert cluster.calls == []


def test_what_the_pod_does_not_have_removes_nothing(
    cluster: Cluster, api: KubernetesApi, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(name: str = f"{NAME}-2") -> str:
        assert leave(api, name, "--if-scaled-down") == 0
        return capsys.readouterr().out

    assert "is no pod of a StatefulSet" in told("laptop")
    assert "is no pod of a StatefulSet" in told("scheduler-007")
    other = trustme.CA()
    other.cert_pem.write_to_path(str(api.folder / "ca.crt"))
    assert "cannot reach the Kubernetes API" in told()
    (api.folder / "ca.crt").write_text("junk")
    assert "cannot read" in told()
    (api.folder / "token").write_text("two\nlines")
    assert "nothing removed: " in told()
    (api.folder / "token").unlink()
    assert "token: No such file" in told()
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    assert "this is no pod" in told()
    assert cluster.calls == []


def test_leaving_waits_for_a_leader_and_takes_a_lost_answer_for_done(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.failures = [(grpc.StatusCode.UNAVAILABLE, "etcdserver: unhealthy cluster")] * 3
    assert leave(None, f"{NAME}-2") == 0
    assert cluster.calls.count("remove") == 4
    cluster.lost_answers = 1
    assert leave(None, f"{NAME}-1") == 0
    assert cluster.ordinals == [0]
    cluster.failures = [(grpc.StatusCode.UNAVAILABLE, "etcdserver: unhealthy cluster")] * 1_000
    assert leave(None, f"{NAME}-0", "--timeout=0.2") == 1
    assert "Error: etcdserver: unhealthy cluster" in capsys.readouterr().err
    cluster.failures = [(grpc.StatusCode.FAILED_PRECONDITION, "no")]
    assert leave(None, f"{NAME}-0") == 1


def test_names_of_pods() -> None:
    assert kube.split_pod_name("a-b.c-12") == ("a-b.c", 12)
    for wrong in ("a", "-1", "a-", "a-01", "A-1", "a-1-", ""):
        with pytest.raises(kube.UnreadableError):
            kube.split_pod_name(wrong)
