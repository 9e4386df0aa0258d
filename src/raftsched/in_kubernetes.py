"""Kubernetes mode of `raftsched serve`: what must be so there, and the namespace controller.

Must not know: where jobs are.
"""

import os
import random
from typing import TYPE_CHECKING

from raftsched.errors import FatalError

if TYPE_CHECKING:
    from raftsched.config import ServeConfig
    from raftsched.kube.controller import NamespaceController, Remove
    from raftsched.log import Logs


def kubernetes(config: "ServeConfig", logs: "Logs", remove: "Remove") -> "NamespaceController | None":
    """None outside of kubernetes mode. FatalError: run as root. ConfigError: nothing says where the Kubernetes API is."""
    if config.kube is None:
        return None
    if os.geteuid() == 0 and not config.root_allowed:
        text = "must not run as root in kubernetes mode: set runAsNonRoot, or DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK=true"
        raise FatalError(text)
    from raftsched.config.kube import read_access
    from raftsched.kube.api import KubeApi
    from raftsched.kube.controller import NamespaceController
    from raftsched.store.transport.resolving import SystemResolver

    api = KubeApi(read_access(config.kube), SystemResolver())
    return NamespaceController(api, remove, logs.service("dapr.scheduler.controller"), random.SystemRandom().random)
