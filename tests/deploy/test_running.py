"""The command lines of deploy/ start clusters: word for word, but for addresses, ports and directories, which are those of this machine."""

import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest
import yaml
from charted import NAMESPACE, golden
from deployed import DEPLOY

from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc
from raftsched.testing.process import SOURCE, free_ports

pytestmark = pytest.mark.process
PROGRAM = "import sys; from raftsched.cli.scheduler import main; sys.exit(main())"
READY_S = 60
PEER = re.compile(r"//([\w.-]+):2380")


class Replica:
    """One process."""

    def __init__(self, words: Sequence[str], peers: dict[str, int], directory: Path, namespace: str) -> None:
        self.client_port, self.healthz_port, *others = free_ports(4)
        here = {
            "etcd-data-dir": directory / "data",
            "listen-address": "127.0.0.1",
            "healthz-listen-address": "127.0.0.1",
            "etcd-client-port": self.client_port,
            "healthz-port": self.healthz_port,
            "port": others[0],
            "metrics-port": others[1],
        }
        moved = [PEER.sub(lambda match: f"//127.0.0.1:{peers[match[1]]}", word) for word in words]
        command = [sys.executable, "-c", PROGRAM, *moved, *(f"--{name}={value}" for name, value in here.items())]
        directory.mkdir()
        self.log = directory / "log"
        with self.log.open("wb") as stream:
            environment = {"NAMESPACE": namespace, "PYTHONPATH": str(SOURCE)}
            self.process = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream, cwd=directory)

    def healthy(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.healthz_port}/healthz", timeout=2) as answer:
                return int(answer.status) == 200
        except urllib.error.HTTPError as error:
            error.close()
            return False
        except OSError:
            return False

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def cluster(commands: Sequence[Sequence[str]], directory: Path, namespace: str = "default") -> Iterator[list[Replica]]:
    """All started at once, as Compose and a StatefulSet of parallel pods do; healthy when the block begins."""
    hosts = sorted({host for words in commands for word in words for host in PEER.findall(word)})
    assert len(hosts) == len(commands)
    peers = dict(zip(hosts, free_ports(len(hosts)), strict=True))
    with ExitStack() as stack:
        replicas = []
        for number, words in enumerate(commands):
            replicas.append(Replica(words, peers, directory / str(number), namespace))
            stack.callback(replicas[-1].close)
        begin = time.monotonic()
        while not all(replica.healthy() for replica in replicas):
            assert time.monotonic() - begin < READY_S, "".join(replica.log.read_text()[-1500:] for replica in replicas)
            time.sleep(0.05)
        yield replicas


def check_one_cluster(replicas: Sequence[Replica]) -> None:
    """What is written at the first is read at each, and each has announced itself."""
    channels = [grpc.insecure_channel(f"127.0.0.1:{replica.client_port}") for replica in replicas]
    stubs = [rpc_pb2_grpc.KVStub(channel) for channel in channels]
    try:
        stubs[0].Put(rpc_pb2.PutRequest(key=b"k", value=b"v"), timeout=30, wait_for_ready=True)
        for stub in stubs:
            (pair,) = stub.Range(rpc_pb2.RangeRequest(key=b"k"), timeout=30, wait_for_ready=True).kvs
            assert pair.value == b"v"
        leaders = rpc_pb2.RangeRequest(key=b"dapr/leadership/", range_end=b"dapr/leadership0", count_only=True)
        begin = time.monotonic()
        while stubs[0].Range(leaders, timeout=10).count != len(replicas):
            assert time.monotonic() - begin < READY_S
            time.sleep(0.05)
    finally:
        for channel in channels:
            channel.close()


def test_the_services_of_the_compose_file_are_a_cluster(tmp_path: Path) -> None:
    services = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())["services"]
    with cluster([service["command"] for service in services.values()], tmp_path) as replicas:
        check_one_cluster(replicas)
        alone = [replica for replica in replicas if "clients of a mapped container port, cannot connect" in replica.log.read_text()]
        assert alone == replicas[1:], "the first one's port is mapped"


def test_the_pods_of_the_chart_without_dapr_are_a_cluster(tmp_path: Path) -> None:
    spec = golden("without-dapr")["StatefulSet", "dapr-scheduler-server"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    names = [f"dapr-scheduler-server-{ordinal}" for ordinal in range(spec["replicas"])]
    commands = [[word.replace("$(SCHEDULER_ID)", name) for word in container["args"]] for name in names]
    with cluster(commands, tmp_path, NAMESPACE) as replicas:
        check_one_cluster(replicas)
