"""The scheduler's rows once more with everything switched on: clients and servers prove themselves by certificates (between members,
too), a third each of app's jobs, actor reminders and workflow reminders, and a concurrency limit on both actor types.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.load import schedload
from bench.load.jobs import Answer, Goals, one_server, three_servers
from bench.load.schedload import Load
from raftsched.testing.authority import Authority
from raftsched.testing.cluster import Cluster
from raftsched.testing.process import ServerProcess

GATE = 100_000  # of each actor type over all replicas: each trigger is counted, none held back, since that would measure the worker
ONE = Goals(rate=0.8, late=1.5, title="mTLS, three families, gates: ")
THREE = Goals(rate=0.8, late=1.5, title="three members, mTLS, three families, gates: ")


def server_words(authority: Authority, prefix: str) -> list[str]:
    """Flags for a certificate and the authority whose certificates others must show."""
    files = {"cert": "server.crt", "key": "server.key", "trusted-ca": "ca.crt"}
    return [f"--{prefix}-{kind}-file={authority.path(name)}" for kind, name in files.items()]


def load_of(authority: Authority, addresses: Sequence[str]) -> Load:
    files = ("-ca", authority.path("ca.crt"), "-cert", authority.path("client.crt"), "-key", authority.path("client.key"))
    return Load(addresses, (*files, "-mixed", "-gate", str(GATE)))


def rows(folder: Path, quick: bool) -> Iterable[Answer]:
    if not schedload.available():
        yield "scheduler under load over mTLS", "", "missing: go (bench/schedload)", None
        return
    scale = 10 if quick else 1
    authority = Authority(folder / "authority")
    authority.issue("server")
    authority.issue("client")
    guarded = server_words(authority, "scheduler")
    with ServerProcess(folder / "jobs", args=guarded) as server:
        yield from one_server(server, load_of(authority, [server.scheduler_address]), scale, ONE)
    peers = [*server_words(authority, "peer"), "--peer-client-cert-auth"]
    with Cluster(folder / "three", args=[*guarded, *peers], scheme="https") as cluster:
        yield from three_servers(load_of(authority, [one.scheduler_address for one in cluster.members]), scale, THREE)
