"""Other languages' and other people's clients: Python's, Node's, Java's, Patroni's. Each runs a program of its own, on one member and at a
follower of three.

Their packages are fetched once, into .cache/clients, by the package manager of their language; without it, or without a registry, a client
is skipped by its name.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from raftsched.testing.cluster import Cluster

HERE = Path(__file__).parent / "foreign"
CACHE = Path(__file__).parents[2] / ".cache" / "clients"
FETCH_TIMEOUT_S = 200.0
pytestmark = pytest.mark.skipif(os.environ.get("RAFTSCHED_CLIENTS") != "all", reason="fetches the packages of five clients: `make clients`")
TIMEOUT_S = 120.0
USUAL = ["keys", "transactions", "watch", "leases", "locks", "cluster"]


@dataclass(frozen=True, slots=True)
class Client:
    """`packages`: what is fetched, of fixed versions."""

    name: str
    tool: str
    program: str
    packages: tuple[str, ...]
    words: tuple[str, ...] = ()
    told: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return CACHE / f"{self.name}-{hashlib.sha256(repr((self.packages, sys.version_info[:2])).encode()).hexdigest()[:12]}"

    def fetch(self) -> str | None:
        """None, or why it cannot be had."""
        if shutil.which(self.tool) is None:
            return f"no {self.tool} here"
        if (self.folder / "complete").exists():
            return None
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for command in FETCH[self.tool](self):
            try:
                done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False)
            except subprocess.TimeoutExpired:
                return f"not fetched within {FETCH_TIMEOUT_S} s"
            if done.returncode:
                return (done.stdout + done.stderr).strip().splitlines()[-1]
        (self.folder / "complete").touch()
        return None

    def command(self, address: str) -> list[str]:
        program = str(HERE / self.program)
        if self.tool == "npm":
            return ["node", program, address]
        if self.tool == "mvn":
            return ["java", "-cp", f"{self.folder / 'lib'}{os.sep}*", program, address]
        return [str(self.folder / "bin" / "python"), program, *self.words, address]


POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
<modelVersion>4.0.0</modelVersion><groupId>raftsched.local</groupId><artifactId>clients</artifactId><version>1</version>
<dependencies><dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency></dependencies></project>
"""


def fetch_python(client: Client) -> list[list[str]]:
    pip = [str(client.folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    return [[sys.executable, "-m", "venv", str(client.folder)], [*pip, *client.packages]]


def fetch_node(client: Client) -> list[list[str]]:
    (client.folder / "package.json").write_text('{"name": "clients", "private": true}')
    return [["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", *client.packages]]


def fetch_java(client: Client) -> list[list[str]]:
    (client.folder / "pom.xml").write_text(POM.format(*client.packages[0].split(":")))
    return [["mvn", "--quiet", "--batch-mode", "dependency:copy-dependencies", "-DoutputDirectory=lib"]]


FETCH = {sys.executable: fetch_python, "npm": fetch_node, "mvn": fetch_java}
CLIENTS = {
    client.name: client
    for client in (
        Client("aetcd", sys.executable, "aetcd_client.py", ("aetcd==1.0.0",)),
        Client(
            "etcd3", sys.executable, "etcd3_client.py", ("etcd3==0.12.0", "protobuf<3.21", "grpcio<1.60", "tenacity==6.3.1"), ("etcd3",)
        ),
        Client(
            "etcd-sdk-python", sys.executable, "etcd3_client.py", ("etcd-sdk-python==0.0.7", "protobuf", "tenacity", "six"), ("pyetcd",)
        ),
        Client("npm-etcd3", "npm", "node_client.js", ("etcd3@1.1.2",)),
        Client("jetcd", "mvn", "Jetcd.java", ("io.etcd:jetcd-core:0.8.5",)),
        Client(
            "patroni",
            sys.executable,
            "patroni_client.py",
            ("patroni[etcd3]==4.1.5", "psycopg[binary]"),
            told=("initialize", "leader", "cluster", "status", "failover", "delete"),
        ),
    )
}


@pytest.fixture(scope="module", params=[1, 3], ids=["one", "three"])
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Cluster(tmp_path_factory.mktemp("foreign"), request.param) as cluster:
        yield (cluster.followers() or [cluster.leader()])[0].client_address


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_does_all_it_knows(name: str, address: str) -> None:
    client = CLIENTS[name]
    if reason := client.fetch():
        pytest.skip(f"no {name}: {reason}")
    environment = os.environ | {"NODE_PATH": str(client.folder / "node_modules")}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(client.command(address), capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(done.stdout.split()) == sorted(client.told or USUAL)
