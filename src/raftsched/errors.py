"""Every way in which raftsched says no: the codes, the exact texts, and the exceptions that carry them.

Three families, told apart by whose fault it is: the caller's (`StatusError` with InvalidArgument, NotFound, …), not now
(`StatusError` with Unavailable or ResourceExhausted: the caller may try again), and ours (`FatalError`: the process ends
with one line). The texts are part of the wire contract: clients recognise errors by message, byte for byte.
"""

from enum import IntEnum
from typing import Final


class GrpcCode(IntEnum):
    """The status codes of gRPC."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class StatusError(Exception):
    """An answer other than OK, as a gRPC code and the message that the client sees."""

    def __init__(self, code: GrpcCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class PeerCode(IntEnum):
    """Why a request to another member has no answer. Negative, so that the other member may answer with an `EtcdError`."""

    UNREACHABLE = -1  # nothing was sent
    TIMEOUT = -2  # outcome unknown
    LOST = -3  # the connection broke: outcome unknown
    BUSY = -4  # a bound is reached: nothing was done
    STOPPED = -5
    INTERNAL = -6  # the other member's handler failed
    REFUSED = -7  # the handshake failed
    TOO_LARGE = -8


class PeerError(Exception):
    """What came instead of another member's answer: a `PeerCode`, or the number of the `EtcdError` that it answered."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class ConfigError(Exception):
    """A flag, variable or file of the user's is wrong; the text is the one line to print, `exit_code` ends the process."""

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class FatalError(Exception):
    """Waiting cannot mend it: a failed log write or sync, a corrupt log or store, a foreign directory. One line, exit 1."""


class CorruptError(FatalError):
    """Bytes on disk are not what was written: the text names file, offset and reason."""


class NoSpaceError(Exception):
    """The file system is full where space was to be reserved: refuse writes, keep reading, try again later."""


class IncarnationOverError(Exception):
    """What the data directory holds was replaced (by an installed snapshot; by nothing, after this member had left): begin anew on it.

    The text says by what."""


class EtcdError(IntEnum):
    """Why the store refused. 0 is success; the native code returns these numbers, ETCD_STATUS gives code and text."""

    OK = 0
    KEY_NOT_PROVIDED = 1
    KEY_NOT_FOUND = 2
    VALUE_PROVIDED = 3
    LEASE_PROVIDED = 4
    TOO_MANY_OPS = 5
    DUPLICATE_KEY = 6
    INVALID_SORT_OPTION = 7
    INVALID_CLIENT_API_VERSION = 8
    REQUEST_TOO_LARGE = 9
    BAD_MEMBER_URLS = 10
    LEASE_NOT_FOUND = 11
    LEASE_EXISTS = 12
    LEASE_TTL_TOO_LARGE = 13
    MEMBER_NOT_FOUND = 14
    MEMBER_EXISTS = 15
    PEER_URL_EXISTS = 16
    NO_SPACE = 17
    TOO_MANY_REQUESTS = 18
    COMPACTED = 19
    FUTURE_REVISION = 20
    NO_LEADER = 21
    LEADER_CHANGED = 22
    STOPPED = 23
    TIMEOUT = 24
    TIMEOUT_LEADER_FAILURE = 25
    TIMEOUT_CONNECTION_LOST = 26
    TIMEOUT_WAIT_APPLIED = 27
    UNHEALTHY = 28
    CORRUPT = 29
    NOT_LEADER = 30
    BAD_LEADER_TRANSFEREE = 31
    NOT_CAPABLE = 32
    NOT_SUPPORTED_FOR_LEARNER = 33
    AUTH_NOT_ENABLED = 34
    PERMISSION_DENIED = 35
    INVALID_AUTH_TOKEN = 36
    USER_EMPTY = 37
    BAD_DOWNGRADE_VERSION = 38
    INVALID_DOWNGRADE_TARGET = 39
    NO_INFLIGHT_DOWNGRADE = 40
    MALFORMED = 41  # bytes that are no such message; never reaches apply
    NOT_ENOUGH_STARTED_MEMBERS = 42
    MEMBER_NOT_LEARNER = 43
    LEARNER_NOT_READY = 44
    TOO_MANY_LEARNERS = 45
    CLUSTER_ID_MISMATCH = 46
    TIMEOUT_LEADER_TRANSFER = 47
    DOWNGRADE_IN_PROGRESS = 80
    CLUSTER_VERSION_UNAVAILABLE = 81
    UNKNOWN_METHOD = 82
    ROOT_USER_NOT_EXIST = 100
    ROOT_ROLE_NOT_EXIST = 101
    USER_EXISTS = 102
    USER_NOT_FOUND = 103
    ROLE_EXISTS = 104
    ROLE_NOT_FOUND = 105
    ROLE_EMPTY = 106
    ROLE_NOT_GRANTED = 107
    PERMISSION_NOT_GIVEN = 108
    PERMISSION_NOT_GRANTED = 109
    INVALID_AUTH_MANAGEMENT = 110
    AUTH_FAILED = 111
    AUTH_OLD_REVISION = 112
    NO_PASSWORD_USER = 113
    VERIFY_ONLY = 114
    PASSWORD_TOO_LONG = 115


