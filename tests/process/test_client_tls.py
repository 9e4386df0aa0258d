"""A whole server with TLS for clients: its own certificates, files that change under it, sockets that it leaves, and what it refuses."""

import json
import os
import signal
import socket
import ssl
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from clustering import get, put
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from serving import ends, metrics, wait_for

from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc
from raftsched.testing.authority import Authority
from raftsched.testing.cluster import Cluster
from raftsched.testing.process import ServerProcess, free_ports

pytestmark = [pytest.mark.process]
UNUSABLE = "raftsched_client_unusable_certificates_total"
REFUSED = "raftsched_client_refused_connections_total"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path / "authority")
    made.issue("server")
    made.issue("client")
    return made


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    made = ServerProcess(tmp_path / "server")
    made.command.append("--etcd-client-listen-address=127.0.0.1")
    yield made
    if made.process is not None:
        made.kill()


def pair(authority: Authority) -> list[str]:
    return [f"--cert-file={authority.path('server.crt')}", f"--key-file={authority.path('server.key')}"]


def channel(server: ServerProcess, *files: Path | str) -> grpc.Channel:
    """`files`: authority, key, certificate."""
    credentials = grpc.ssl_channel_credentials(*(Path(file).read_bytes() for file in files))
    return grpc.secure_channel(server.client_address, credentials)


def engine_lines(server: ServerProcess) -> list[dict[str, Any]]:
    text = server.stderr_path.read_text()[server.stderr_offset :]
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def fatal(server: ServerProcess) -> str:
    """The last line of a start that must fail; there is no other complaint."""
    server.start(wait=False)
    assert ends(server) == 1
    lines = server.stdout_path.read_text().splitlines()
    assert "Traceback" not in server.logs()
    return lines[-1].replace('\\"', '"')


def test_a_certificate_of_its_own_is_made_once(server: ServerProcess) -> None:
    server.command.append("--auto-tls")
    folder = server.directory / "data/default-dapr-scheduler-server-0/raftsched-1/fixtures/client"
    before = b""
    for _ in range(2):
        server.start()
        with channel(server, folder / "cert.pem") as opened:
            rpc_pb2_grpc.KVStub(opened).Put(rpc_pb2.PutRequest(key=b"k", value=b"v"), timeout=10)
            members = rpc_pb2_grpc.ClusterStub(opened).MemberList(rpc_pb2.MemberListRequest(), timeout=10).members
            assert list(members[0].clientURLs) == [f"https://{server.client_address}"]
        made = (folder / "cert.pem").read_bytes()
        assert before in (b"", made)
        before = made
        assert server.stop() == 0
    assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    secret = (folder / "key.pem").read_text().splitlines()[1]
    assert secret not in server.stdout_path.read_text() + server.stderr_path.read_text()


def test_members_with_certificates_of_their_own(tmp_path: Path) -> None:
    with Cluster(tmp_path, args=["--peer-auto-tls"], scheme="https") as cluster:
        put(cluster.leader(), b"k", b"one")
        assert [get(one, b"k") for one in cluster.members] == [b"one"] * 3
        for member in cluster.members:
            folder = member.directory / f"data/default-{member.name}/raftsched-1/fixtures/peer"
            assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
            with (
                socket.create_connection(("127.0.0.1", peer_port(member.command)), timeout=10) as plain,
                ssl._create_unverified_context().wrap_socket(plain) as connection,
            ):
                shown = connection.getpeercert(binary_form=True)
                assert shown == ssl.PEM_cert_to_DER_cert((folder / "cert.pem").read_text())


def peer_port(command: list[str]) -> int:
    return int(next(word for word in command if word.startswith("--peer-listen-address=")).rpartition(":")[2])


def test_files_are_renewed_under_open_streams(server: ServerProcess, authority: Authority) -> None:
    server.command += [*pair(authority), f"--trusted-ca-file={authority.path('ca.crt')}", "--client-cert-auth"]
    server.start()
    files = [authority.path(name) for name in ("ca.crt", "client.key", "client.crt")]
    seen: list[bytes] = []
    with channel(server, *files) as old:
        created = threading.Event()

        def watch() -> None:
            request = rpc_pb2.WatchRequest(create_request=rpc_pb2.WatchCreateRequest(key=b"k"))
            done = threading.Event()
            for answer in rpc_pb2_grpc.WatchStub(old).Watch(keep(request, done), timeout=60):
                created.set()
                seen.extend(event.kv.value for event in answer.events)
                if seen[-1:] == [b"end"]:
                    done.set()
                    return

        watching = threading.Thread(target=watch)
        watching.start()
        assert created.wait(20)
        first = shown_serial(server, authority)
        authority.issue("server")
        assert shown_serial(server, authority) == authority.serial("server") != first
        Path(authority.path("server.key")).write_text("broken")
        assert shown_serial(server, authority) == authority.serial("server")
        assert shown_serial(server, authority) == authority.serial("server")
        with pytest.raises(ssl.SSLError), connected(server, authority.client_context()) as connection:
            connection.recv(1)
        found = metrics(server.metrics_port)
        assert found[UNUSABLE] == 1
        assert found[REFUSED + '{cause="PEER_DID_NOT_RETURN_A_CERTIFICATE"}'] == 1
        with channel(server, *files) as new:
            rpc_pb2_grpc.KVStub(new).Put(rpc_pb2.PutRequest(key=b"k", value=b"end"), timeout=20)
        watching.join(20)
        assert seen == [b"end"]
    lines = engine_lines(server)
    assert [line["level"] for line in lines if "changed certificate files" in line["msg"]] == ["error"]
    assert len([line for line in lines if line["msg"] == "rejected connection on client endpoint"]) == 1
    assert server.stop() == 0


