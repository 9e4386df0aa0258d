"""Protobuf's JSON, row by row (etcd-api §4.2). What etcd says to the same bodies is asked in tests/interop/test_gateway_differential.py."""

import base64

import pytest

from raftsched import limits
from raftsched.pb.etcd import auth_pb2, kv_pb2
from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.rpc.gateway._json import JsonError, Scanner, Schema

RANGE = Schema(pb.RangeRequest.DESCRIPTOR)
TXN = Schema(pb.TxnRequest.DESCRIPTOR)
PUT = Schema(pb.PutRequest.DESCRIPTOR)


def cut(*parts: bytes) -> list[bytes]:
    """The values of a body that comes in these parts."""
    scanner, found = Scanner(), []
    for part in parts:
        scanner.feed(part)
        while (value := scanner.next()) is not None:
            found.append(value)
    last = scanner.end()
    return found if last is None else [*found, last]


# -- values


@pytest.mark.parametrize(
    ("parts", "values"),
    [
        ((b"",), []),
        ((b" \t\r\n ",), []),
        ((b'{"a":1}',), [b'{"a":1}']),
        ((b' {"a" : [ 1 , {} ] } \n',), [b'{"a" : [ 1 , {} ] }']),
        ((b'{"a":1}{"b":2}\n{}',), [b'{"a":1}', b'{"b":2}', b"{}"]),
        ((b'{"a"', b':"}', b'"', b"}"), [b'{"a":"}"}']),
        ((b"5 true", b" null"), [b"5", b"true", b"null"]),
        ((b"-1.5e+3",), [b"-1.5e+3"]),
        ((b'"a\\u00', b'e9" 1'), [b'"a\\u00e9"', b"1"]),
        ((b"[[]]", b"[]"), [b"[[]]", b"[]"]),
    ],
)
def test_values_are_cut_out_of_a_stream(parts: tuple[bytes, ...], values: list[bytes]) -> None:
    assert cut(*parts) == values


@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_where_the_network_cuts_does_not_matter(step: int) -> None:
    body = b' {"key":"Zm\\u0039v","n":[-1.5e3,true,null,{"a":{}}]}  "x" 12 {"b":1}'
    assert cut(*(body[at : at + step] for at in range(0, len(body), step))) == cut(body)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "unexpected EOF"),
        (b'{"a":"', "unexpected EOF"),
        (b"tru", "unexpected EOF"),
        (b"-", "unexpected EOF"),
        (b"}", "invalid character '}' looking for beginning of value"),
        (b"\xff", "invalid character 'ÿ' looking for beginning of value"),
        (b"\x00", "invalid character '\\x00' looking for beginning of value"),
        (b"'", "invalid character '\\'' looking for beginning of value"),
        (b'{"a":1,}', "invalid character '}' looking for beginning of object key string"),
        (b'{"a" 1}', "invalid character '1' after object key"),
        (b'{"a":1 "b"}', "invalid character '\"' after object key:value pair"),
        (b"[1 2]", "invalid character '2' after array element"),
        (b'"\\q"', "invalid character 'q' in string escape code"),
        (b'"\\u00g0"', "invalid character 'g' in \\u hexadecimal character escape"),
        (b'"a\nb"', "invalid character '\\n' in string literal"),
        (b"-a", "invalid character 'a' in numeric literal"),
        (b"1.a", "invalid character 'a' after decimal point in numeric literal"),
        (b"1ea", "invalid character 'a' in exponent of numeric literal"),
        (b"trux", "invalid character 'x' in literal true (expecting 'e')"),
        (b"falsy", "invalid character 'y' in literal false (expecting 'e')"),
        (b"nuxl", "invalid character 'x' in literal null (expecting 'l')"),
        (b'{"a":01}', "invalid character '1' after object key:value pair"),
        (b"[" * 10_001, "invalid character '[' exceeded max depth"),
        (b'{"a":' * 10_001, "invalid character '{' exceeded max depth"),
    ],
)
def test_what_is_no_json_is_refused_in_gos_words(body: bytes, message: str) -> None:
    scanner = Scanner()
    scanner.feed(body)
    with pytest.raises(JsonError) as refused:
        scanner.end()
    assert str(refused.value) == message
    with pytest.raises(JsonError):
        scanner.next()  # for good


