"""Who is a member: ids, the table that MemberList shows, and its changes through the log.

Invariant: buckets `members`, `members_removed` and `cluster` hold what this table holds, in etcd's JSON.
Must not know: Raft's quorum (the kernel has its own configuration), sockets.
"""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

from raftsched.errors import CorruptError, EtcdError
from raftsched.limits import MEMBERS_MAX
from raftsched.store.codec import WireError, bytes_field, fields, numbers, text_field, varint_field
from raftsched.types import MemberInfo
from raftsched.varint import varint

# raftpb.ConfChangeType
ADD_NODE: Final = 0
REMOVE_NODE: Final = 1
UPDATE_NODE: Final = 2
ADD_LEARNER: Final = 3

_INCARNATION: Final = 1001  # a field of ClusterVersionSetRequest that is ours alone; etcd's readers pass over it
INCARNATION_KEY: Final = b"raftschedIncarnation"  # in bucket `cluster`
DOWNGRADE_KEY: Final = b"downgrade"  # in bucket `cluster`


def make_member_id(peer_urls: Iterable[str], cluster_token: str, added_at_s: int | None = None) -> int:
    """First 8 bytes of SHA1(sorted peer URLs, token[, Unix seconds if added to a running cluster]), etcd-api §1.4."""
    text = "".join(sorted(peer_urls)) + cluster_token + ("" if added_at_s is None else str(added_at_s))
    return int.from_bytes(hashlib.sha1(text.encode(), usedforsecurity=False).digest()[:8], "big")


def make_cluster_id(member_ids: Iterable[int]) -> int:
    """First 8 bytes of SHA1(sorted member ids, 8 bytes each)."""
    data = b"".join(one.to_bytes(8, "big") for one in sorted(member_ids))
    return int.from_bytes(hashlib.sha1(data, usedforsecurity=False).digest()[:8], "big")


def encode_json(member: MemberInfo) -> bytes:
    """A member as etcd keeps it in bucket `members` and in the context of a configuration change."""
    found: dict[str, Any] = {"id": member.member_id, "peerURLs": list(member.peer_urls)}
    if member.is_learner:
        found["isLearner"] = True
    if member.stays_learner:
        found["raftschedStaysLearner"] = True  # etcd's readers pass over it
    if member.name:
        found["name"] = member.name
    if member.client_urls:
        found["clientURLs"] = list(member.client_urls)
    return json.dumps(found, separators=(",", ":"), ensure_ascii=False).encode()


