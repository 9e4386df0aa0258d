"""The storage settings on their way from the command line to the store: each flag arrives, and nothing else changes with it."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from raftsched import limits, proposals
from raftsched.config.sources import load
from raftsched.pb.etcd import rpc_pb2
from raftsched.server import node_options, store_plan
from raftsched.standalone import __file__ as standalone_file
from raftsched.store.node import Node, NodeOptions

FLAG = "--etcd-experimental-bootstrap-defrag-threshold-megabytes"


def options(**given: Any) -> dict[str, Any]:
    found = asdict(node_options(load({name.replace("_", "-"): value for name, value in given.items()}, {})))
    found.pop("request_bytes_max", None)
    return found


@pytest.mark.parametrize(
    ("flag", "value", "field", "default", "expected"),
    [
        ("etcd_backend_batch_interval", "200ms", "batch_interval_ms", 50, 200),
        ("etcd_backend_batch_limit", 77, "batch_limit", 5_000, 77),
        ("etcd_compaction_retention", "20m", "compaction_retention", 600_000, 1_200_000),
        ("etcd_snapshot_count", 5, "snapshot_count", 10_000, 5),
        ("etcd_max_snapshots", 3, "max_snapshots", 10, 3),
        ("etcd_max_wals", 4, "max_wals", 10, 4),
        ("etcd_max_txn_ops", 128, "txn_ops_max", 10_000, 128),
        ("etcd_space_quota", "16Mi", "quota_bytes", 9_200_000_000_000_000_000, 16 << 20),
        ("etcd_initial_election_tick_advance", True, "election_tick_advance", False, True),
    ],
)
def test_a_flag_is_an_option_of_the_store(flag: str, value: object, field: str, default: object, expected: object) -> None:
    before, after = options(), options(**{flag: value})
    assert before[field] == default, "spec §2.1"
    assert after[field] == expected
    assert {name for name in before if before[name] != after[name]} == {field}


def test_compaction_by_revisions() -> None:
    after = options(etcd_compaction_mode="revision", etcd_compaction_retention="1000")
    assert (after["compaction_mode"], after["compaction_retention"]) == ("revision", 1_000)
    assert options()["compaction_mode"] == "periodic"


def test_reclaiming_at_the_start_and_while_it_runs() -> None:
    name = FLAG.removeprefix("--")
    assert store_plan(load({}, {})).defrag_threshold_bytes == 100 << 20
    assert store_plan(load({name: 7}, {})).defrag_threshold_bytes == 7 << 20
    assert store_plan(load({}, {})).reclaims
    with open(standalone_file) as file:
        assert "reclaims" not in file.read(), "an etcd does not do so"


def test_ticks_that_a_start_lets_pass_at_once() -> None:
    """One less than the shortest timeout: what is left is chance's part of it."""
    assert NodeOptions(data_dir="x").ticks_ahead == 0
    ahead = NodeOptions(data_dir="x", election_tick_advance=True)
    assert ahead.ticks_ahead == ahead.election_ticks[0] - 1 == 9


async def kept_segments(place: Path, max_wals: int) -> int:
    """Files of the log after some 4 MB in segments of 256 KiB, with a Raft snapshot every 20 entries."""
    node = Node(
        NodeOptions(
            data_dir=str(place), max_wals=max_wals, max_snapshots=2, snapshot_count=20, batch_interval_ms=5, wal_segment_bytes=256 << 10
        ),
        log=Quiet(),  # type: ignore[arg-type]
        on_fatal=print,
    )
    await node.start()
    try:
        for number in range(200):
            await put(node, b"k", bytes([number]) * 20_000)
        await node.settle()
        for number in range(25):  # one more snapshot, behind all the segments
            await put(node, b"k", b"%d" % number)
        await node.settle()
        await asyncio.sleep(1.2)  # it is looked for twice a second
        return len(list(place.rglob("*.wal")))
    finally:
        await node.stop()


async def test_max_wals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--etcd-max-wals`: so many files of the log are kept beside those that are needed, 0 = all."""
    monkeypatch.setattr(limits, "SNAPSHOT_INTERVAL_MIN_MS", 20)
    every, few, some = [await kept_segments(tmp_path / str(most), most) for most in (0, 1, 6)]
    assert every >= 12
    assert few <= 4
    assert few < some < every


async def put(node: Node, key: bytes, value: bytes) -> None:
    done: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    class Sink:
        def on_results(self, tokens: object, results: Any) -> None:
            done.set_result(results[0][0])

    node.propose_many(proposals.PUT, [rpc_pb2.PutRequest(key=key, value=value).SerializeToString()], [1], Sink())
    assert await done == 0


class Quiet:
    def __getattr__(self, _level: str) -> object:
        return lambda message, **fields: None
