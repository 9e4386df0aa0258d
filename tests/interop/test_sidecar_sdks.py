"""Dapr's SDKs for Python and Go over real sidecars and raftsched: jobs over gRPC, actors that remind themselves, workflows.

Python's packages are fetched once, into .cache/clients; the program with Go's is scripts/go/daprsdk. Programs and stacks are those of
test_sidecars.py. With more than one replica the leader is killed in the midst of it.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import grpc
import pytest
from conftest import load_script, load_tools
from sidecar_stack import Daprd, Program, Stack, until
from test_sidecars import STACKS, programs

from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc
from raftsched.testing.process import free_ports

pytestmark = pytest.mark.skipif(os.environ.get("RAFTSCHED_SIDECARS") != "all", reason="starts real sidecars: `make interop`")
HERE = Path(__file__).parent / "sidecar_apps"
PROGRAM_TIMEOUT_S = 240.0
Command = Sequence[str]  # of a program: the port of its app comes behind it
WORKFLOWS = "||dapr.internal.default.workflow."  # in the keys of workflows and their activities


@pytest.fixture(scope="module")
def python() -> str:
    """An interpreter with the SDKs."""
    sdk = load_script("dapr_sdk")
    if reason := sdk.fetch():
        pytest.skip(reason)
    return str(sdk.PYTHON)


@pytest.fixture(scope="module", params=STACKS)
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    count, secure = STACKS[request.param]
    with Stack(tmp_path_factory.mktemp(request.param), programs(secure), count) as made:
        yield made


class SdkProgram(Program):
    """A program of ours with an SDK, beside its sidecar; it tells what it has done, a word a line."""

    def __init__(self, command: Command, daprd: Daprd, app_port: int) -> None:
        ports = {"DAPR_GRPC_PORT": str(daprd.grpc_port), "DAPR_HTTP_PORT": str(daprd.http_port), "DAPR_RUNTIME_HOST": "127.0.0.1"}
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | ports
        super().__init__("sdk", [*command, str(app_port)], daprd.log.parent, environment)

    def words(self) -> set[str]:
        return set(self.log.read_text().split())

    def finish(self) -> None:
        code = self.process.wait(PROGRAM_TIMEOUT_S)
        assert code == 0, self.log.read_text()[-6000:]


def run(stack: Stack, command: Command, app_id: str, protocol: str, *told: str, stored: str) -> None:
    """Has a program do all it knows, which keeps jobs with `stored` in their keys. At its word "fault" the leader of several replicas is
    killed, and started again."""
    (port,) = free_ports(1)
    sidecar = Daprd(stack, app_id, port if protocol else 0, protocol or "http", wait=False)
    with closing(sidecar), closing(SdkProgram(command, sidecar, port)) as program:
        until(lambda: bool(keys(stack, stored)), f"jobs of {stored} are stored")
        if "fault" in told and stack.cluster is not None:
            until(lambda: "fault" in program.words() or program.process.poll() is not None, "fault", PROGRAM_TIMEOUT_S)
            leader = stack.cluster.leader()
            leader.kill()
            leader.start()
        program.finish()
        assert program.words() >= set(told), program.log.read_text()


def keys(stack: Stack, part: str) -> list[str]:
    """The keys of stored jobs that have `part` in their names."""
    with grpc.insecure_channel(stack.servers[0].client_address) as channel:
        asked = rpc_pb2.RangeRequest(key=b"dapr/jobs/", range_end=b"dapr/jobs0", keys_only=True)
        return [one.key.decode() for one in rpc_pb2_grpc.KVStub(channel).Range(asked, timeout=20).kvs if part in one.key.decode()]


def of_python(python: str, name: str) -> Command:
    return [python, str(HERE / f"{name}_app.py")]


def test_jobs(stack: Stack, python: str) -> None:
    told = ("triggers", "repeats", "policies", "overwriting", "listing")
    run(stack, of_python(python, "jobs"), "jobs", "grpc", *told, stored="||jobs||")


def test_actors(stack: Stack, python: str) -> None:
    run(stack, of_python(python, "actors"), "actors", "http", "reminders", "fault", "many", "lists", stored="||Clock||")


def test_workflows(stack: Stack, python: str) -> None:
    told = ("timers", "retries", "events", "termination", "limits", "children", "continuations", "fault", "many", "purging")
    run(stack, of_python(python, "workflow"), "workflow", "", *told, stored=WORKFLOWS)
    until(lambda: not keys(stack, WORKFLOWS), "no key of a workflow is left")


def of_go(name: str) -> Command:
    program = load_tools().daprsdk()
    if program is None:
        pytest.skip("no Go program `daprsdk` here: `make interop` builds it")
    return [str(program), name]


def test_jobs_in_go(stack: Stack) -> None:
    run(stack, of_go("jobs"), "gojobs", "grpc", "triggers", "repeats", "policies", "overwriting", stored="||gojobs||")


@pytest.mark.parametrize(("name", "protocol"), [("actors", "http"), ("events", "")])
def test_actors_in_go(stack: Stack, name: str, protocol: str) -> None:
    """Hosted by an app that listens, and over a stream that the app opens."""
    run(stack, of_go(name), f"go{name}", protocol, "reminders", "fault", "many", stored="||Clock||")


def test_workflows_in_go(stack: Stack) -> None:
    """They are run again from an event, and call activities and workflows of another app."""
    told = ("timers", "reruns", "apps", "fault", "many", "purging")
    with ExitStack() as opened:
        other = opened.enter_context(closing(Daprd(stack, "gohelper", 0, wait=False)))
        helper = opened.enter_context(closing(SdkProgram(of_go("helper"), other, 0)))
        until(lambda: "helping" in helper.words(), "the other app works")
        run(stack, of_go("workflows"), "goflows", "", *told, stored="||dapr.internal.default.goflows.workflow||")
    until(lambda: not keys(stack, "||dapr.internal.default.go"), "no key of a workflow is left")
