"""The generated messages: current, importable beside each other, and with the field numbers that other tools read."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from google.protobuf import descriptor_pool, timestamp_pb2
from google.protobuf.descriptor import FieldDescriptor

from raftsched.pb.dapr import leadership_pb2, scheduler_pb2, stored_pb2
from raftsched.pb.etcd import raft_internal_pb2, rpc_pb2
from raftsched.pb.raft import raft_pb2, wal_pb2

ROOT = Path(__file__).parent.parent.parent
COMMITTED = ROOT / "src" / "raftsched" / "pb"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.suffix in {".py", ".pyi"}}


def test_the_committed_code_is_what_the_generator_writes(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="grpcio-tools is missing")
    if not (Path(sys.executable).parent / "protoc-gen-mypy").exists():
        pytest.skip("mypy-protobuf is missing")
    script("generate_proto").generate(tmp_path)
    assert contents(tmp_path / "raftsched" / "pb") == contents(COMMITTED), "run `make proto`"


def test_every_generated_module_imports_and_registers_under_its_own_path() -> None:
    for path in sorted(COMMITTED.rglob("*_pb2*.py")):
        dotted = ".".join(path.relative_to(COMMITTED.parent.parent).with_suffix("").parts)
        module = importlib.import_module(dotted)
        if not dotted.endswith("_grpc"):
            assert module.DESCRIPTOR.name == dotted.removesuffix("_pb2").replace(".", "/") + ".proto"


def test_services_have_the_names_that_clients_call() -> None:
    pool = descriptor_pool.Default()
    for file in ("v3lock", "v3election"):
        importlib.import_module(f"raftsched.pb.etcd.{file}_pb2")
    for file in ("health", "reflection_v1", "reflection_v1alpha"):
        importlib.import_module(f"raftsched.pb.wellknown.{file}_pb2")
    methods = {
        "etcdserverpb.KV": "Range RangeStream Put DeleteRange Txn Compact",
        "etcdserverpb.Watch": "Watch",
        "etcdserverpb.Lease": "LeaseGrant LeaseRevoke LeaseKeepAlive LeaseTimeToLive LeaseLeases",
        "etcdserverpb.Cluster": "MemberAdd MemberRemove MemberUpdate MemberList MemberPromote",
        "etcdserverpb.Maintenance": "Alarm Status Defragment Hash HashKV Snapshot MoveLeader Downgrade",
        "v3lockpb.Lock": "Lock Unlock",
        "v3electionpb.Election": "Campaign Proclaim Leader Observe Resign",
        "dapr.proto.scheduler.v1.Scheduler": "ScheduleJob GetJob DeleteJob ListJobs DeleteByMetadata DeleteByNamePrefix "
        "WatchJobs WatchHosts",
        "grpc.health.v1.Health": "Check List Watch",
        "grpc.reflection.v1.ServerReflection": "ServerReflectionInfo",
        "grpc.reflection.v1alpha.ServerReflection": "ServerReflectionInfo",
    }
    for name, wanted in methods.items():
        assert [m.name for m in pool.FindServiceByName(name).methods] == wanted.split(), name
    assert len(pool.FindServiceByName("etcdserverpb.Auth").methods) == 17


def test_stored_bytes_are_the_public_contract() -> None:
    """Encoded by hand from the field numbers of the scheduler specification."""
    job = stored_pb2.Job(partition_id=5, start=timestamp_pb2.Timestamp(seconds=1))
    job.job.schedule = "@every 1s"
    assert job.SerializeToString() == b"\x08\x05" + b"\x12\x02\x08\x01" + b"\x2a\x0b" + b"\x0a\x09@every 1s"
    counter = stored_pb2.Counter(job_partition_id=5, count=2, last_trigger=timestamp_pb2.Timestamp(seconds=1), attempts=3)
    assert counter.SerializeToString() == b"\x08\x05\x10\x02\x1a\x02\x08\x01\x20\x03"
    claim = leadership_pb2.Leadership(total=3, uid=7)
    claim.replica_data.Pack(scheduler_pb2.Host(address="h:1"))
    url = b"type.googleapis.com/dapr.proto.scheduler.v1.Host"
    assert (
        claim.SerializeToString()
        == b"\x08\x03\x10\x07\x1a" + bytes([len(url) + 9]) + b"\x0a" + bytes([len(url)]) + url + b"\x12\x05\x0a\x03h:1"
    )


def test_log_records_encode_as_the_log_format_says() -> None:
    entry = raft_pb2.Entry(Type=raft_pb2.EntryNormal, Term=2, Index=3, Data=b"x")
    assert entry.SerializeToString() == b"\x08\x00\x10\x02\x18\x03\x22\x01x"
    assert wal_pb2.Record(type=2, crc=1, data=b"d").SerializeToString() == b"\x08\x02\x10\x01\x1a\x01d"
    assert raft_pb2.HardState(term=1, vote=2, commit=3).SerializeToString() == b"\x08\x01\x10\x02\x18\x03"


def test_every_request_of_the_log_has_the_number_of_the_appendix() -> None:
    numbers = {f.name: f.number for f in raft_internal_pb2.InternalRaftRequest.DESCRIPTOR.fields}
    basic = {
        "header": 100,
        "ID": 1,
        "range": 3,
        "put": 4,
        "delete_range": 5,
        "txn": 6,
        "compaction": 7,
        "lease_grant": 8,
        "lease_revoke": 9,
    }
    assert {name: numbers[name] for name in basic} == basic
    assert numbers["alarm"] == 10
    assert numbers["lease_checkpoint"] == 11
    assert numbers["auth_enable"] == 1000
    assert numbers["cluster_version_set"] == 1300
    assert numbers["downgrade_version_test"] == 9900


def test_presence_of_optional_fields() -> None:
    """`repeats` given as 0 is an error, absent it is not: presence must survive the wire."""
    job = scheduler_pb2.Job(repeats=0)
    assert job.HasField("repeats")
    assert scheduler_pb2.Job.FromString(job.SerializeToString()).HasField("repeats")
    assert not scheduler_pb2.Job().HasField("repeats")
    assert rpc_pb2.Compare.DESCRIPTOR.oneofs_by_name["target_union"].fields[0].number == 4
    assert rpc_pb2.Compare.DESCRIPTOR.fields_by_name["range_end"].number == 64
    assert rpc_pb2.WatchResponse.DESCRIPTOR.fields_by_name["events"].number == 11
    assert rpc_pb2.WatchResponse.DESCRIPTOR.fields_by_name["events"].type == FieldDescriptor.TYPE_MESSAGE
