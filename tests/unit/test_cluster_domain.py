"""The cluster's domain: what a canonical name says, and what counts when nobody says it."""

import threading
import time

import pytest

from raftsched.security import cluster_domain as subject
from raftsched.security.cluster_domain import cluster_domain, domain_of


@pytest.mark.parametrize(
    ("canonical", "domain"),
    [
        ("kubernetes.default.svc.cluster.local", "cluster.local"),
        ("kubernetes.default.svc.cluster.local.", "cluster.local"),
        (".kubernetes.default.svc.a.", "a"),
        ("kubernetes.default.svc", ""),
        ("kubernetes.default.svc.", ""),
        ("kubernetes.default.svcx.cluster.local", ""),
        ("elsewhere.example", ""),
        ("", ""),
    ],
)
def test_what_a_name_says(canonical: str, domain: str) -> None:
    assert domain_of(canonical) == domain


async def test_the_resolver_is_asked() -> None:
    asked = []

    def look_up(name: str) -> str:
        asked.append(name)
        return "kubernetes.default.svc.here."

    assert await cluster_domain("td", look_up) == "here"
    assert asked == ["kubernetes.default.svc"]


async def test_what_counts_when_there_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: str) -> str:
        raise OSError("no such name")

    assert await cluster_domain("td", fails) == "td"
    monkeypatch.setattr(subject, "WAIT_S", 0.1)
    done, began = threading.Event(), time.monotonic()
    assert await cluster_domain("td", lambda _: str(done.wait(10))) == "td"
    assert time.monotonic() - began < 5
    done.set()
