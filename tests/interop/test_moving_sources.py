"""What others made, imported: files by Go's own gob, the directory of a killed etcd, an etcd with TLS and users."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import grpc
import pytest
from snapshots import Api, raftsched

from raftsched.cli.moving import gob
from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc
from raftsched.testing.authority import Authority
from raftsched.testing.etcd import RealEtcd
from raftsched.testing.process import ServerProcess, free_ports

pytestmark = pytest.mark.process
JOBS, COUNTERS = b"dapr/jobs/", b"dapr/counters/"


@pytest.fixture
def exportfile(tools: ModuleType) -> Path:
    path = tools.exportfile()
    if path is None:
        pytest.skip("no Go program `exportfile` here: not built by `make tools`")
    return Path(path)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "target") as server:
        yield server


def under(address: str, prefix: bytes) -> dict[bytes, bytes]:
    with Api(address) as api:
        request = rpc_pb2.RangeRequest(key=prefix, range_end=prefix[:-1] + bytes([prefix[-1] + 1]))
        return {one.key: one.value for one in api.kv.Range(request, timeout=20).kvs}


def go(program: Path, *words: object) -> str:
    return subprocess.run([program, *map(str, words)], capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("count", [0, 1, 300])
def test_a_file_by_go(count: int, exportfile: Path, target: ServerProcess, tmp_path: Path) -> None:
    """As `dapr scheduler export` writes it. Its values are no jobs: they are imported all the same, and told."""
    go(exportfile, "write", tmp_path / "file", count)
    found = dict((key, value) for key, value, _ in gob.read(str(tmp_path / "file")))  # noqa: C402  # of three
    assert len([key for key in found if key.startswith(JOBS)]) == count
    told = json.loads(raftsched("import", "dapr", tmp_path / "file", "--address", target.client_address, "--json").stdout)
    assert (told["created"], told["unreadable"]) == (count, count)
    assert {**under(target.client_address, JOBS), **under(target.client_address, COUNTERS)} == found


def test_go_reads_what_is_exported(exportfile: Path, target: ServerProcess, tmp_path: Path) -> None:
    """As `dapr scheduler import` reads it."""
    with Api(target.client_address) as api:
        for number in range(300):
            api.put(JOBS + b"app||default||app||%d" % number, b"no job" * number)
        for number in range(0, 300, 3):
            api.put(COUNTERS + b"app||default||app||%d" % number, b"")
    raftsched("export", tmp_path / "file", "--address", target.client_address)
    told = json.loads(go(exportfile, "read", tmp_path / "file"))
    assert set(told["Jobs"]) == {key.decode() for key in under(target.client_address, JOBS)}
    assert set(told["Counters"]) == {key.decode() for key in under(target.client_address, COUNTERS)}
    back = subprocess.run([exportfile, "read", "/dev/stdin"], input=b"", capture_output=True, check=False)
    assert back.returncode == 1, "it takes anything"
    again = ServerProcess(tmp_path / "again")
    with again:
        raftsched("import", "dapr", tmp_path / "file", "--address", again.client_address)
        assert under(again.client_address, JOBS) == under(target.client_address, JOBS)


def test_the_directory_of_a_killed_etcd(target: ServerProcess, real_etcd: RealEtcd, tmp_path: Path) -> None:
    """With what only its log holds. While it runs the directory is refused; a second import knows the first."""
    with Api(real_etcd.address) as api:
        for number in range(200):
            api.put(JOBS + b"app||default||app||%d" % number, b"%d" % number)
        api.kv.DeleteRange(rpc_pb2.DeleteRangeRequest(key=JOBS + b"app||default||app||7"), timeout=20)
    before = under(real_etcd.address, JOBS)
    source = tmp_path / "judge" / "etcd"
    done = raftsched("import", "dapr", source, "--address", target.client_address, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "is in use: stop the server first" in done.stderr
    assert real_etcd._process is not None
    real_etcd._process.kill()
    real_etcd._process.wait()
    words = ("import", "dapr", source, "--address", target.client_address, "--scratch", tmp_path, "--json")
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    assert json.loads(raftsched(*words).stdout)["created"] == 199
    assert under(target.client_address, JOBS) == before
    assert json.loads(raftsched(*words).stdout)["earlier"] == 199
    assert subprocess.run(["diff", "-r", source, copy], check=False).returncode == 0, "the source was changed"
    assert not list(tmp_path.glob("raftsched-import-*"))


def test_a_running_etcd_with_tls_and_users_into_a_new_directory_and_a_running_server(
    target: ServerProcess, tools: ModuleType, tmp_path: Path
) -> None:
    path = tools.etcd("3.7")
    if path is None:
        pytest.skip("no etcd 3.7 here: not built by `make tools`")
    authority = Authority(tmp_path / "authority")
    authority.issue("server")
    authority.issue("client")
    etcd = RealEtcd(tmp_path / "theirs", Path(path))
    secure = etcd.address.replace("127.0.0.1", "localhost")
    port = int(secure.rpartition(":")[2])
    etcd.add_flags(
        [
            f"--listen-client-urls=https://127.0.0.1:{port}",
            f"--advertise-client-urls=https://{secure}",
            f"--cert-file={authority.path('server.crt')}",
            f"--key-file={authority.path('server.key')}",
            f"--trusted-ca-file={authority.path('ca.crt')}",
            f"--listen-metrics-urls=http://127.0.0.1:{free_ports(1)[0]}",
        ]
    )
    etcd._healthy = lambda: _speaks(secure, authority)  # type: ignore[method-assign]  # only with a certificate
    with etcd:
        with grpc.secure_channel(secure, _credentials(authority)) as channel:
            kv, auth = rpc_pb2_grpc.KVStub(channel), rpc_pb2_grpc.AuthStub(channel)
            for number in range(10):
                kv.Put(rpc_pb2.PutRequest(key=JOBS + b"app||default||app||%d" % number, value=b"x"), timeout=20)
            auth.UserAdd(rpc_pb2.AuthUserAddRequest(name="root", password="pw"), timeout=20)
            auth.UserGrantRole(rpc_pb2.AuthUserGrantRoleRequest(user="root", role="root"), timeout=20)
            auth.AuthEnable(rpc_pb2.AuthEnableRequest(), timeout=20)
        tls = [
            f"--source-{name}={authority.path(file)}"
            for name, file in (("cacert", "ca.crt"), ("cert", "client.crt"), ("key", "client.key"))
        ]
        words = ["import", "dapr", f"https://{secure}", *tls]
        here = ["--address", target.client_address]
        assert "user name is empty" in raftsched(*words, *here, check=False).stderr
        assert "authentication failed" in raftsched(*words, *here, "--source-user=root:no", check=False).stderr
        assert json.loads(raftsched(*words, *here, "--source-user=root:pw", "--json").stdout)["created"] == 10
        assert len(under(target.client_address, JOBS)) == 10
        told = json.loads(raftsched(*words, "--source-user=root:pw", "--data-dir", tmp_path / "new", "--json").stdout)
        assert (told["keys"], told["auth_enabled"]) == (10, True)
    assert (tmp_path / "new" / "default-dapr-scheduler-server-0" / "raftsched-1").is_dir()


def _credentials(authority: Authority) -> grpc.ChannelCredentials:
    ca, key, cert = (Path(authority.path(name)).read_bytes() for name in ("ca.crt", "client.key", "client.crt"))
    return grpc.ssl_channel_credentials(ca, key, cert)


def _speaks(address: str, authority: Authority) -> bool:
    with grpc.secure_channel(address, _credentials(authority)) as channel:
        try:
            rpc_pb2_grpc.KVStub(channel).Range(rpc_pb2.RangeRequest(key=b"x"), timeout=1)
        except grpc.RpcError:
            return False
    return True
