"""Versions of members and of their cluster, as etcd has them: the cluster's is at most the lowest of its members', and never falls.

Must not know: how versions travel.
"""

from raftsched.errors import FatalError
from raftsched.store.kinds import FIRST, version_key

__all__ = ["FIRST", "check_version", "cluster_version", "version_key"]


def cluster_version(version: tuple[int, int, int]) -> str:
    """As etcd writes it: major and minor, the patch is 0."""
    return f"{version[0]}.{version[1]}.0"


def check_version(own: str, cluster: str) -> None:
    """FatalError if a member of version `own` is older than its cluster ("" = not known): it may not know what the log says."""
    if cluster and version_key(own) < version_key(cluster):
        raise FatalError(
            f"this member is of version {own}, its cluster is of version {cluster} already: "
            f"a member older than its cluster cannot take part. Nothing was changed; start {cluster.removesuffix('.0')} or later"
        )
