"""The storage layer of Kubernetes' API server, by Kubernetes' own tests of it: on a member, and on three with the client at a follower."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import load_tools

from raftsched.testing.cluster import Cluster

TIMEOUT_S = 280.0
TESTS = 45
PARTS = {
    "writes": "Create|Get$|Delete|ValidateDeletion|Guaranteed",
    "lists": "^List(Paging|Pagination|Continuation)|KeySchema|NamespaceScopedList|GetList|ConsistentList",
    "watches": "Watch$|^Watch(Delete|Context|er|Init|From|Semantic|List)|ScopedWatch|DelayedWatch|SendInitial|ProgressNotify",
    "compaction": "CompactRevision|ListInconsistentContinuation|^List$",
}


@pytest.fixture(scope="module")
def program() -> Path:
    path = load_tools().kubernetes()
    if path is None:
        pytest.skip("no Go program `kubernetes` here: `make clients` builds it")
    return Path(path)


@pytest.fixture(scope="module", params=[1, 3], ids=["one", "three"])
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Cluster(tmp_path_factory.mktemp("kubernetes"), request.param) as cluster:
        yield (cluster.followers() or [cluster.leader()])[0].client_address


def run(program: Path, *words: str) -> tuple[str, list[str]]:
    """The output, and the tests that passed."""
    done = subprocess.run([program, *words], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    return done.stdout + done.stderr, re.findall(r"^--- PASS: (\w+)", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("part", PARTS)
def test_kubernetes_own_tests(part: str, program: Path, address: str) -> None:
    told, passed = run(program, f"-endpoint={address}", "-test.v", f"-test.run={PARTS[part]}")
    failed = re.findall(r"^--- FAIL: (\w+)", told, re.MULTILINE)
    assert not failed, told[-5000:]
    assert passed


def test_no_test_is_forgotten(program: Path) -> None:
    """Each is in a part: the program lists what a pattern selects."""
    every = run(program, "-test.list=.*")[0].split()
    told = [run(program, f"-test.list={pattern}")[0].split() for pattern in PARTS.values()]
    assert len(every) == TESTS
    assert sorted({name for part in told for name in part}) == sorted(every)