# -- messages


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{}", pb.RangeRequest()),
        (b'{"key":"Zm9v"}', pb.RangeRequest(key=b"foo")),
        (b'{"key":"Zg=="}', pb.RangeRequest(key=b"f")),
        (b'{"key":"Zg"}', pb.RangeRequest(key=b"f")),
        (b'{"key":"-_8"}', pb.RangeRequest(key=b"\xfb\xff")),
        (b'{"key":"+/8="}', pb.RangeRequest(key=b"\xfb\xff")),
        (b'{"key":"Z\\u006d9v"}', pb.RangeRequest(key=b"foo")),
        (b'{"key":"Zm\\n9v\\r\\n\\n"}', pb.RangeRequest(key=b"foo")),
        (b'{"range_end":"AA==","rangeEnd":null}', None),
        (b'{"rangeEnd":"AA=="}', pb.RangeRequest(range_end=b"\0")),
        (b'{"limit":5}', pb.RangeRequest(limit=5)),
        (b'{"limit":"5"}', pb.RangeRequest(limit=5)),
        (b'{"limit":"-9223372036854775808"}', pb.RangeRequest(limit=-(2**63))),
        (b'{"limit":5.0}', pb.RangeRequest(limit=5)),
        (b'{"limit":1.5e1}', pb.RangeRequest(limit=15)),
        (b'{"limit":150e-1}', pb.RangeRequest(limit=15)),
        (b'{"limit":-0}', pb.RangeRequest()),
        (b'{"limit":1.5}', None),
        (b'{"limit":9223372036854775808}', None),
        (b'{"limit":1e30}', None),
        (b'{"limit":" 5"}', None),
        (b'{"limit":""}', None),
        (b'{"limit":true}', None),
        (b'{"serializable":true}', pb.RangeRequest(serializable=True)),
        (b'{"serializable":1}', None),
        (b'{"serializable":"true"}', None),
        (b'{"sort_order":"DESCEND"}', pb.RangeRequest(sort_order=pb.RangeRequest.DESCEND)),
        (b'{"sort_order":2}', pb.RangeRequest(sort_order=pb.RangeRequest.DESCEND)),
        (b'{"sort_order":"NO_SUCH"}', pb.RangeRequest()),
        (b'{"sort_order":true}', None),
        (b'{"key":null,"limit":null}', pb.RangeRequest()),
        (b'{"key":"Zm9v","none":{"a":[1,"x",{"b":null}],"c":true}}', pb.RangeRequest(key=b"foo")),
        (b'{"none":"\\ud800"}', None),
        (b'{"":"","key":""}', pb.RangeRequest()),
        (b'{"none":"\xff"}', None),
        (b'{"key":5}', None),
        (b'{"key":{}}', None),
        (b'{"key":"!"}', None),
        (b'{"key":"Z"}', None),
        (b'{"key":"Zg="}', None),
        (b'{"key":"Zg==Zg=="}', None),
        (b"[]", None),
        (b"null", None),
        (b'"x"', None),
    ],
)
def test_fields(text: bytes, message: pb.RangeRequest | None) -> None:
    if message is None:
        with pytest.raises(JsonError):
            RANGE.decode(text)
    else:
        assert pb.RangeRequest.FromString(RANGE.decode(text)) == message


