"""`raftsched member …`: show and change the members of the cluster through the etcd API.

Exit codes: 0 done, 1 failed, 2 usage, 3 no such member.
"""

import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import grpc
import typer

from raftsched.cli import kube, render
from raftsched.cli.channel import PLAIN, Tls, open_channel
from raftsched.cli.login import User, logged_in
from raftsched.cli.options import Output
from raftsched.cli.render import plain
from raftsched.cli.tls import CaCert, Cert, Key, SkipVerify
from raftsched.errors import ConfigError
from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc

app = typer.Typer(help="Show and change the members of the cluster.", no_args_is_help=True, rich_markup_mode="rich")

Address = Annotated[str, typer.Option("--address", "-a", envvar="RAFTSCHED_ETCD_ADDRESS", help="host:port of a member's etcd API.")]
As = Annotated[Output, typer.Option("--output", "-o", help="table for people, json for scripts.")]
Json = Annotated[bool, typer.Option("--json", help="Short for --output json.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0.001, help="Seconds to wait for an answer.")]
Who = Annotated[str, typer.Argument(help="Id (hexadecimal, as in `list`) or name of the member.", show_default=False, metavar="MEMBER")]
Urls = Annotated[list[str], typer.Argument(help="Peer URLs: http(s)://host:port.", show_default=False, metavar="URL...")]

ADDRESS: Final = "localhost:2379"
TIMEOUT_S: Final = 30.0
RETRY_S: Final = 0.5
NOT_FOUND: Final = 3
LEAVING: Final = (("raftsched-leave", "true"),)
"""Tells the member's own server that nobody else wants it gone: it may come back later, as a new member on the same volume."""
Answer = TypeVar("Answer")


_user: ContextVar[str] = ContextVar("user", default="")
_tls: ContextVar[Tls] = ContextVar("tls", default=PLAIN)


@app.callback()
def as_user(user: User = "", cacert: CaCert = None, cert: Cert = None, key: Key = None, *, skip_verify: SkipVerify = False) -> None:
    """Show and change the members of the cluster."""
    _user.set(user)
    _tls.set(Tls(cacert, cert, key, skip_verify))


@contextmanager
def cluster(address: str) -> Iterator[rpc_pb2_grpc.ClusterStub]:
    """A stub on a channel of its own."""
    try:
        opened = open_channel(address, _tls.get())
    except ConfigError as error:
        raise _failed(str(error)) from None
    with opened as channel:
        try:
            yield rpc_pb2_grpc.ClusterStub(logged_in(channel, _user.get()))
        except grpc.RpcError as error:
            if isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise _failed(f"this is not the etcd port of a member that can do this: {error.details()}") from None
            raise


def _failed(text: str, code: int = 1) -> typer.Exit:
    print(f"Error: {plain(text)}", file=sys.stderr)
    return typer.Exit(code)


# -- commands


@app.command("list")
def list_(*, address: Address = ADDRESS, output: As = Output.TABLE, json: Json = False, timeout: Timeout = TIMEOUT_S) -> None:
    """List the members."""
    with cluster(address) as stub:
        members = _list(stub, timeout)
    _show(members, _form(output, json=json))


@app.command("add")
def add(
    urls: Urls,
    *,
    learner: Annotated[bool, typer.Option("--learner", help="It receives everything and has no vote until it is promoted.")] = False,
    address: Address = ADDRESS,
    output: As = Output.TABLE,
    json: Json = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Add a member that will listen at these URLs. A member that is started with its list joins by itself; this is for doing it by hand."""
    with cluster(address) as stub:
        answer = stub.MemberAdd(rpc_pb2.MemberAddRequest(peerURLs=urls, isLearner=learner), timeout=timeout)
    _done(f"added {answer.member.ID:x}", "added", answer.member, answer.members, _form(output, json=json))


@app.command("remove")
def remove(who: Who, *, address: Address = ADDRESS, output: As = Output.TABLE, json: Json = False, timeout: Timeout = TIMEOUT_S) -> None:
    """Remove a member for good; exit code 3 when there is none. Its id and its data are of no use afterwards."""
    with cluster(address) as stub:
        member = _find(stub, who, timeout)
        answer = stub.MemberRemove(rpc_pb2.MemberRemoveRequest(ID=member.ID), timeout=timeout)
    _done(f"removed {member.ID:x}", "removed", member, answer.members, _form(output, json=json))


@app.command("promote")
def promote(who: Who, *, address: Address = ADDRESS, output: As = Output.TABLE, json: Json = False, timeout: Timeout = TIMEOUT_S) -> None:
    """Give a learner that has caught up its vote."""
    with cluster(address) as stub:
        member = _find(stub, who, timeout)
        answer = stub.MemberPromote(rpc_pb2.MemberPromoteRequest(ID=member.ID), timeout=timeout)
    _done(f"promoted {member.ID:x}", "promoted", member, answer.members, _form(output, json=json))


@app.command("update")
def update(
    who: Who, urls: Urls, *, address: Address = ADDRESS, output: As = Output.TABLE, json: Json = False, timeout: Timeout = TIMEOUT_S
) -> None:
    """Tell the cluster a member's new peer URLs."""
    with cluster(address) as stub:
        member = _find(stub, who, timeout)
        answer = stub.MemberUpdate(rpc_pb2.MemberUpdateRequest(ID=member.ID, peerURLs=urls), timeout=timeout)
    _done(f"updated {member.ID:x}", "updated", member, answer.members, _form(output, json=json))


@app.command("leave")
def leave(
    *,
    if_scaled_down: Annotated[
        bool, typer.Option("--if-scaled-down", help="Only if the StatefulSet is to have no pod of this ordinal; for a preStop hook.")
    ] = False,
    name: Annotated[
        str | None, typer.Option("--id", envvar="RAFTSCHED_ID", help="Name of the member that leaves (default: the host's name).")
    ] = None,
    service_account: Annotated[
        Path, typer.Option("--service-account-dir", help="Where Kubernetes puts the token of the pod.", hidden=True)
    ] = Path(kube.SERVICE_ACCOUNT),
    address: Address = ADDRESS,
    output: As = Output.TABLE,
    json: Json = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Remove the member of this host from the cluster; to be asked of this very member.

    Started again later on the same data directory, it sets its old data aside and joins as a new, empty member.
    With --if-scaled-down nothing is removed, and the exit code is 0, if the pod comes back, the StatefulSet is scaled to zero, or
    that cannot be found out.
    """
    own, form, stop_s = name or socket.gethostname(), _form(output, json=json), time.monotonic() + timeout
    if if_scaled_down and (reason := _reason_to_stay(own, service_account, timeout)):
        _stays(reason, form)
        return
    with cluster(address) as stub:
        member = next((one for one in _patiently(lambda left_s: _list(stub, left_s, LEAVING), stop_s) if one.name == own), None)
        if member is None:
            _stays(f"{own} is no member", form)
            return
        left = _patiently(lambda left_s: _remove(stub, member.ID, left_s), stop_s)
    _done(f"removed {member.ID:x}", "removed", member, left, form)


def _reason_to_stay(own: str, service_account: Path, timeout_s: float) -> str:
    """Why this member is not to be removed; "" = it is scaled away."""
    try:
        stateful_set, ordinal = kube.split_pod_name(own)
        scale = kube.read_scale(stateful_set, service_account=service_account, timeout_s=timeout_s)
    except kube.UnreadableError as error:
        return str(error)
    if scale.replicas == 0:
        return f"StatefulSet {stateful_set} is scaled to zero, which keeps its members"
    if scale.has(ordinal):
        return f"StatefulSet {stateful_set} is to have {scale.replicas} replicas, ordinal {ordinal} among them"
    return ""


def _stays(reason: str, form: Output) -> None:
    if form is Output.JSON:
        render.print_json_line({"removed": None, "reason": reason})
    else:
        print(f"nothing removed: {plain(reason)}")


def _patiently(call: Callable[[float], Answer], stop_s: float) -> Answer:
    """Again while the cluster cannot: it has no leader for a moment, or another member has just left. Raises grpc.RpcError."""
    while True:
        left_s = max(stop_s - time.monotonic(), 0.001)
        try:
            return call(left_s)
        except grpc.RpcError as error:
            retry = isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.UNAVAILABLE
            if not retry or time.monotonic() + RETRY_S >= stop_s:
                raise
        time.sleep(RETRY_S)


# -- members


def _list(
    stub: rpc_pb2_grpc.ClusterStub, timeout_s: float, metadata: tuple[tuple[str, str], ...] | None = None
) -> Sequence[rpc_pb2.Member]:
    return stub.MemberList(rpc_pb2.MemberListRequest(linearizable=True), timeout=timeout_s, metadata=metadata).members


def _remove(stub: rpc_pb2_grpc.ClusterStub, member_id: int, timeout_s: float) -> Sequence[rpc_pb2.Member]:
    """The members that are left. One that is gone already is no error: an earlier try's answer may have been lost."""
    try:
        return stub.MemberRemove(rpc_pb2.MemberRemoveRequest(ID=member_id), timeout=timeout_s, metadata=LEAVING).members
    except grpc.RpcError as error:
        if not isinstance(error, grpc.Call) or error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        return _list(stub, timeout_s, LEAVING)


def _find(stub: rpc_pb2_grpc.ClusterStub, who: str, timeout_s: float) -> rpc_pb2.Member:
    """By id, else by name. Ends with code 3 if there is none, 2 if several have the name."""
    members = _list(stub, timeout_s)
    try:
        number = int(who, 16)
    except ValueError:
        number = 0
    found = [one for one in members if number == one.ID] or [one for one in members if one.name and one.name == who]
    if not found:
        raise _failed(f"no member {who}", NOT_FOUND)
    if len(found) > 1:
        raise _failed(f"several members are named {who}: {', '.join(f'{one.ID:x}' for one in found)}; give the id", 2)
    return found[0]


def _form(output: Output, *, json: bool) -> Output:
    return Output.JSON if json else output


def member_as_dict(member: rpc_pb2.Member) -> dict[str, Any]:
    """The id as hexadecimal text: as a number it is beyond what many readers of JSON take."""
    return {
        "id": f"{member.ID:x}",
        "name": member.name,
        "status": "started" if member.name else "unstarted",
        "peer_urls": list(member.peerURLs),
        "client_urls": list(member.clientURLs),
        "learner": member.isLearner,
    }


def _show(members: Sequence[rpc_pb2.Member], form: Output) -> None:
    shown = [member_as_dict(one) for one in members]
    if form is Output.JSON:
        render.print_json(shown)
        return
    rows: list[tuple[str, ...]] = [("ID", "STATUS", "NAME", "PEER URLS", "CLIENT URLS", "ROLE")]
    for one in shown:
        urls = [plain(",".join(one[which])) for which in ("peer_urls", "client_urls")]
        rows.append((one["id"], one["status"], plain(one["name"]), *urls, "learner" if one["learner"] else "voter"))
    render.print_rows(rows, cut=False)


def _done(text: str, key: str, member: rpc_pb2.Member, members: Sequence[rpc_pb2.Member], form: Output) -> None:
    if form is Output.JSON:
        render.print_json({key: member_as_dict(member), "members": [member_as_dict(one) for one in members]})
    else:
        print(text)
        _show(members, form)