_P: Final = "etcdserver: "
NO_MESSAGE: Final = "proto: cannot parse invalid wire-format data"
"""Of bytes that are no protobuf message, as Go's library says it."""
NO_TEXT: Final = "string field contains invalid UTF-8"
STREAM_MALFORMED: Final = (int(GrpcCode.INTERNAL), "grpc: failed to unmarshal the received message: " + NO_MESSAGE)
"""What a stream ends with where a unary call is MALFORMED."""
ETCD_STATUS: Final[dict[EtcdError, tuple[GrpcCode, str]]] = {
    EtcdError.KEY_NOT_PROVIDED: (GrpcCode.INVALID_ARGUMENT, _P + "key is not provided"),
    EtcdError.KEY_NOT_FOUND: (GrpcCode.INVALID_ARGUMENT, _P + "key not found"),
    EtcdError.VALUE_PROVIDED: (GrpcCode.INVALID_ARGUMENT, _P + "value is provided"),
    EtcdError.LEASE_PROVIDED: (GrpcCode.INVALID_ARGUMENT, _P + "lease is provided"),
    EtcdError.TOO_MANY_OPS: (GrpcCode.INVALID_ARGUMENT, _P + "too many operations in txn request"),
    EtcdError.DUPLICATE_KEY: (GrpcCode.INVALID_ARGUMENT, _P + "duplicate key given in txn request"),
    EtcdError.INVALID_SORT_OPTION: (GrpcCode.INVALID_ARGUMENT, _P + "invalid sort option"),
    EtcdError.INVALID_CLIENT_API_VERSION: (GrpcCode.INVALID_ARGUMENT, _P + "invalid client api version"),
    EtcdError.REQUEST_TOO_LARGE: (GrpcCode.INVALID_ARGUMENT, _P + "request is too large"),
    EtcdError.BAD_MEMBER_URLS: (GrpcCode.INVALID_ARGUMENT, _P + "given member URLs are invalid"),
    EtcdError.LEASE_NOT_FOUND: (GrpcCode.NOT_FOUND, _P + "requested lease not found"),
    EtcdError.LEASE_EXISTS: (GrpcCode.FAILED_PRECONDITION, _P + "lease already exists"),
    EtcdError.LEASE_TTL_TOO_LARGE: (GrpcCode.OUT_OF_RANGE, _P + "too large lease TTL"),
    EtcdError.MEMBER_NOT_FOUND: (GrpcCode.NOT_FOUND, _P + "member not found"),
    EtcdError.MEMBER_EXISTS: (GrpcCode.FAILED_PRECONDITION, _P + "member ID already exist"),
    EtcdError.PEER_URL_EXISTS: (GrpcCode.FAILED_PRECONDITION, _P + "Peer URLs already exists"),
    EtcdError.NO_SPACE: (GrpcCode.RESOURCE_EXHAUSTED, _P + "mvcc: database space exceeded"),
    EtcdError.TOO_MANY_REQUESTS: (GrpcCode.UNKNOWN, _P + "too many requests"),
    EtcdError.COMPACTED: (GrpcCode.OUT_OF_RANGE, _P + "mvcc: required revision has been compacted"),
    EtcdError.FUTURE_REVISION: (GrpcCode.OUT_OF_RANGE, _P + "mvcc: required revision is a future revision"),
    EtcdError.NO_LEADER: (GrpcCode.UNAVAILABLE, _P + "no leader"),
    EtcdError.LEADER_CHANGED: (GrpcCode.UNAVAILABLE, _P + "leader changed"),
    EtcdError.STOPPED: (GrpcCode.UNAVAILABLE, _P + "server stopped"),
    EtcdError.TIMEOUT: (GrpcCode.UNAVAILABLE, _P + "request timed out"),
    EtcdError.TIMEOUT_LEADER_FAILURE: (GrpcCode.UNAVAILABLE, _P + "request timed out, possibly due to previous leader failure"),
    EtcdError.TIMEOUT_CONNECTION_LOST: (GrpcCode.UNAVAILABLE, _P + "request timed out, possibly due to connection lost"),
    EtcdError.TIMEOUT_WAIT_APPLIED: (GrpcCode.UNAVAILABLE, _P + "request timed out, waiting for the applied index took too long"),
    EtcdError.UNHEALTHY: (GrpcCode.UNAVAILABLE, _P + "unhealthy cluster"),
    EtcdError.CORRUPT: (GrpcCode.DATA_LOSS, _P + "corrupt cluster"),
    EtcdError.NOT_LEADER: (GrpcCode.FAILED_PRECONDITION, _P + "not leader"),
    EtcdError.BAD_LEADER_TRANSFEREE: (GrpcCode.FAILED_PRECONDITION, _P + "bad leader transferee"),
    EtcdError.NOT_CAPABLE: (GrpcCode.FAILED_PRECONDITION, _P + "not capable"),
    EtcdError.NOT_SUPPORTED_FOR_LEARNER: (GrpcCode.FAILED_PRECONDITION, _P + "rpc not supported for learner"),
    EtcdError.AUTH_NOT_ENABLED: (GrpcCode.FAILED_PRECONDITION, _P + "authentication is not enabled"),
    EtcdError.PERMISSION_DENIED: (GrpcCode.PERMISSION_DENIED, _P + "permission denied"),
    EtcdError.INVALID_AUTH_TOKEN: (GrpcCode.UNAUTHENTICATED, _P + "invalid auth token"),
    EtcdError.USER_EMPTY: (GrpcCode.INVALID_ARGUMENT, _P + "user name is empty"),
    EtcdError.BAD_DOWNGRADE_VERSION: (GrpcCode.INVALID_ARGUMENT, _P + "wrong downgrade target version format"),
    EtcdError.INVALID_DOWNGRADE_TARGET: (GrpcCode.INVALID_ARGUMENT, _P + "invalid downgrade target version"),
    EtcdError.NO_INFLIGHT_DOWNGRADE: (GrpcCode.FAILED_PRECONDITION, _P + "no inflight downgrade job"),
    EtcdError.DOWNGRADE_IN_PROGRESS: (GrpcCode.FAILED_PRECONDITION, _P + "cluster has a downgrade job in progress"),
    EtcdError.CLUSTER_VERSION_UNAVAILABLE: (GrpcCode.FAILED_PRECONDITION, _P + "cluster version not found during downgrade"),
    EtcdError.UNKNOWN_METHOD: (GrpcCode.UNKNOWN, _P + "unknown method"),
    EtcdError.MALFORMED: (GrpcCode.INTERNAL, "grpc: error unmarshalling request: " + NO_MESSAGE),
    EtcdError.NOT_ENOUGH_STARTED_MEMBERS: (GrpcCode.UNKNOWN, _P + "re-configuration failed due to not enough started members"),
    EtcdError.MEMBER_NOT_LEARNER: (GrpcCode.FAILED_PRECONDITION, _P + "can only promote a learner member"),
    EtcdError.LEARNER_NOT_READY: (GrpcCode.FAILED_PRECONDITION, _P + "can only promote a learner member which is in sync with leader"),
    EtcdError.TOO_MANY_LEARNERS: (GrpcCode.FAILED_PRECONDITION, _P + "too many learner members in cluster"),
    EtcdError.CLUSTER_ID_MISMATCH: (GrpcCode.FAILED_PRECONDITION, _P + "cluster ID mismatch"),
    EtcdError.TIMEOUT_LEADER_TRANSFER: (GrpcCode.UNKNOWN, _P + "request timed out, leader transfer took too long"),
    EtcdError.ROOT_USER_NOT_EXIST: (GrpcCode.FAILED_PRECONDITION, _P + "root user does not exist"),
    EtcdError.ROOT_ROLE_NOT_EXIST: (GrpcCode.FAILED_PRECONDITION, _P + "root user does not have root role"),
    EtcdError.USER_EXISTS: (GrpcCode.FAILED_PRECONDITION, _P + "user name already exists"),
    EtcdError.USER_NOT_FOUND: (GrpcCode.FAILED_PRECONDITION, _P + "user name not found"),
    EtcdError.ROLE_EXISTS: (GrpcCode.FAILED_PRECONDITION, _P + "role name already exists"),
    EtcdError.ROLE_NOT_FOUND: (GrpcCode.FAILED_PRECONDITION, _P + "role name not found"),
    EtcdError.ROLE_EMPTY: (GrpcCode.INVALID_ARGUMENT, _P + "role name is empty"),
    EtcdError.ROLE_NOT_GRANTED: (GrpcCode.FAILED_PRECONDITION, _P + "role is not granted to the user"),
    EtcdError.PERMISSION_NOT_GIVEN: (GrpcCode.INVALID_ARGUMENT, _P + "permission not given"),
    EtcdError.PERMISSION_NOT_GRANTED: (GrpcCode.FAILED_PRECONDITION, _P + "permission is not granted to the role"),
    EtcdError.INVALID_AUTH_MANAGEMENT: (GrpcCode.INVALID_ARGUMENT, _P + "invalid auth management"),
    EtcdError.AUTH_FAILED: (GrpcCode.INVALID_ARGUMENT, _P + "authentication failed, invalid user ID or password"),
    EtcdError.AUTH_OLD_REVISION: (GrpcCode.INVALID_ARGUMENT, _P + "revision of auth store is old"),
    # raw texts, without the prefix: etcd does not map these, so they are Unknown
    EtcdError.NO_PASSWORD_USER: (GrpcCode.UNKNOWN, "auth: authentication failed, password was given for no password user"),
    EtcdError.VERIFY_ONLY: (GrpcCode.UNKNOWN, "auth: token signing attempted with verify-only key"),
    EtcdError.PASSWORD_TOO_LONG: (GrpcCode.UNKNOWN, "bcrypt: password length exceeds 72 bytes"),
}


TRANSIENT: Final = frozenset(
    {
        EtcdError.NO_LEADER,
        EtcdError.LEADER_CHANGED,
        EtcdError.NOT_LEADER,
        EtcdError.TOO_MANY_REQUESTS,
        EtcdError.TIMEOUT,
        EtcdError.TIMEOUT_LEADER_FAILURE,
        EtcdError.TIMEOUT_CONNECTION_LOST,
        EtcdError.TIMEOUT_WAIT_APPLIED,
    }
)
"""What passes by itself: the same request may succeed a moment later."""


def status_of(error: int) -> StatusError:
    """The `StatusError` of a non-zero `EtcdError` number."""
    code, text = ETCD_STATUS[EtcdError(error)]
    return StatusError(code, text)


TRANSIENT_TEXTS: Final = frozenset(status_of(error).message for error in TRANSIENT)