def decode_json(data: bytes) -> MemberInfo:
    """Raises WireError."""
    try:
        found = json.loads(data)
        return MemberInfo(
            member_id=int(found["id"]),
            name=str(found.get("name", "")),
            peer_urls=tuple(map(str, found.get("peerURLs") or ())),
            client_urls=tuple(map(str, found.get("clientURLs") or ())),
            is_learner=bool(found.get("isLearner", False)),
            stays_learner=bool(found.get("raftschedStaysLearner", False)),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise WireError(f"no member: {error}") from error


def encode_promotion(member: MemberInfo) -> bytes:
    """The context of the ADD_NODE that makes a voter of a learner."""
    found: dict[str, Any] = json.loads(encode_json(member)) | {"isPromote": True}
    return json.dumps(found, separators=(",", ":"), ensure_ascii=False).encode()


def _is_promotion(context: bytes) -> bool:
    try:
        found = json.loads(context)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("isPromote") is True


def encode_version(version: str, incarnation: int) -> bytes:
    """A membershippb.ClusterVersionSetRequest; `incarnation` was drawn by lot, the first that is applied stays for good."""
    return text_field(1, version) + varint_field(_INCARNATION, incarnation)


def encode_downgrade(target: str) -> bytes:
    """A membershippb.DowngradeInfoSetRequest; "" = none any more."""
    return varint_field(1, bool(target)) + text_field(2, target)


def _decode_downgrade(data: bytes) -> str:
    found: dict[int, int | bytes] = dict(fields(data))
    target = found.get(2, b"")
    if not isinstance(target, bytes):
        raise WireError("no downgrade")
    return target.decode(errors="replace") if found.get(1) else ""


def _downgrade_in(data: bytes | None) -> str:
    """The target that the bucket holds, "" = none. Raises ValueError."""
    found = json.loads(data or b"{}")
    if not isinstance(found, dict):
        raise WireError("no downgrade")
    return str(found.get("target-version", "")) if found.get("enabled") else ""


def encode_change(change: int, member_id: int, context: bytes = b"", change_id: int = 0) -> bytes:
    """A raftpb.ConfChange: proto2, whose numbers are always written."""
    out = b"".join(varint(number << 3) + varint(value) for number, value in ((1, change_id), (2, change), (3, member_id)))
    return out + (bytes_field(4, context) if context else b"")


def decode_change(data: bytes) -> tuple[int, int, bytes, int]:
    """(change, member id, context, change id). Raises WireError."""
    found: dict[int, int | bytes] = dict(fields(data))
    change, member_id, context, change_id = found.get(2, 0), found.get(3, 0), found.get(4, b""), found.get(1, 0)
    if not isinstance(change, int) or not isinstance(member_id, int) or not isinstance(context, bytes) or not isinstance(change_id, int):
        raise WireError("no configuration change")
    return change, member_id, context, change_id


def encode_attributes(member_id: int, name: str, client_urls: Sequence[str]) -> bytes:
    """A membershippb.ClusterMemberAttrSetRequest: what a member publishes about itself."""
    attributes = text_field(1, name) + b"".join(bytes_field(2, url.encode()) for url in client_urls)
    return varint_field(1, member_id) + bytes_field(2, attributes)


def bucket_key(member_id: int) -> bytes:
    return b"%x" % member_id


class Membership:
    """The members of the cluster as applied here."""

    def __init__(self, write: Callable[[tuple[str, bytes, bytes | None]], None]) -> None:
        self._write = write
        self._members: dict[int, MemberInfo] = {}
        self._removed: set[int] = set()
        self._departed: deque[str] = deque(maxlen=MEMBERS_MAX)
        self.cluster_version = ""
        self.downgrade_target = ""
        """The version that the cluster is being downgraded to; "" = it is not."""
        self.incarnation = 0
        """What tells this cluster from another that was begun with the same list; 0 = not known yet."""

    def load(
        self,
        members: Iterable[tuple[bytes, bytes]],
        removed: Iterable[tuple[bytes, bytes]],
        version: bytes | None,
        incarnation: bytes | None = None,
        downgrade: bytes | None = None,
    ) -> None:
        """From the buckets. Raises CorruptError."""
        self.incarnation = int.from_bytes(incarnation or b"", "big")
        try:
            for key, value in members:
                member = decode_json(value)
                if bucket_key(member.member_id) != key:
                    raise WireError(f"key {key!r} holds {member.member_id:x}")
                self._members[member.member_id] = member
            self._removed = {int(key, 16) for key, _ in removed}
            self.cluster_version = (version or b"").decode()
            self.downgrade_target = _downgrade_in(downgrade)
        except ValueError as error:  # WireError is one
            raise CorruptError(f"bucket members: {error}") from error

    def members(self) -> Sequence[MemberInfo]:
        """Sorted by id."""
        return [self._members[one] for one in sorted(self._members)]

    def member(self, member_id: int) -> MemberInfo | None:
        return self._members.get(member_id)

    def was_removed(self, member_id: int) -> bool:
        """A removed id never comes back."""
        return member_id in self._removed

    def removed_ids(self) -> Sequence[int]:
        """Sorted."""
        return sorted(self._removed)

    def take_departed(self) -> Sequence[str]:
        """Names of members whose removal was applied since the last call."""
        names, self._departed = self._departed, deque(maxlen=MEMBERS_MAX)
        return tuple(names)

    def _store(self, member: MemberInfo) -> None:
        self._members[member.member_id] = member
        self._write(("members", bucket_key(member.member_id), encode_json(member)))

    def check_change(self, data: bytes) -> EtcdError:
        """Why this change makes no sense here, OK if it does; etcd's rules in etcd's order. Raises WireError.

        The leader asks before it proposes, everybody asks again at apply: between the two nothing can have changed, because one change at a
        time is under way; what an older leader let through is refused alike by all. The bound on learners is no rule of the log: it
        is an option of a process.
        """
        change, member_id, context, _ = decode_change(data)
        known = self._members.get(member_id)
        if member_id in self._removed:
            return EtcdError.MEMBER_NOT_FOUND
        if change in (ADD_NODE, ADD_LEARNER):
            if change == ADD_NODE and _is_promotion(context):
                return _promotable(known)
            if known is not None:
                return EtcdError.MEMBER_EXISTS
        elif known is None:
            return EtcdError.MEMBER_NOT_FOUND
        if change == REMOVE_NODE or not context:
            return EtcdError.OK
        taken = {url for one in self._members.values() if one.member_id != member_id for url in one.peer_urls}
        return EtcdError.OK if taken.isdisjoint(decode_json(context).peer_urls) else EtcdError.PEER_URL_EXISTS

    def apply_change(self, data: bytes) -> EtcdError:
        """One committed configuration change; a refused one changes nothing. Raises WireError, alike on every member."""
        if error := self.check_change(data):
            return error
        change, member_id, context, _ = decode_change(data)
        known = self._members.get(member_id)
        if change == REMOVE_NODE:
            self._departed.append(self._members.pop(member_id).name)
            self._write(("members", bucket_key(member_id), None))
            self._removed.add(member_id)
            self._write(("members_removed", bucket_key(member_id), b"removed"))
        elif change == UPDATE_NODE:
            if known is not None and context:
                self._store(replace(known, peer_urls=decode_json(context).peer_urls))
        elif known is not None:
            self._store(replace(known, is_learner=False, stays_learner=False))  # keeps what it told about itself
        else:
            told = decode_json(context) if context else MemberInfo(member_id, "", (), ())
            learns = change == ADD_LEARNER
            self._store(replace(told, member_id=member_id, is_learner=learns, stays_learner=learns and told.stays_learner))
        return EtcdError.OK

    def apply_attributes(self, data: bytes) -> None:
        """One committed ClusterMemberAttrSetRequest. Raises WireError."""
        found: dict[int, int | bytes] = dict(fields(data))
        member_id, attributes = found.get(1, 0), found.get(2, b"")
        if not isinstance(member_id, int) or not isinstance(attributes, bytes):
            raise WireError("no attributes of a member")
        known = self._members.get(member_id)
        if known is None:
            return
        texts = [(number, value.decode(errors="replace")) for number, value in fields(attributes) if isinstance(value, bytes)]
        name = next((value for number, value in texts if number == 1), "")
        self._store(replace(known, name=name, client_urls=tuple(value for number, value in texts if number == 2)))

    def apply_version(self, data: bytes) -> None:
        """One committed ClusterVersionSetRequest. Raises WireError."""
        for number, value in fields(data):
            if number == 1 and isinstance(value, bytes):
                self.cluster_version = value.decode(errors="replace")
                self._write(("cluster", b"clusterVersion", value))
        incarnation = numbers(data).get(_INCARNATION, 0) & (1 << 64) - 1
        if incarnation and not self.incarnation:
            self.incarnation = incarnation
            self._write(("cluster", INCARNATION_KEY, incarnation.to_bytes(8, "big")))

    def apply_downgrade(self, data: bytes) -> None:
        """One committed DowngradeInfoSetRequest. Raises WireError."""
        target = self.downgrade_target = _decode_downgrade(data)
        value = json.dumps({"target-version": target, "enabled": bool(target)}, separators=(",", ":"))
        self._write(("cluster", DOWNGRADE_KEY, value.encode()))


def _promotable(known: MemberInfo | None) -> EtcdError:
    if known is None:
        return EtcdError.MEMBER_NOT_FOUND
    return EtcdError.OK if known.is_learner else EtcdError.MEMBER_NOT_LEARNER
