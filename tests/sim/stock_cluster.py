"""Stock pysyncobj objects on one thread: a virtual clock, links that keep their order, messages delivered by hand.

For tests/sim/test_stock_scenarios.py alone, in a process of its own: it replaces pysyncobj's clock.
"""

import collections
import logging
import pickle

import pysyncobj.syncobj
from pysyncobj import SyncObj, SyncObjConf, replicated
from pysyncobj.node import Node
from pysyncobj.transport import Transport

logging.getLogger().setLevel(logging.CRITICAL)
NOW = [1000.0]
pysyncobj.syncobj.monotonicTime = lambda: NOW[0]
Link = tuple[str, str]


class Net:
    def __init__(self) -> None:
        self.links: dict[Link, collections.deque] = collections.defaultdict(collections.deque)
        self.nodes: dict[str, Stock] = {}
        self.cut: set[Link] = set()

    def send(self, source: str, target: str, message: object) -> bool:
        if (source, target) in self.cut:
            return False
        self.links[source, target].append(pickle.dumps(message))
        return True

    def deliver_one(self, source: str, target: str):
        if self.links[source, target] and target in self.nodes:
            message = pickle.loads(self.links[source, target].popleft())
            self.nodes[target].port._onMessageReceived(Node(source), message)
            return message
        return None

    def deliver_all(self, only: set[Link] | None = None) -> None:
        moved = True
        while moved:
            moved = False
            for source, target in list(self.links):
                if (source, target) in self.cut or (only and (source, target) not in only):
                    continue
                if target not in self.nodes:
                    self.links[source, target].clear()
                while self.links[source, target]:
                    self.deliver_one(source, target)
                    moved = True

    def isolate(self, *names: str) -> None:
        """Cuts every link between `names` and the rest, and drops what is under way there."""
        for source in self.nodes:
            for target in self.nodes:
                if (source in names) != (target in names):
                    self.cut.add((source, target))
                    self.links[source, target].clear()

    def crash(self, *names: str) -> None:
        for name in names:
            self.nodes.pop(name)
            for link in list(self.links):
                if name in link:
                    self.links[link].clear()


class Port(Transport):
    def __init__(self, stock: "Stock", self_node: Node, others: list[Node]) -> None:
        super().__init__(stock, self_node, others)
        self.name, self.net = self_node.id, stock.net
        stock.port = self

    def send(self, node: Node, message: object) -> bool:
        return self.net.send(self.name, node.id, message)

    def addNode(self, node: Node) -> None:
        self._onNodeConnected(node)

    def dropNode(self, node: Node) -> None:
        self._onNodeDisconnected(node)


class Stock(SyncObj):
    """A replicated list."""

    def __init__(self, net: Net, name: str, others: list[str], **settings) -> None:
        object.__setattr__(self, "net", net)
        defaults = {"autoTick": False, "dynamicMembershipChange": True, "logCompactionMinEntries": 10**9, "logCompactionMinTime": 10**9}
        conf = SyncObjConf(**(defaults | settings))
        super().__init__(Node(name), [Node(one) for one in others], conf=conf, nodeClass=Node, transportClass=Port)
        for one in others:
            self.port._onNodeConnected(Node(one))
        net.nodes[name] = self
        self.state = []  # after the constructor: it goes into dumps

    @replicated
    def append(self, item) -> int:
        self.state.append(item)
        return len(self.state)

    @replicated
    def boom(self) -> None:
        self.state.append("boom")
        raise ValueError

    @property
    def log(self) -> list:
        return list(self._SyncObj__raftLog[:])

    @property
    def last(self) -> int:
        return self.log[-1][1]

    def elect(self) -> None:
        self._SyncObj__raftElectionDeadline = 0
        self.doTick(0)

    def hold(self) -> None:
        """It does not campaign."""
        self._SyncObj__raftElectionDeadline = NOW[0] + 1e9


def run(net: Net, steps: int = 5, dt_s: float = 0.11, *, hold: bool = True) -> None:
    for _ in range(steps):
        NOW[0] += dt_s
        for node in list(net.nodes.values()):
            if hold:
                node.hold()
            node.doTick(0)
        net.deliver_all()


def cluster(names: str = "ABC", **settings) -> tuple[Net, list[Stock]]:
    """The first of them leads."""
    net = Net()
    nodes = [Stock(net, name, [one for one in names if one != name], **settings) for name in names]
    for node in nodes:
        node.hold()
    nodes[0].elect()
    net.deliver_all()
    run(net, 3)
    assert nodes[0]._isLeader()
    return net, nodes


def submit(node: Stock, items) -> list[tuple[object, object]]:
    """(item, reason) as the callbacks come."""
    answers: list[tuple[object, object]] = []
    for item in items:
        node.append(item, callback=lambda _result, reason, item=item: answers.append((item, reason)))
    return answers
