"""What `raftsched etcd` is told: etcd's flags, its environment and its configuration file, read by etcd's rules into one frozen record."""

from raftsched.config.etcd.options import EtcdConfig
from raftsched.config.etcd.sources import load

__all__ = ["EtcdConfig", "load"]
