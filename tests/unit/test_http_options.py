"""Options about HTTP, and the targets of requests."""

import pytest

from raftsched.config.http import check_origins
from raftsched.errors import ConfigError
from raftsched.rpc.http import masked
from raftsched.rpc.targets import clean_path, host_of, path_of, query_of


def test_which_origins_are_taken() -> None:
    check_origins(("http://a:1", "https://b:2", "*"))


@pytest.mark.parametrize(
    ("origin", "text"),
    [
        ("a.example", "invalid value for --cors: a.example: URL scheme must be http or https"),
        ("http://a", 'invalid value for --cors: http://a: URL address does not have the form "host:port"'),
        ("http://a:80/x", "invalid value for --cors: http://a:80/x: URL must not contain a path"),
        ("http://[", "invalid value for --cors: http://[: "),
        ("http://a:99999", "invalid value for --cors: http://a:99999: Port out of range"),
    ],
)
def test_which_origins_are_refused(origin: str, text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_origins((origin,))
    assert str(refused.value).startswith(text)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/a/b?c=/d", "/a/b"),
        ("http://h:1/a%20b", "/a b"),
        ("HTTP://h", "/"),
        ("*", "*"),
        ("/%2e%2e/x", "/../x"),
        ("/%zz", None),
        ("/%", None),
    ],
)
def test_paths(target: str, path: str | None) -> None:
    assert path_of(target) == path


@pytest.mark.parametrize(
    ("path", "clean"),
    [
        ("/", "/"),
        ("//", "/"),
        ("/a//b/", "/a/b/"),
        ("/a/../..", "/"),
        ("/a/./b", "/a/b"),
        ("/a/.", "/a"),
        ("a", "/a"),
        ("///a", "/a"),
        ("*", "/*"),
    ],
)
def test_clean_paths(path: str, clean: str) -> None:
    assert clean_path(path) == clean


@pytest.mark.parametrize(
    ("target", "header", "host"),
    [
        ("/", "a:1", "a"),
        ("/", "a", "a"),
        ("/", "[::1]:80", "::1"),
        ("/", "[::1]", "[::1]"),
        ("/", "a:b:c", "a:b:c"),
        ("/", "", ""),
        ("http://b:2/x", "a:1", "b"),
    ],
)
def test_hosts(target: str, header: str, host: str) -> None:
    assert host_of(target, header) == host


def test_queries() -> None:
    assert query_of("/health?exclude=A&exclude=B&verbose&x=%20") == {"exclude": ["A", "B"], "verbose": [""], "x": [" "]}
    assert query_of("/health") == {}


def test_secrets_are_masked() -> None:
    assert [masked(word) for word in ("--etcd-client-password=a=b", "--port=1", "password")] == [
        "--etcd-client-password=***",
        "--port=1",
        "password",
    ]
