"""The etcd that this store behaves as (etcd-api, summary): digits and dots only, clients take the parts for integers."""

from typing import Final

SERVER_VERSION: Final = "3.7.1"


def storage_version(cluster_version: str) -> str:
    """What etcd calls the version of the database's layout: it follows the cluster's. "" before 3.6, or while it is undecided."""
    major, _, rest = cluster_version.partition(".")
    minor = rest.partition(".")[0]
    return cluster_version if major.isdecimal() and minor.isdecimal() and (int(major), int(minor)) >= (3, 6) else ""
