"""The store's public face: one member, driven by asyncio.

What rpc/etcd and the embedded bridge may use: `Node` (a `ports.StoreNode`) and `NodeOptions`.
"""

from raftsched.store.node.driver import Node
from raftsched.store.node.options import Clock, NodeOptions

__all__ = ["Clock", "Node", "NodeOptions"]
