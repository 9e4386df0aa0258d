"""What the gateway says over HTTP: statuses, headers, and refusals as JSON (etcd-api §4.2).

A refusal is the superset of what etcd 3.4 to 3.7 say, since clients look for one or the other.
Must not know: methods, sockets.
"""

import json
from http.client import responses
from typing import Final

from raftsched.errors import GrpcCode
from raftsched.rpc.http2.http_request import Answer

JSON: Final = (("Content-Type", "application/json"),)
GRPC: Final = ("Grpc-Metadata-Content-Type", "application/grpc")
SERVED: Final = (*JSON, GRPC)
STATUS: Final = {
    GrpcCode.OK: 200,
    GrpcCode.CANCELLED: 499,
    GrpcCode.UNKNOWN: 500,
    GrpcCode.INVALID_ARGUMENT: 400,
    GrpcCode.DEADLINE_EXCEEDED: 504,
    GrpcCode.NOT_FOUND: 404,
    GrpcCode.ALREADY_EXISTS: 409,
    GrpcCode.PERMISSION_DENIED: 403,
    GrpcCode.RESOURCE_EXHAUSTED: 429,
    GrpcCode.FAILED_PRECONDITION: 400,
    GrpcCode.ABORTED: 409,
    GrpcCode.OUT_OF_RANGE: 400,
    GrpcCode.UNIMPLEMENTED: 501,
    GrpcCode.INTERNAL: 500,
    GrpcCode.UNAVAILABLE: 503,
    GrpcCode.DATA_LOSS: 500,
    GrpcCode.UNAUTHENTICATED: 401,
}
HTML: Final = {ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&\u2028\u2029"}
"""What Go's encoding/json escapes, which streams go through."""


def http_status(code: int) -> int:
    """Of a gRPC code; 500 for one that is none."""
    return STATUS.get(code, 500)  # type: ignore[call-overload, no-any-return]  # any int may come, the keys are the enum's


def dumps(value: object) -> str:
    """Compact JSON, letters as they are."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def refusal(code: int, message: str) -> Answer:
    """The answer to a request that fails before anything of an answer was sent."""
    headers: tuple[tuple[str, str], ...] = JSON
    if code == GrpcCode.UNAUTHENTICATED:
        headers = (*JSON, ("WWW-Authenticate", message))
    return http_status(code), headers, encoded(dumps({"error": message, "code": code, "message": message}))


def stream_refusal(code: int, message: str) -> bytes:
    """The last line of a stream that fails."""
    status = http_status(code)
    error = {"grpc_code": code, "http_code": status, "code": code, "message": message, "http_status": responses.get(status, "")}
    return encoded(dumps({"error": error}).translate(HTML) + "\n")


def encoded(text: str) -> bytes:
    """A message may repeat what is no text."""
    return text.encode("utf-8", "replace")
