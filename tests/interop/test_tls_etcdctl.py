"""TLS and unix sockets beside a real etcd with the same flags and files: the same clients come in, and the others hear the same; from a
member alone, and from one of three that does not lead."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from raftsched.testing.authority import Authority
from raftsched.testing.cluster import Cluster
from raftsched.testing.etcd import RealEtcd
from raftsched.testing.process import ServerProcess, free_ports

pytestmark = pytest.mark.process
SOON = ("--command-timeout=2s", "--dial-timeout=1s")


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two servers: endpoints by kind."""

    endpoints: Mapping[str, str]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """`foreign` and `stranger.crt`: of another authority."""
    made, stranger = (Authority(tmp_path_factory.mktemp(name)) for name in ("authority", "stranger"))
    for name in ("server", "client", "revoked"):
        made.issue(name)
    made.issue("elsewhere", "elsewhere.example")
    made.issue("expired", expired=True)
    stranger.issue("client")
    made.revoke("list", made.serial("revoked"))
    for source, target in (("client.crt", "foreign.crt"), ("client.key", "foreign.key"), ("ca.crt", "stranger.crt")):
        (made.folder / target).write_bytes((stranger.folder / source).read_bytes())
    return made


def flags_of(files: Authority, folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
    """The flags of a server with every kind of listener, and its endpoints."""
    secure, both = free_ports(2)
    found = {
        "http": f"http://127.0.0.1:{port}",
        "https": f"https://127.0.0.1:{secure}",
        "plaintext at a shared port": f"http://127.0.0.1:{both}",
        "TLS at a shared port": f"https://127.0.0.1:{both}",
        "unix": f"unix://{folder}/plain",
        "unixs": f"unixs://{folder}/localhost",  # the client takes the last part for the server's name
    }
    flags = [
        "--listen-client-urls=" + ",".join(found.values()),
        f"--advertise-client-urls={found['http']}",
        f"--cert-file={files.path('server.crt')}",
        f"--key-file={files.path('server.key')}",
        f"--trusted-ca-file={files.path('ca.crt')}",
        "--client-cert-auth",
        f"--client-crl-file={files.path('list.crl')}",
        "--client-cert-allowed-hostname=127.0.0.1",
    ]
    return flags, found | {
        "plaintext to TLS": found["https"].replace("https", "http"),
        "TLS to plaintext": found["http"].replace("http", "https"),
    }


@contextmanager
def alone(files: Authority, folder: Path) -> Iterator[Side]:
    server = ServerProcess(folder)
    flags, endpoints = flags_of(files, folder, server.client_port)
    server.command += flags
    with server:
        yield Side(endpoints)


@contextmanager
def following(files: Authority, folder: Path) -> Iterator[Side]:
    """One of three that does not lead; all have the same listeners, since nobody knows beforehand who will."""
    cluster = Cluster(folder)
    endpoints: dict[int, Mapping[str, str]] = {}
    for member in cluster.members:
        flags, endpoints[member.number] = flags_of(files, member.directory, member.client_port)
        member.command += flags
    with cluster:
        yield Side(endpoints[cluster.followers()[0].number])


@pytest.fixture(scope="module", params=[alone, following], ids=["one", "follower"])
def ours(request: pytest.FixtureRequest, files: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Side]:
    with request.param(files, tmp_path_factory.mktemp("ours")) as side:
        yield side


@pytest.fixture(scope="module")
def theirs(ours: Side, files: Authority, tmp_path_factory: pytest.TempPathFactory, etcd_program: Path) -> Iterator[Side]:
    """A new one beside each of `ours`: the last test leaves users behind."""
    folder = tmp_path_factory.mktemp("theirs")
    etcd = RealEtcd(folder, etcd_program)
    flags, endpoints = flags_of(files, folder, etcd.port)
    etcd.add_flags(flags)
    with etcd:
        yield Side(endpoints)


Ask = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def ask(files: Authority, etcdctl_program: Path) -> Ask:
    def run(endpoint: str, *words: str, name: str = "", ca: str = "ca.crt", skip: bool = False) -> subprocess.CompletedProcess[str]:
        secure = [f"--cacert={files.path(ca)}"] if not skip else ["--insecure-skip-tls-verify"]
        shown = [f"--cert={files.path(name)}.crt", f"--key={files.path(name)}.key"] if name else []
        if not endpoint.startswith(("https", "unixs")):
            secure = shown = []
        command = [str(etcdctl_program), f"--endpoints={endpoint}", *SOON, *secure, *shown, *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    return run


def reason(answer: subprocess.CompletedProcess[str]) -> str:
    """Why the last attempt failed, without addresses."""
    assert answer.returncode == 1, answer.stdout
    lines = [json.loads(line) for line in answer.stderr.splitlines() if line.startswith("{")]
    text = str(lines[-1]["error"]).partition("latest balancer error: ")[2]
    return re.sub(r"(127\.0\.0\.1|/\S*):?\d*", "…", text)


COMES_IN: Sequence[tuple[str, dict[str, object]]] = [
    ("http", {}),
    ("https", {"name": "client"}),
    ("https", {"name": "client", "skip": True}),
    ("plaintext at a shared port", {}),
    ("TLS at a shared port", {"name": "client"}),
    ("unix", {}),
    ("unixs", {"name": "client"}),
]


@pytest.mark.parametrize(("kind", "options"), COMES_IN, ids=lambda value: value if isinstance(value, str) else "-".join(value))
def test_who_comes_in(ours: Side, theirs: Side, ask: Ask, kind: str, options: dict[str, bool | str]) -> None:
    for side in (ours, theirs):
        written = ask(side.endpoints[kind], "put", "key", kind, **options)
        assert written.stdout == "OK\n", written.stderr
        assert ask(side.endpoints[kind], "get", "key", "--print-value-only", **options).stdout == f"{kind}\n"


GONE = "write tcp …->…: write: broken pipe"
REFUSED: Sequence[tuple[str, dict[str, str], set[str]]] = [
    ("https", {}, {"tls: certificate required"}),
    ("https", {"name": "foreign"}, {"tls: unknown certificate authority"}),
    ("https", {"name": "expired"}, {"tls: expired certificate"}),
    ("https", {"name": "revoked"}, set()),
    ("https", {"name": "elsewhere"}, {"tls: bad certificate"}),
    ("https", {"name": "client", "ca": "stranger.crt"}, {"certificate signed by unknown authority"}),
    ("plaintext to TLS", {}, {"error reading server preface: EOF"}),
    ("TLS to plaintext", {"name": "client"}, {"authentication handshake failed: EOF"}),
    ("TLS at a shared port", {}, {"tls: certificate required"}),
    ("unixs", {}, {"tls: certificate required"}),
]


@pytest.mark.parametrize("ours", [alone], indirect=True, ids=["one"])  # refused before anybody asks who leads
@pytest.mark.parametrize(("kind", "options", "words"), REFUSED, ids=lambda value: value if isinstance(value, str) else "-".join(value)[:30])
def test_who_does_not_come_in(ours: Side, theirs: Side, ask: Ask, kind: str, options: dict[str, str], words: set[str]) -> None:
    """The client hears the alert or, if it was writing already, of a broken pipe; ours has none for a name that is not allowed."""
    with ThreadPoolExecutor() as pool:  # each attempt lasts until etcdctl gives up
        attempts = [pool.submit(ask, side.endpoints[kind], "put", "key", "refused", **options) for side in (ours, theirs)]
    for side, attempt in zip((ours, theirs), attempts, strict=True):
        heard = reason(attempt.result())
        assert any(word in heard for word in words) or any(word in heard for word in ("broken pipe", "connection reset", "EOF")), heard
        assert ask(side.endpoints["http"], "get", "key", "--print-value-only").stdout != "refused\n"


@pytest.mark.parametrize("ours", [alone], indirect=True, ids=["one"])
def test_curl_speaks_http2_with_both(ours: Side, theirs: Side, files: Authority) -> None:
    secure = ["--cacert", files.path("ca.crt"), "--cert", files.path("client.crt"), "--key", files.path("client.key")]
    for side in (ours, theirs):
        for flags, version in (((), "2"), (("--http1.1",), "1.1")):
            command = ["curl", "-sS", "-m", "10", *secure, *flags, "-w", " %{http_version}", side.endpoints["https"] + "/health"]
            answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
            assert answer.stdout == '{"health":"true","reason":""} ' + version, answer.stderr


def test_the_common_name_is_the_user(ours: Side, theirs: Side, ask: Ask) -> None:
    """Of a certificate that was shown through TLS, and only while there is no token. The last of the tests that share these servers."""
    root = ("--user=root:pw",)
    for side in (ours, theirs):
        secure, plain = side.endpoints["https"], side.endpoints["http"]
        for words in (
            "user add root:pw", "user grant-role root root", "user add client --no-password", "role add some",
            "role grant-permission some readwrite mine", "user grant-role client some", "auth enable",
        ):  # fmt: skip
            assert ask(plain, *words.split()).returncode == 0, words
        assert ask(secure, "put", "mine", "1", name="client").stdout == "OK\n"
        assert ask(secure, "get", "mine", "--print-value-only", name="client").stdout == "1\n"
        assert "etcdserver: permission denied" in ask(secure, "put", "other", "1", name="client").stderr
        assert "etcdserver: permission denied" in ask(secure, "get", "other", name="client").stderr
        assert ask(secure, *root, "put", "other", "1", name="client").stdout == "OK\n", "a token comes before the certificate"
        for endpoint in (plain, side.endpoints["unix"], side.endpoints["plaintext at a shared port"]):
            assert "etcdserver: user name is empty" in ask(endpoint, "put", "mine", "1").stderr
        assert ask(side.endpoints["TLS at a shared port"], "put", "mine", "2", name="client").stdout == "OK\n"
        assert ask(plain, *root, "auth", "disable").returncode == 0


# -- what does not start


WRONG = [
    (["--listen-client-urls=https://127.0.0.1:{port}"],
        "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:{port} with HTTPS scheme"),
    (["--tls-min-version=TLS1.1"], 'unexpected TLS version "TLS1.1" (must be one of: TLS1.2, TLS1.3)'),
    (["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"], "min version (TLS1.3) is greater than max version (TLS1.2)"),
    (["--tls-min-version=TLS1.3", "--cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"],
        "cipher suites cannot be configured when only TLS1.3 is enabled"),
    (["--listen-client-urls=http://a.example:{port}"], "expected IP in URL for binding (http://a.example:{port})"),
    (["--listen-client-urls=ftp://127.0.0.1:{port}"], "URL scheme must be http, https, unix, or unixs: ftp://127.0.0.1:{port}"),
    (["--listen-client-urls=http://127.0.0.1:{port}/x"], "URL must not contain a path: http://127.0.0.1:{port}/x"),
    (["--listen-client-urls=http://127.0.0.1"], 'URL address does not have the form "host:port": http://127.0.0.1'),
]  # fmt: skip


@pytest.mark.parametrize(("words", "text"), WRONG, ids=lambda value: value[0][:40] if isinstance(value, list) else "")
def test_both_refuse_with_the_same_words(tmp_path: Path, etcd_program: Path, words: list[str], text: str) -> None:
    server = ServerProcess(tmp_path / "ours")
    given = [word.format(port=server.client_port) for word in words]
    server.command += given
    server.start(wait=False)
    assert server.process is not None
    assert server.process.wait(20) == 1
    server.process = None
    lines = server.stdout_path.read_text().splitlines()
    assert text.format(port=server.client_port) in lines[-1].replace('\\"', '"')
    etcd = RealEtcd(tmp_path / "theirs", etcd_program)
    etcd.add_flags([*given, f"--advertise-client-urls=http://127.0.0.1:{server.client_port}", "--log-level=warn"])
    with pytest.raises(RuntimeError) as failed, etcd:
        pass
    assert text.format(port=server.client_port) in str(failed.value).replace('\\"', '"')
