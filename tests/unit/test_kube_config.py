"""How the Kubernetes API is found: in a pod, by a kubeconfig, and what is refused with which words."""

import base64
import os
import ssl
from pathlib import Path
from typing import Any

import pytest
import yaml

from raftsched.cli.goflags import parse
from raftsched.config import ServeConfig, load
from raftsched.config.flags import FLAGS
from raftsched.config.kube import NO_POD, KubeAccess, KubeSource, read_access
from raftsched.errors import ConfigError, FatalError
from raftsched.in_kubernetes import kubernetes
from raftsched.kube.api import KubeApi
from raftsched.log import open_logs
from raftsched.store.transport.resolving import SystemResolver
from raftsched.testing.authority import Authority
from raftsched.testing.kube_api import FakeKubeApi

CLUSTER: dict[str, Any] = {"server": "https://api.example:6443/prefix/"}


def written(folder: Path, cluster: Any = None, user: Any = None, **changes: Any) -> KubeSource:
    table = {
        "current-context": "one",
        "contexts": [{"name": "other", "context": {}}, {"name": "one", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": CLUSTER if cluster is None else cluster}],
        "users": [{"name": "u", "user": user if user is not None else {"token": "t"}}],
    }
    (folder / "config").write_text(yaml.safe_dump(table | changes))
    return KubeSource(str(folder / "config"), "", "")


def test_in_a_pod(tmp_path: Path) -> None:
    for name in ("ca.crt", "token"):
        (tmp_path / name).write_text("x")
    for host in ("10.0.0.1", "fd00::1"):
        found = read_access(KubeSource(None, host, "443"), str(tmp_path))
        assert found == KubeAccess(host, 443, ca_file=f"{tmp_path}/ca.crt", token_file=f"{tmp_path}/token")


def test_outside_of_a_pod(tmp_path: Path) -> None:
    for host, port in (("", ""), ("10.0.0.1", ""), ("", "443"), ("10.0.0.1", "https")):
        with pytest.raises(ConfigError) as caught:
            read_access(KubeSource(None, host, port), str(tmp_path))
        assert str(caught.value) == NO_POD
    with pytest.raises(ConfigError, match=f"cannot read {tmp_path}/ca.crt"):
        read_access(KubeSource(None, "10.0.0.1", "443"), str(tmp_path))


def test_a_kubeconfig_with_files(tmp_path: Path) -> None:
    cluster = CLUSTER | {"certificate-authority": "ca.pem", "tls-server-name": "kubernetes"}
    user = {"client-certificate": "/abs/c.pem", "client-key": "k.pem", "tokenFile": "token"}
    assert read_access(written(tmp_path, cluster, user)) == KubeAccess(
        "api.example",
        6443,
        path="/prefix",
        server_name="kubernetes",
        ca_file=f"{tmp_path}/ca.pem",
        token_file=f"{tmp_path}/token",
        cert_file="/abs/c.pem",
        key_file=f"{tmp_path}/k.pem",
    )


def test_a_kubeconfig_with_data(tmp_path: Path) -> None:
    def data(text: str) -> str:
        return base64.b64encode(text.encode()).decode()

    cluster = {"server": "https://[::1]", "certificate-authority-data": data("CA"), "insecure-skip-tls-verify": True}
    user = {"client-certificate-data": data("CERT"), "client-key-data": data("KEY"), "token": "t"}
    found = read_access(written(tmp_path, cluster, user))
    assert found == KubeAccess("::1", 443, ca_pem="CA", verify=False, token="t", pair_pem=b"CERT\nKEY")
    assert "KEY" not in repr(found)
    assert "'t'" not in repr(found)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"current-context": "none"}, 'context "none" does not exist'),
        ({"current-context": None}, 'context "" does not exist'),
        ({"clusters": []}, 'cluster "c" does not exist'),
        ({"users": "x"}, 'user "u" does not exist'),
        ({"cluster": {"server": "http://a:1"}}, "server 'http://a:1' is not https://<host>:<port>"),
        ({"cluster": {}}, "server '' is not https"),
        ({"cluster": {"server": "https://a:x"}}, "Port could not be cast"),
        ({"cluster": CLUSTER | {"proxy-url": "http://p"}}, "proxy-url is not supported"),
        ({"cluster": CLUSTER | {"certificate-authority-data": "?"}}, "certificate-authority-data is not base64"),
        ({"user": {"exec": {"command": "aws"}}}, "exec is not supported"),
        ({"user": {"username": "u", "password": "p"}}, "username is not supported"),
        ({"user": {"token": 5}}, "token is no text"),
        ({"user": {"client-certificate": "c"}}, "client-certificate and client-key need each other"),
        ({"user": {"client-certificate-data": "QQ==", "client-key": "k"}}, "both as data or both as files"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_access(written(tmp_path, **changes))
    assert str(caught.value).startswith(f"cannot use --kubeconfig {tmp_path}/config: ")
    assert words in str(caught.value)


def test_a_kubeconfig_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read --kubeconfig /nowhere: No such file or directory"):
        read_access(KubeSource("/nowhere", "", ""))
    for text in (b"a: [", b"\xff", b"[" * 5000):
        (tmp_path / "config").write_bytes(text)
        with pytest.raises(ConfigError, match="cannot read --kubeconfig") as caught:
            read_access(KubeSource(str(tmp_path / "config"), "", ""))
        assert "\n" not in str(caught.value)


async def test_a_client_certificate_of_data_is_shown(tmp_path: Path) -> None:
    with FakeKubeApi(tmp_path / "api") as fake:
        fake.server.context.load_verify_locations(fake.authority.path("ca.crt"))
        fake.server.context.verify_mode = ssl.CERT_REQUIRED
        fake.authority.issue("client")
        pem = {name: Path(fake.authority.path(name)).read_bytes() for name in ("client.crt", "client.key", "ca.crt")}
        encoded = {name: base64.b64encode(data).decode() for name, data in pem.items()}
        cluster = {"server": f"https://localhost:{fake.port}", "certificate-authority-data": encoded["ca.crt"]}
        user = {"client-certificate-data": encoded["client.crt"], "client-key-data": encoded["client.key"], "token": fake.token}
        access = read_access(written(tmp_path, cluster, user))
        assert (await KubeApi(access, SystemResolver()).page("")).names == ["default", "kube-system"]


# -- the mode


def config(authority: Authority, *words: str, **environment: str) -> ServeConfig:
    return load(parse(["--mode=kubernetes", f"--trust-anchors-file={authority.path('ca.crt')}", *words], FLAGS, {}), environment)


def test_the_volume_is_the_members_own(tmp_path: Path) -> None:
    found = config(Authority(tmp_path), "--etcd-data-dir=/d", "--kubeconfig=/k", KUBERNETES_SERVICE_HOST="h", KUBERNETES_SERVICE_PORT="1")
    assert found.kube == KubeSource("/k", "h", "1")
    assert (found.store_directory, found.dapr_directory) == (Path("/d/raftsched-1"), Path("/d/dapr-0.1"))
    assert (found.instance, found.peer_listen_host) == (None, "0.0.0.0")
    assert found.sentry is not None
    assert found.sentry.kubernetes


def test_not_as_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def remove(_namespace: str) -> None: ...

    logs = open_logs()
    for user, environment, error in (
        (0, {}, FatalError),
        (0, {"DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK": "1"}, FatalError),
        (0, {"DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK": "true"}, ConfigError),
        (65532, {}, ConfigError),
    ):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        with pytest.raises(error, match="as root" if error is FatalError else "in-cluster"):
            kubernetes(config(Authority(tmp_path), **environment), logs, remove)
    assert kubernetes(load(parse([], FLAGS, {}), {}), logs, remove) is None
