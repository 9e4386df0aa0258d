"""Whatever a server sends as its answer to a call, there is an answer, an error that was declared, or a wish for more."""

import h2.config
import h2.connection
from hypothesis import given, settings
from hypothesis import strategies as st

from raftsched.errors import StatusError
from raftsched.security.grpc_call import Exchange
from raftsched.security.spiffe import parse_id

headers = st.lists(
    st.tuples(
        st.sampled_from(["grpc-status", "grpc-message", "content-type", "x-a"]),
        st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=12)
        | st.sampled_from(["0", "7", "99", "-1", "%", "%zz", "%0A"]),
    ),
    max_size=4,
)


def asked() -> Exchange:
    made = Exchange("host:1", "/s/m", b"hello" * 10, timeout_s=3, answer_bytes_max=1_000)
    made.outgoing()
    return made


def fed(exchange: Exchange, pieces: list[bytes]) -> None:
    try:
        for piece in pieces:
            if exchange.answer is None:
                exchange.feed(piece)
                exchange.outgoing()
    except StatusError:
        pass


@settings(deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=5))
def test_any_bytes(pieces: list[bytes]) -> None:
    fed(asked(), pieces)


@given(
    headers,
    st.binary(max_size=1_500),
    headers,
    st.lists(st.tuples(st.integers(0, 2_000), st.integers(0, 255)), max_size=4),
    st.integers(1, 64),
)
@settings(max_examples=100, deadline=None)
def test_answers_with_wrong_bytes(
    first: list[tuple[str, str]], body: bytes, last: list[tuple[str, str]], wrong: list[tuple[int, int]], cut: int
) -> None:
    exchange = Exchange("host:1", "/s/m", b"hello", timeout_s=3, answer_bytes_max=1_000)
    side = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, validate_outbound_headers=False))
    side.initiate_connection()
    side.receive_data(exchange.outgoing())
    side.send_headers(1, [(":status", "200"), *first])
    side.send_data(1, body)
    side.send_headers(1, last or [("grpc-status", "0")], end_stream=True)
    data = bytearray(side.data_to_send())
    for position, value in wrong:
        if position < len(data):
            data[position] = value
    fed(exchange, [bytes(data[at : at + cut * 16]) for at in range(0, len(data), cut * 16)])
    assert exchange.answer is None or exchange.answer == body[5:]


@settings(deadline=None)
@given(st.text(max_size=60) | st.from_regex(r"spiffe://[a-zA-Z.]{0,5}(/[a-z./%]{0,5}){0,4}", fullmatch=True))
def test_ids_are_read_or_not(text: str) -> None:
    found = parse_id(text)
    assert found is None or str(found) == text