def test_messages_in_messages() -> None:
    text = (
        b'{"compare":[{"key":"YQ==","target":"VERSION","result":"GREATER","version":"0"}],"success":['
        b'{"requestPut":{"key":"YQ==","value":"Yg==","lease":-1}},{"request_txn":{"failure":[{"request_range":{"key":"YQ=="}}]}}]}'
    )
    put = pb.RequestOp(request_put=pb.PutRequest(key=b"a", value=b"b", lease=-1))
    nested = pb.RequestOp(request_txn=pb.TxnRequest(failure=[pb.RequestOp(request_range=pb.RangeRequest(key=b"a"))]))
    compare = pb.Compare(key=b"a", target=pb.Compare.VERSION, result=pb.Compare.GREATER, version=0)
    assert compare.WhichOneof("target_union") == "version"
    assert pb.TxnRequest.FromString(TXN.decode(text)) == pb.TxnRequest(compare=[compare], success=[put, nested])


def test_a_long_message_in_messages_has_its_length() -> None:
    value = bytes(range(256)) * 1_000
    text = b'{"success":[{"request_put":{"key":"YQ==","value":"%s"}}]}' % base64.b64encode(value)
    found = pb.TxnRequest.FromString(TXN.decode(text))
    assert found.success[0].request_put.value == value


def test_strings_lists_and_enums_of_other_messages() -> None:
    schema = Schema(pb.MemberAddRequest.DESCRIPTOR)
    found = pb.MemberAddRequest.FromString(schema.decode(b'{"peerURLs":["http://a:1","\\u00e9\\ud83d\\ude00\\n"],"isLearner":true}'))
    assert found == pb.MemberAddRequest(peerURLs=["http://a:1", "é😀\n"], isLearner=True)
    schema = Schema(pb.WatchRequest.DESCRIPTOR)
    found_watch = pb.WatchRequest.FromString(schema.decode(b'{"create_request":{"filters":["NODELETE",0,"NONE"]}}'))
    assert list(found_watch.create_request.filters) == [pb.WatchCreateRequest.NODELETE, pb.WatchCreateRequest.NOPUT]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"compare":{}}', "proto: syntax error (line 1:12): unexpected token {"),
        (b'{"compare":[5]}', "proto: syntax error (line 1:13): unexpected token 5"),
        (b'{"compare":["a"]}', 'proto: syntax error (line 1:13): unexpected token "a"'),
        (b'{\n "compare":[{"version":"x"}]}', 'proto: (line 2:24): invalid value for int64 field version: "x"'),
        (b'{"compare":[{"modRevision":{}}]}', "proto: (line 1:28): invalid value for int64 field modRevision: {"),
        (b'{"compare":[],"compare":[]}', 'proto: (line 1:15): duplicate field "compare"'),
        (
            b'{"success":[{"request_put":{},"requestRange":{}}]}',
            'proto: (line 1:31): error parsing "requestRange", oneof etcdserverpb.RequestOp.request is already set',
        ),
        (b'{"\xc3\xa9":1,"compare":5}', "proto: syntax error (line 1:18): unexpected token 5"),
        (b'{"none":"\xff"}', "proto: syntax error (line 1:9): invalid UTF-8 in string"),
        (b'{"none":"\\ud800\\u0061z"}', 'proto: syntax error (line 1:9): invalid escape code "\\\\u0061" in string'),
        (b'{"none":"\\ud800"}', "proto: unexpected EOF"),
    ],
)
def test_refusals_have_gos_words(text: bytes, message: str) -> None:
    with pytest.raises(JsonError) as refused:
        TXN.decode(text)
    assert str(refused.value) == message


def nested(levels: int) -> bytes:
    return b'{"success":[{"request_txn":' * levels + b"{}" + b"}]}" * levels


def test_nesting_is_bounded() -> None:
    deepest = (limits.GATEWAY_DEPTH_MAX - 1) // 2
    assert TXN.decode(nested(deepest))
    with pytest.raises(JsonError) as refused:
        TXN.decode(nested(deepest + 1))
    assert str(refused.value) == "proto: exceeded max recursion depth"


def test_a_refusal_repeats_only_the_beginning_of_what_it_is_about() -> None:
    with pytest.raises(JsonError) as refused:
        RANGE.decode(b'{"limit":"' + b"x" * 1_000_000 + b'"}')
    assert len(str(refused.value)) < limits.GATEWAY_QUOTED_BYTES_MAX + 100


# -- the way out


