"""`raftsched serve` that takes itself for the next minor version: `python newer_member.py <arguments of raftsched>`."""

from raftsched import server, store_server
from raftsched.cli import main

if __name__ == "__main__":
    major, minor, _ = server.ETCD_VERSION
    server.ETCD_VERSION = store_server.ETCD_VERSION = (major, minor + 1, 0)  # type: ignore[misc]
    raise SystemExit(main())
