"""Protobuf's JSON beside Google's own Python, which is slow and obvious: any message goes out and comes back, in whatever form there is."""

import base64
import json
from typing import Any

import hypothesis.strategies as st
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given, settings

from raftsched.rpc.gateway._json import JsonError, Scanner
from raftsched.rpc.gateway.routes import PATHS, route_of

ROUTES = [route_of(path) for path in sorted(PATHS)]
TYPES = {schema.name: schema for route in ROUTES for schema in (route.request, route.response)}
DEPTH_MAX = 4
INTEGERS = {
    FieldDescriptor.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.TYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
}


def class_of(name: str) -> type[Message]:
    from raftsched.pb.etcd import rpc_pb2

    return GetMessageClass(rpc_pb2.DESCRIPTOR.pool.FindMessageTypeByName(name))


@st.composite
def values(draw: st.DrawFn, field: Any, depth: int) -> Any:
    if field.type in INTEGERS:
        return draw(st.one_of(st.integers(0, 3), INTEGERS[field.type]))
    if field.type == FieldDescriptor.TYPE_BOOL:
        return draw(st.booleans())
    if field.type == FieldDescriptor.TYPE_STRING:
        return draw(st.text(st.characters(codec="utf-8"), max_size=12))
    if field.type == FieldDescriptor.TYPE_BYTES:
        return draw(st.binary(max_size=40))
    if field.type == FieldDescriptor.TYPE_ENUM:
        return draw(st.sampled_from([value.number for value in field.enum_type.values]))
    return draw(messages(field.message_type.full_name, depth + 1))


@st.composite
def messages(draw: st.DrawFn, name: str, depth: int = 0) -> Message:
    made: Any = class_of(name)()
    for field in made.DESCRIPTOR.fields:
        if (depth >= DEPTH_MAX and field.message_type is not None) or draw(st.integers(0, 2)) == 0:
            continue
        if field.is_repeated:
            getattr(made, field.name).extend(draw(st.lists(values(field, depth), max_size=3)))
        elif field.message_type is not None:
            getattr(made, field.name).CopyFrom(draw(values(field, depth)))
        else:
            setattr(made, field.name, draw(values(field, depth)))
    return made


def as_dict(message: Message) -> Any:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def scanned(text: bytes) -> bytes:
    scanner = Scanner()
    scanner.feed(text)
    value = scanner.end()
    assert value is not None
    return value


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_what_goes_out_is_what_googles_says(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(TYPES)))
    message = data.draw(messages(name))
    for html in (False, True):
        text = TYPES[name].encode(message.SerializeToString(), html=html)
        assert json.loads(text) == as_dict(message)
        again = TYPES[name].decode(scanned(text))
        assert class_of(name).FromString(again) == message


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_whatever_form_comes_in_means_the_same(data: st.DataObject) -> None:
    """Names in camel case, numbers bare, enums as numbers, spaces, escapes, fields that nobody knows."""
    name = data.draw(st.sampled_from(sorted(TYPES)))
    message = data.draw(messages(name))
    forms = {
        "preserving_proto_field_name": data.draw(st.booleans()),
        "use_integers_for_enums": data.draw(st.booleans()),
    }
    value = json_format.MessageToDict(message, **forms)
    if data.draw(st.booleans()):
        value["no such field"] = data.draw(st.recursive(st.none() | st.text() | st.integers(), st.lists, max_leaves=5))
    text = json.dumps(value, ensure_ascii=data.draw(st.booleans()), indent=data.draw(st.sampled_from([None, 0, 3])))
    assert class_of(name).FromString(TYPES[name].decode(scanned(text.encode("utf-8", "surrogatepass")))) == message


@given(st.binary(max_size=60), st.sampled_from(["standard", "url"]), st.booleans())
@settings(deadline=None)
def test_base64_of_both_alphabets(raw: bytes, alphabet: str, padded: bool) -> None:
    encoded = base64.urlsafe_b64encode(raw) if alphabet == "url" else base64.b64encode(raw)
    text = json.dumps({"key": (encoded if padded else encoded.rstrip(b"=")).decode()}).encode()
    found: Any = class_of("etcdserverpb.RangeRequest").FromString(TYPES["etcdserverpb.RangeRequest"].decode(text))
    assert found.key == raw


@given(st.binary(max_size=200) | st.text(st.sampled_from('{}[]:,"\\0123456789.eE+- ntrufalsk\u00e9'), max_size=60).map(str.encode))
@settings(max_examples=1_000, deadline=None)
def test_the_scanner_takes_what_python_takes(body: bytes) -> None:
    """Python's reader is the twin of where one value ends; it also takes NaN and Infinity, and wants UTF-8."""
    scanner = Scanner()
    scanner.feed(body)
    try:
        value = scanner.end()
    except JsonError:
        value = None
    try:
        text = body.decode()
        stripped = text.lstrip(" \t\r\n")
        _, end = json.JSONDecoder(parse_constant=lambda name: 1 / 0).raw_decode(stripped)
    except (ValueError, ZeroDivisionError, RecursionError):
        return
    if stripped[:end].encode() == value:
        return
    # a number may go on where Python stops: 1.e, 01 is 0 and then 1; Go refuses what is no number
    assert stripped[:1] in "-0123456789", (body, value)


@pytest.mark.parametrize("size", [3, 4, 5])
@given(data=st.data())
@settings(deadline=None)
def test_cuts_do_not_matter(size: int, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(TYPES)))
    texts = [TYPES[name].encode(data.draw(messages(name)).SerializeToString()) for _ in range(3)]
    whole = b"\n".join(texts)
    scanner, found = Scanner(), []
    for at in range(0, len(whole), size):
        scanner.feed(whole[at : at + size])
        while (value := scanner.next()) is not None:
            found.append(value)
    assert found == texts
    assert scanner.end() is None