def keep(request: rpc_pb2.WatchRequest, done: threading.Event) -> Iterator[rpc_pb2.WatchRequest]:
    """A stream that stays open."""
    yield request
    done.wait(60)


def connected(server: ServerProcess, context: ssl.SSLContext) -> ssl.SSLSocket:
    return context.wrap_socket(socket.create_connection(("127.0.0.1", server.client_port), timeout=10), server_hostname="localhost")


def shown_serial(server: ServerProcess, authority: Authority) -> int:
    with connected(server, authority.client_context("client")) as connection:
        return int(str(connection.getpeercert()["serialNumber"]), 16)  # type: ignore[index]


def test_a_unix_socket_goes_with_its_server_and_is_taken_over_from_a_killed_one(server: ServerProcess, tmp_path: Path) -> None:
    path = tmp_path / "etcd.sock"
    server.command.append(f"--listen-client-urls=http://127.0.0.1:{server.client_port},unix://{path}")
    for number in (signal.SIGKILL, signal.SIGTERM):
        server.start()
        with grpc.insecure_channel(f"unix:{path}") as opened:
            rpc_pb2_grpc.KVStub(opened).Put(rpc_pb2.PutRequest(key=b"k", value=b"v"), timeout=10)
        if number == signal.SIGKILL:
            server.kill()
            assert path.exists()
        else:
            assert server.stop() == 0
            assert not path.exists()


def test_what_is_advertised_is_told(server: ServerProcess) -> None:
    server.command.append("--advertise-client-urls=https://a.example:1,unix:///run/x")
    with server, grpc.insecure_channel(server.client_address) as opened:
        wait_for(lambda: advertised(opened), 10, server.logs)
        assert advertised(opened) == ["https://a.example:1", "unix:///run/x"]


def advertised(opened: grpc.Channel) -> list[str]:
    members = rpc_pb2_grpc.ClusterStub(opened).MemberList(rpc_pb2.MemberListRequest(), timeout=10).members
    return list(members[0].clientURLs)


# -- what does not start


@pytest.mark.parametrize("case", ["none", "junk", "foreign key", "encrypted", "suite", "crl", "authority"])
def test_a_wrong_file_is_one_line_and_exit_1(server: ServerProcess, authority: Authority, case: str) -> None:
    """Before any other member is waited for: the two others of this list do not run."""
    folder, (first, second, third) = authority.folder, free_ports(3)
    ports = {"dapr-scheduler-server-0": first, "b": second, "c": third}
    server.command = [word for word in server.command if not word.startswith("--etcd-initial-cluster=")]
    server.command.append("--etcd-initial-cluster=" + ",".join(f"{name}=http://127.0.0.1:{port}" for name, port in ports.items()))
    words, text = pair(authority), ""
    if case == "none":
        words[0], text = f"--cert-file={folder}/none", f"cannot read the certificate file {folder}/none: No such file or directory"
    elif case == "junk":
        (folder / "junk").write_text("junk")
        words[0], text = f"--cert-file={folder}/junk", f"cannot use certificate {folder}/junk with key {folder}/server.key: "
    elif case == "foreign key":
        words[1] = f"--key-file={folder}/client.key"
        text = f"cannot use certificate {folder}/server.crt with key {folder}/client.key: KEY_VALUES_MISMATCH"
    elif case == "encrypted":
        key = serialization.load_pem_private_key((folder / "server.key").read_bytes(), None)
        sealed = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
        (folder / "server.key").write_bytes(sealed)
        text = f"the key file {folder}/server.key is encrypted"
    elif case == "suite":
        words.append("--cipher-suites=TLS_NOTHING")
        text = 'unexpected TLS cipher suite "TLS_NOTHING"'
    elif case == "crl":
        words += [f"--trusted-ca-file={folder}/ca.crt", f"--client-crl-file={folder}/ca.crt"]
        text = f"cannot use the CRL file {folder}/ca.crt: it is no certificate revocation list"
    else:
        words.append(f"--trusted-ca-file={folder}/server.key")
        text = f"cannot use client CA file {folder}/server.key: NO_CERTIFICATE_OR_CRL_FOUND"
    server.command += words
    assert text in fatal(server)


def test_a_directory_that_cannot_take_a_certificate_is_told(server: ServerProcess) -> None:
    fixtures = server.directory / "data/default-dapr-scheduler-server-0/raftsched-1/fixtures"
    fixtures.parent.mkdir(parents=True)
    os.symlink("/dev/null", fixtures)
    server.command.append("--auto-tls")
    assert f"cannot keep a self-signed certificate in {fixtures}/client: " in fatal(server)
