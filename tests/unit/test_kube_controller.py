"""The namespace controller against an API server that speaks HTTP over TLS: what it asks, what it has removed, what it says."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from raftsched.config.kube import KubeAccess, KubeSource, read_access
from raftsched.errors import GrpcCode, StatusError
from raftsched.kube import api as api_module
from raftsched.kube import controller as controller_module
from raftsched.kube import namespaces
from raftsched.kube.api import KubeApi, KubeError
from raftsched.kube.controller import NamespaceController
from raftsched.store.transport.resolving import SystemResolver
from raftsched.testing.kube_api import NAMESPACES, FakeKubeApi
from raftsched.testing.peers import LogLines, until


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeKubeApi]:
    with FakeKubeApi(tmp_path) as made:
        yield made


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "RETRY_S_MIN", 0.02)
    monkeypatch.setattr(namespaces, "RETRY_S_MAX", 0.2)


def in_pod(fake: FakeKubeApi) -> KubeAccess:
    return read_access(KubeSource(None, "127.0.0.1", str(fake.port)), str(fake.folder))


async def watched(asking: KubeApi) -> None:
    """Nothing but its beginning."""
    async for event in asking.watch("100", 1.0):
        assert event.kind == ""


class Removing:
    """Where jobs are; `failures` of the next removals."""

    def __init__(self) -> None:
        self.removed: list[str] = []
        self.failures = 0

    async def __call__(self, namespace: str) -> None:
        if self.failures:
            self.failures -= 1
            raise StatusError(GrpcCode.UNAVAILABLE, "the server is being started")
        self.removed.append(namespace)


class Run:
    def __init__(self, access: KubeAccess) -> None:
        self.removing, self.log = Removing(), LogLines()
        self.controller = NamespaceController(KubeApi(access, SystemResolver()), self.removing, self.log, lambda: 0.0)

    def errors(self) -> list[str]:
        return [text for level, text, _ in self.log.lines if level == "error"]


@asynccontextmanager
async def running(fake: FakeKubeApi, access: KubeAccess | None = None) -> AsyncIterator[Run]:
    made = Run(access or in_pod(fake))
    made.controller.start()
    try:
        yield made
    finally:
        await made.controller.close()


async def test_a_deleted_namespace_is_cleared_and_no_other(fake: FakeKubeApi) -> None:
    async with running(fake) as run:
        await until(lambda: run.controller.synced and fake.watching, 10)
        fake.create("team")
        fake.create("team-2")
        fake.delete("team")
        await until(lambda: run.removing.removed, 10)
        assert run.removing.removed == ["team"]
        texts = [text for _, text, _ in run.log.lines]
        assert texts == ["Following 2 namespaces", "Deleting jobs from deleted namespace team"]
        assert fake.asked(f"{NAMESPACES}/team") == 1


async def test_one_that_is_there_again_is_spared(fake: FakeKubeApi) -> None:
    async with running(fake) as run:
        await until(lambda: fake.watching, 10)
        fake.behaviour.refuse_get = 503
        fake.delete("default")
        await until(run.errors, 10)
        fake.create("default")
        fake.behaviour.refuse_get = 0
        fake.create("other")
        fake.delete("other")
        await until(lambda: run.removing.removed, 10)
        await asyncio.sleep(0.3)
        assert run.removing.removed == ["other"]


async def test_a_404_of_somebody_in_between_removes_nothing(fake: FakeKubeApi) -> None:
    async with running(fake) as run:
        await until(lambda: fake.watching, 10)
        fake.behaviour.hide_not_found = True
        fake.delete("default")
        await until(run.errors, 10)
        assert "answers 404 (404 page not found)" in run.errors()[0]
        assert run.removing.removed == []
        fake.behaviour.hide_not_found = False
        await until(lambda: run.removing.removed == ["default"], 10)


async def test_a_removal_that_fails_is_tried_again_and_told_once(fake: FakeKubeApi) -> None:
    async with running(fake) as run:
        await until(lambda: fake.watching, 10)
        run.removing.failures = 4
        fake.delete("default")
        await until(lambda: run.removing.removed == ["default"], 10)
        assert run.errors() == ["Jobs of the deleted namespace default cannot be deleted yet: the server is being started"]


async def test_many_namespaces_come_in_pages(fake: FakeKubeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_module, "PAGE", 3)
    for number in range(8):
        fake.create(f"n{number}")
    fake.behaviour.expire_pages = 1
    async with running(fake) as run:
        await until(lambda: run.controller.synced, 10)
        assert ("info", "Following 10 namespaces", {}) in run.log.lines
        assert fake.asked("continue=") == 4, "one was too old: from the front, then three more"
        assert run.errors() == []


@pytest.mark.parametrize("how", ["in an event", "as an answer"])
async def test_a_version_that_is_too_old_is_listed_anew(fake: FakeKubeApi, how: str) -> None:
    async with running(fake) as run:
        await until(lambda: fake.watching, 10)
        fake.delete("default", silently=True)
        fake.behaviour.forgets, fake.behaviour.refuse_watch = how == "in an event", 410 * (how == "as an answer")
        fake.cut()
        await until(lambda: run.removing.removed == ["default"], 10)
        fake.behaviour.forgets, fake.behaviour.refuse_watch = False, 0
        await until(lambda: fake.watching, 10)
        assert run.errors() == []


@pytest.mark.parametrize("drop", [False, True])
async def test_a_watch_that_ends_goes_on_where_it_was(fake: FakeKubeApi, drop: bool) -> None:
    async with running(fake) as run:
        await until(lambda: fake.watching, 10)
        fake.create("a")
        await until(lambda: fake.asked("resourceVersion=100"), 10)
        await asyncio.sleep(0.05)
        fake.behaviour.drop = drop
        fake.cut()
        fake.delete("a")
        await until(lambda: fake.asked("resourceVersion=101") or fake.asked("resourceVersion=102"), 10)
        fake.behaviour.drop = False
        await until(lambda: run.removing.removed == ["a"], 10)
        assert fake.asked("limit=") == 1, "no second list"


async def test_bookmarks_move_the_version(fake: FakeKubeApi) -> None:
    fake.behaviour.bookmark_s = 0.02
    async with running(fake):
        await until(lambda: fake.watching, 10)
        fake.version = 500
        await asyncio.sleep(0.2)
        fake.cut()
        await until(lambda: fake.asked("resourceVersion=500"), 10)


async def test_events_that_come_byte_by_byte(fake: FakeKubeApi) -> None:
    fake.behaviour.dribble = True
    async with running(fake) as run:
        await until(lambda: fake.watching, 10)
        fake.create("tröpfchen")
        fake.delete("tröpfchen")
        fake.delete("default")
        await until(lambda: run.removing.removed == ["default"], 10)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (
            403,
            "(namespaces is forbidden: User cannot list resource): the service account needs a ClusterRole with the verbs get, ",
        ),
        (401, "the service account's token is not accepted"),
        (500, "answers 500"),
    ],
)
async def test_what_is_refused_is_one_line_and_tried_again(fake: FakeKubeApi, code: int, words: str) -> None:
    fake.behaviour.refusal = code
    async with running(fake) as run:
        await until(lambda: len(fake.seen) > 3, 10)
        assert not run.controller.synced
        [line] = run.errors()
        assert line.startswith(f"cannot list namespaces: the Kubernetes API at 127.0.0.1:{fake.port} answers {code} ")
        assert words in line
        assert "\n" not in line
        fake.behaviour.refusal = 0
        await until(lambda: run.controller.synced, 10)
        assert ("info", "The Kubernetes API answers again", {}) in run.log.lines


async def test_a_server_that_says_when_to_come_again(fake: FakeKubeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "RETRY_S_MAX", 30.0)
    fake.behaviour.refusal, fake.behaviour.retry_after = 429, "1"
    async with running(fake) as run:
        await until(run.errors, 10)
        fake.behaviour.refusal = 0
        await asyncio.sleep(0.4)
        assert len(fake.seen) == 1
        await until(lambda: run.controller.synced, 10)


async def test_a_token_that_changes(fake: FakeKubeApi) -> None:
    async with running(fake) as run:
        await until(lambda: fake.watching, 10)
        fake.set_token("second-token")
        fake.delete("default")
        await until(lambda: run.removing.removed == ["default"], 10)
        assert run.errors() == []


async def test_a_peer_that_has_vanished_is_noticed_by_the_kernel(fake: FakeKubeApi) -> None:
    asking = KubeApi(in_pod(fake), SystemResolver())
    _, writer = await asking._connect()
    options = [writer.get_extra_info("socket").getsockopt(level, option) for level, option, _ in api_module.KEEP_ALIVE]
    writer.transport.abort()
    assert options == [1, 30, 10, 3]


async def test_an_api_server_that_goes_and_comes_back(fake: FakeKubeApi) -> None:
    async with running(fake) as run:
        await until(lambda: fake.watching, 10)
        port = fake.port
        await asyncio.to_thread(fake.close)
        fake.delete("default")
        await until(lambda: any("Connect call failed" in line or "refused" in line for line in run.errors()), 10)
        fake.open(port)
        await until(lambda: run.removing.removed == ["default"], 10)


async def test_a_slow_api_server_is_waited_for_not_for_ever(fake: FakeKubeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.behaviour.delay_s = 0.3
    async with running(fake) as run:
        await until(lambda: run.controller.synced, 10)
        assert run.errors() == []
    monkeypatch.setattr(api_module, "ANSWER_S", 0.1)
    with pytest.raises(KubeError, match="no answer in time"):
        await KubeApi(in_pod(fake), SystemResolver()).page("")


async def test_a_silent_watch_is_given_up(fake: FakeKubeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_module, "SILENCE_S", -0.9)
    with pytest.raises(KubeError, match=r"cannot watch namespaces: .*: no answer in time"):
        await watched(KubeApi(in_pod(fake), SystemResolver()))


@pytest.mark.parametrize(
    "data", [b"{}", b"[]", b"null", b"<html>", b'{"items": [{}], "metadata": {}}', b'{"items": [], "metadata": {}}', b"[" * 9999]
)
async def test_an_answer_of_something_else(fake: FakeKubeApi, data: bytes) -> None:
    """Nothing of it is taken for a list without namespaces."""
    fake.behaviour.garbage = data + b"\n"
    asking = KubeApi(in_pod(fake), SystemResolver())
    with pytest.raises(KubeError, match="cannot list namespaces: "):
        await asking.page("")
    with pytest.raises(KubeError, match="cannot watch namespaces: "):
        await watched(asking)


async def test_an_answer_that_is_cut_off_or_too_large(fake: FakeKubeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    asking = KubeApi(in_pod(fake), SystemResolver())
    fake.behaviour.drop = True
    with pytest.raises(KubeError, match="closed in the midst of the answer"):
        await asking.page("")
    fake.behaviour.drop = False
    monkeypatch.setattr(api_module, "KUBE_ANSWER_BYTES_MAX", 10)
    with pytest.raises(KubeError, match="too large"):
        await asking.page("")


async def test_only_the_server_that_was_meant_is_told_the_token(fake: FakeKubeApi, tmp_path: Path) -> None:
    other = FakeKubeApi(tmp_path / "other")
    with pytest.raises(KubeError, match=r"unable to get local issuer certificate|self-signed certificate"):
        await KubeApi(replace(in_pod(fake), ca_file=str(other.folder / "ca.crt")), SystemResolver()).page("")
    with pytest.raises(KubeError, match=r"IP address mismatch|Hostname mismatch"):
        await KubeApi(replace(in_pod(fake), server_name="elsewhere"), SystemResolver()).page("")
    assert fake.seen == []


async def test_files_that_are_not_there_are_named(fake: FakeKubeApi) -> None:
    for gone in ("ca_file", "token_file"):
        with pytest.raises(KubeError, match="/nowhere: No such file or directory"):
            await KubeApi(replace(in_pod(fake), **{gone: "/nowhere"}), SystemResolver()).page("")
    with pytest.raises(KubeError, match="characters that no header takes"):
        await KubeApi(replace(in_pod(fake), token_file="", token="a\r\nb: c"), SystemResolver()).page("")


async def test_what_nobody_has_foreseen_is_told_and_goes_on(fake: FakeKubeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller_module, "AGAIN_S", 0.01)
    broken = Run(in_pod(fake))
    known, turns = broken.controller._namespaces, []

    def step(now: float) -> namespaces.List | namespaces.Watch:
        turns.append(now)
        return namespaces.List("") if len(turns) > 2 else 1 / 0  # type: ignore[return-value]

    monkeypatch.setattr(known, "step", step)
    broken.controller.start()
    await until(lambda: broken.controller.synced, 10)
    await broken.controller.close()
    assert broken.errors() == ["The namespace controller failed and begins again: ZeroDivisionError('division by zero')"]
