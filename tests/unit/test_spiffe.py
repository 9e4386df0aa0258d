"""SPIFFE ids: which texts are one, which certificates say one, whose app it is."""

import pytest

from raftsched.security.spiffe import SpiffeId, parse_id, shown_id, workload_id


def shown(*names: tuple[str, str]) -> dict[str, object]:
    return {"subjectAltName": names}


@pytest.mark.parametrize(
    ("text", "trust_domain", "path"),
    [
        ("spiffe://localhost/ns/default/dapr-sentry", "localhost", "/ns/default/dapr-sentry"),
        ("spiffe://a.b-c_d.1", "a.b-c_d.1", ""),
        ("spiffe://td/A/b.c/..d/e-f_g", "td", "/A/b.c/..d/e-f_g"),
    ],
)
def test_ids(text: str, trust_domain: str, path: str) -> None:
    found = parse_id(text)
    assert found == SpiffeId(trust_domain, path)
    assert str(found) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spiffe://",
        "spiffe:///ns/a/b",
        "SPIFFE://td/a",
        "http://td/ns/a/b",
        "spiffe://TD/ns/a/b",
        "spiffe://user@td/a",
        "spiffe://td:1/a",
        "spiffe://td/a/",
        "spiffe://td//a",
        "spiffe://td/a?b",
        "spiffe://td/a#b",
        "spiffe://td/./a",
        "spiffe://td/a/..",
        "spiffe://td/a%20b",
        "spiffe://td/ä",
        "spiffe://td/a\n",
        "spiffe://td/a\0",
        "spiffe://" + "t" * 256,
        "spiffe://td/" + "a" * 2048,
    ],
)
def test_what_is_no_id(text: str) -> None:
    assert parse_id(text) is None


def test_the_one_uri_of_a_certificate_counts() -> None:
    uri = ("URI", "spiffe://td/ns/default/app")
    assert shown_id(shown(("DNS", "spiffe://td/ns/default/other"), uri)) == workload_id("td", "default", "app")
    assert shown_id(shown(uri, uri)) is None
    assert shown_id(shown(uri, ("URI", "https://example.com"))) is None
    assert shown_id(shown(("DNS", "a"))) is None
    assert shown_id({}) is None
    assert shown_id(None) is None


@pytest.mark.parametrize(
    ("path", "workload"),
    [
        ("/ns/a/b", ("a", "b")),
        ("/ns/a", None),
        ("/ns/a/b/c", ("a", "b")),
        ("/xx/a/b", None),
        ("", None),
    ],
)
def test_whose_app_it_is(path: str, workload: tuple[str, str] | None) -> None:
    assert SpiffeId("td", path).workload == workload
