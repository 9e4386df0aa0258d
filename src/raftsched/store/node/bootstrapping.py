"""etcd's --initial-cluster-state: whether what an empty member finds is what it was told to expect.

`new`: it may begin a cluster, and it may be a founder of one that has begun without it. `existing`: it was added to a cluster, which must
be there. Texts are etcd's. Must not know: how it was found out.
"""

from raftsched.store.asks import Listed
from raftsched.store.forming import Decision, Form, Join, Wait
from raftsched.store.node.options import ClusterState
from raftsched.types import MemberInfo


def objection(state: ClusterState, own: Listed, decision: Decision, *, all_asked: bool) -> str:
    """Why the process must end with a line, or "". `all_asked`: each listed member has answered or was not reached."""
    if state == "any":
        return ""
    if isinstance(decision, Join):
        me = next((one for one in decision.members if set(one.peer_urls) == set(own.peer_urls)), None)
        return _of_new(me, decision) if state == "new" else _of_existing(me, own, decision)
    if state == "existing" and (isinstance(decision, Form) or (isinstance(decision, Wait) and all_asked)):
        return "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs"
    return ""


def _of_new(me: MemberInfo | None, decision: Join) -> str:
    """A founder that starts late is known to its cluster, and has no name there yet."""
    if me is not None and not me.name:
        return ""
    if me is not None:
        return f"member {me.member_id:x} has already been bootstrapped"
    return (
        f"the listed members are cluster {decision.cluster_id:x} already, without this member: add it (`etcdctl member add`) and start it "
        "with --initial-cluster-state=existing"
    )


def _of_existing(me: MemberInfo | None, own: Listed, decision: Join) -> str:
    if me is not None:
        return ""
    urls = ",".join(own.peer_urls)
    return f"error validating peerURLs: cluster {decision.cluster_id:x} has no member with the URLs {urls}: add it (`etcdctl member add`)"
