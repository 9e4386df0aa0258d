"""Gate 2 of the scheduler API (spec §3.2): codes and texts, with and without identities."""

import pytest

from raftsched.errors import GrpcCode, StatusError
from raftsched.rpc.scheduler.access import Access
from raftsched.rpc.scheduler.stats import SchedulerStats
from raftsched.scheduler.jobs.names import TARGET_JOB, TARGET_NONE

APP = {"subjectAltName": (("URI", "spiffe://any.domain/ns/default/app"),)}
MISSING = (GrpcCode.INVALID_ARGUMENT, "missing namespace or appID in request")
NOBODY = (GrpcCode.UNAUTHENTICATED, "failed to get identity from context")
ANOTHER = (GrpcCode.PERMISSION_DENIED, "identity does not match request")


def uri(text: str) -> dict[str, object]:
    return {"subjectAltName": (("URI", text),)}


def access(*, tls: bool = True) -> tuple[Access, SchedulerStats]:
    stats = SchedulerStats(dict)
    return Access(stats, tls=tls), stats


@pytest.mark.parametrize(
    ("namespace", "app_id", "certificate", "expected"),
    [
        ("", "app", APP, MISSING),
        ("default", "", APP, MISSING),
        ("", "", None, MISSING),
        ("default", "app", None, NOBODY),
        ("default", "app", {}, NOBODY),
        ("default", "app", {"subjectAltName": (("DNS", "app"),)}, NOBODY),
        ("default", "app", uri("spiffe://td/default/app"), NOBODY),
        ("default", "app", {"subjectAltName": (*APP["subjectAltName"], ("URI", "spiffe://td/ns/default/other"))}, NOBODY),
        ("default", "other", APP, ANOTHER),
        ("other", "app", APP, ANOTHER),
        ("app", "default", APP, ANOTHER),
        ("default", "App", APP, ANOTHER),
        ("default", "dapr-scheduler", APP, ANOTHER),
    ],
)
def test_who_is_refused(namespace: str, app_id: str, certificate: dict[str, object] | None, expected: tuple[GrpcCode, str]) -> None:
    gate, stats = access()
    with pytest.raises(StatusError) as caught:
        gate.authorise(namespace, app_id, certificate)
    assert (caught.value.code, caught.value.message) == expected
    assert stats.sidecar_errors["auth_failed"] == 1


def test_who_comes_in() -> None:
    gate, stats = access()
    gate.authorise("default", "app", APP)
    gate.authorise("default", "app", uri("spiffe://another.domain/ns/default/app"))  # the trust domain is not compared
    assert stats.sidecar_errors["auth_failed"] == 0


def test_without_identities_a_name_is_enough() -> None:
    gate, _ = access(tls=False)
    gate.authorise("default", "app", None)
    with pytest.raises(StatusError, match="missing namespace or appID in request"):
        gate.authorise("default", "", None)


def test_no_metadata_at_all_is_a_missing_name() -> None:
    gate, stats = access()
    with pytest.raises(StatusError) as caught:
        gate.owner(None, APP)
    assert (caught.value.code, caught.value.message) == MISSING
    assert stats.sidecar_errors["auth_failed"] == 1


def test_the_target_is_looked_at_behind_the_identity() -> None:
    gate, _ = access()
    with pytest.raises(StatusError, match="identity does not match request"):
        gate.owner(("other", "default", TARGET_NONE, "", "", None), APP)
    with pytest.raises(StatusError, match="unknown job type: <nil>"):
        gate.owner(("app", "default", TARGET_NONE, "", "", None), APP)
    assert gate.owner(("app", "default", TARGET_JOB, "", "", None), APP).app_id == "app"
