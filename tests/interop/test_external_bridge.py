"""The suite of every `KvClient` (tests/unit/test_bridge.py), over real etcds: one, three, and one of an older version."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import load_tools

from raftsched.scheduler.bridge.external.kv import ExternalKv, Target
from raftsched.testing.etcd import RealEtcd, RealEtcdCluster

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
import test_bridge as suite

globals().update({name: value for name, value in vars(suite).items() if name.startswith("test_")})


@pytest.fixture(scope="module", params=["3.7", "3.7 three", "3.5"])
def addresses(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    version, _, three = request.param.partition(" ")
    path = load_tools().etcd(version)
    if path is None:
        pytest.skip(f"no etcd {version} here")
    folder = tmp_path_factory.mktemp("etcd")
    with ExitStack() as stack:
        if three:
            yield stack.enter_context(RealEtcdCluster(folder, path)).addresses
        else:
            yield [stack.enter_context(RealEtcd(folder, path)).address]


@pytest.fixture
async def kv(addresses: list[str]) -> AsyncIterator[ExternalKv]:
    """Over an empty store."""
    kv = ExternalKv([Target(address, False) for address in addresses], log=suite.Quiet())
    kv.start()
    await asyncio.wait_for(kv._watch.live.wait(), 60)
    everything = b"\x0a\x01\x00\x12\x01\x00"  # DeleteRangeRequest{key: 0, range_end: 0}
    await kv.txn(b"\x12" + bytes([len(everything) + 2]) + b"\x1a" + bytes([len(everything)]) + everything)
    yield kv
    await kv.close()