def test_what_goes_out() -> None:
    schema = Schema(pb.RangeResponse.DESCRIPTOR)
    message = pb.RangeResponse(
        header=pb.ResponseHeader(cluster_id=2**64 - 1, member_id=7, revision=-1),
        kvs=[kv_pb2.KeyValue(key=b"foo", value=b"\xfb\xff", lease=2**62, version=1), kv_pb2.KeyValue()],
        more=True,
        count=0,
    )
    assert schema.encode(message.SerializeToString()) == (
        b'{"header":{"cluster_id":"18446744073709551615","member_id":"7","revision":"-1"},'
        b'"kvs":[{"key":"Zm9v","version":"1","value":"+/8=","lease":"4611686018427387904"},{}],"more":true}'
    )
    assert schema.encode(b"") == b"{}"


def test_enums_names_numbers_and_presence_going_out() -> None:
    event = Schema(kv_pb2.Event.DESCRIPTOR)
    assert event.encode(kv_pb2.Event(type=kv_pb2.Event.DELETE, kv=kv_pb2.KeyValue()).SerializeToString()) == b'{"type":"DELETE","kv":{}}'
    assert event.encode(kv_pb2.Event().SerializeToString()) == b"{}"
    assert event.encode(b"\x08\x07") == b'{"type":7}'  # a number that has no name
    assert Schema(pb.HashResponse.DESCRIPTOR).encode(pb.HashResponse(hash=2**32 - 1).SerializeToString()) == b'{"hash":4294967295}'
    compare = pb.Compare(version=0)
    assert Schema(pb.Compare.DESCRIPTOR).encode(compare.SerializeToString()) == b'{"version":"0"}'  # set, though it is zero
    role = pb.AuthRoleGetResponse(perm=[auth_pb2.Permission(permType=auth_pb2.Permission.WRITE, key=b"a")])
    assert Schema(pb.AuthRoleGetResponse.DESCRIPTOR).encode(role.SerializeToString()) == b'{"perm":[{"permType":"WRITE","key":"YQ=="}]}'


def test_text_is_escaped_as_go_does() -> None:
    schema = Schema(pb.Member.DESCRIPTOR)
    message = pb.Member(name='a"\\\x01\b\f\n\r\t\x7f/é\u2028<&>').SerializeToString()
    assert schema.encode(message).decode() == '{"name":"a\\"\\\\\\u0001\\b\\f\\n\\r\\t\x7f/é\u2028<&>"}'
    assert schema.encode(message, html=True).decode() == '{"name":"a\\"\\\\\\u0001\\b\\f\\n\\r\\t\x7f/é\\u2028\\u003c\\u0026\\u003e"}'


def test_packed_and_scattered_lists_and_the_last_of_a_field() -> None:
    create = Schema(pb.WatchCreateRequest.DESCRIPTOR)
    assert create.encode(b"\x2a\x02\x00\x01\x28\x01") == b'{"filters":["NOPUT","NODELETE","NODELETE"]}'
    assert RANGE.encode(b"\x18\x01\x18\x02") == b'{"limit":"2"}'
    members = Schema(pb.MemberListResponse.DESCRIPTOR)
    assert members.encode(b"\x12\x02\x08\x01\x98\x06\x01\x12\x02\x08\x02") == b'{"members":[{"ID":"1"},{"ID":"2"}]}'  # 99 is unknown


@pytest.mark.parametrize("wire", [b"\x0a", b"\x0a\x05a", b"\x08\x01", b"\x1a\x01a", b"\xff" * 11, b"\x0b", b"\x2a\x01\xff\xff"])
def test_what_is_no_such_message_is_refused(wire: bytes) -> None:
    with pytest.raises(ValueError, match="not the wire form of"):
        RANGE.encode(wire)


def test_kinds_that_etcd_does_not_have_are_told_at_once() -> None:
    from google.protobuf import struct_pb2

    with pytest.raises(ValueError, match="no such kind of field"):
        Schema(struct_pb2.Value.DESCRIPTOR)
