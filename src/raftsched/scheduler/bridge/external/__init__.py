"""An etcd that is not ours, over gRPC: the second implementation of `ports.KvClient` (docs/external-store.md)."""
