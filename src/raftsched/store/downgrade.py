"""A downgrade of the cluster by one minor version, as etcd has it: what may be asked for.

While one is enabled the cluster is of the target version, and so are its snapshots: members of that version may take part.
Must not know: how versions are agreed on, who asks, what is kept about it (`membership`).
"""

import re
from typing import Final

from raftsched.errors import EtcdError

_INT64_MAX: Final = (1 << 63) - 1
_IDENTIFIER: Final = r"[\w.-]*"
_VERSION: Final = re.compile(rf"(\d+)\.(\d+)(?:\.(\d+)(?:-{_IDENTIFIER})?(?:\+{_IDENTIFIER})?)?", re.ASCII)


def parse_target(text: str) -> str:
    """`MAJOR.MINOR.0` of a semantic version whose patch may be missing; "" = it is none."""
    found = _VERSION.fullmatch(text)
    if found is None or any(len(one) > 19 or int(one) > _INT64_MAX for one in found.groups() if one):
        return ""
    return f"{int(found[1])}.{int(found[2])}.0"


def check_target(target: str, cluster_version: str, enabled_target: str) -> EtcdError:
    """Whether a downgrade to `target` (of `parse_target`) may be enabled now; etcd's order of checks."""
    major, minor = map(int, cluster_version.split(".")[:2])
    if target != f"{major}.{minor - 1}.0":
        return EtcdError.INVALID_DOWNGRADE_TARGET
    return EtcdError.DOWNGRADE_IN_PROGRESS if enabled_target else EtcdError.OK
