"""The same requests through the JSON gateway: a step becomes one of the many forms of JSON that mean it, its answer a message again."""

import json
import random
import re
from typing import Any, Final

import grpc
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message

from raftsched.rpc.gateway.routes import PATHS
from raftsched.testing.http_peer import Answered, HttpPeer
from raftsched.testing.traffic import Step
from raftsched.testing.wire_side import METHODS, STATUS

GATEWAY_PATHS: Final = {method: path for path, method in reversed(PATHS.items())}
HEADERS: Final = ("content-type", "grpc-metadata-content-type", "www-authenticate")
HTTP_OF: Final = {3: 400, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 11: 400, 12: 501, 14: 503, 16: 401}
"""Of gRPC's codes, where it is not 500."""
STREAMS: Final = frozenset({"Watch/Watch", "Lease/LeaseKeepAlive", "KV/RangeStream", "Maintenance/Snapshot", "Election/Observe"})


def has_path(step: Step) -> bool:
    """Whether the gateway has it as a unary method."""
    return step.method not in STREAMS and METHODS[step.method].path in GATEWAY_PATHS


def json_of(message: Message, draw: random.Random) -> bytes:
    """Names in either form, enums by name or number, zeros or none."""
    told = MessageToDict(
        message,
        preserving_proto_field_name=draw.random() < 0.6,
        use_integers_for_enums=draw.random() < 0.4,
        always_print_fields_with_no_presence=draw.random() < 0.2,
    )
    return json.dumps(told, separators=draw.choice(((",", ":"), (" , ", " : ")))).encode()


class GatewaySide:
    """One connection, kept."""

    def __init__(self, address: str) -> None:
        self._peer = HttpPeer(int(address.rpartition(":")[2]), timeout_s=20.0)

    def close(self) -> None:
        self._peer.__exit__()

    def start(self, step: Step, body: bytes, token: str = "") -> None:
        headers = {"Authorization": token} if token else {}
        self._peer.request("POST", GATEWAY_PATHS[METHODS[step.method].path], body, headers)

    def finish(self, step: Step) -> tuple[Any, Any]:
        """(what a gRPC client would have been told, what JSON shows beyond that: headers and the order of names)."""
        answer = self._peer.answer()
        form = [answer.header(name) for name in HEADERS]
        if answer.status != 200:
            return self._refusal(answer), form
        message = ParseDict(answer.json(), METHODS[step.method].response())
        return message, [*form, re.findall(rb'"(\w+)":', answer.body)]

    @staticmethod
    def _refusal(answer: Answered) -> tuple[grpc.StatusCode, str]:
        told = answer.json()
        assert answer.status == HTTP_OF.get(told["code"], 500), answer
        return STATUS[told["code"]], told["message"]
