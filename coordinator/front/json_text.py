"""Messages of an API as JSON text, in the form that etcd's gateway (grpc-gateway 1.16, jsonpb) gives and takes.

protobuf's own json_format gives the same form on the way out: proto names, 64-bit numbers as strings, bytes in base64,
enums by name, defaults left out. On the way in it forgives what the gateway refuses, and silently: an enum's name that
does not exist would count as 0, a key in another alphabet of base64 as another key, "1_0" as 10. On infinite numbers
and halves of surrogates it fails instead of refusing them. All of those are looked for first.
"""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.descriptor import Descriptor, EnumDescriptor
    from google.protobuf.message import Message

M = TypeVar("M", bound="Message")

NESTING_MAX: Final = 64
"""Levels of a message in a message; etcd's deepest sensible one is a transaction in a transaction."""

VALUES_MAX: Final = 16_384
"""Objects, lists and their members in one body: each takes some microseconds and a hundred bytes, and three bytes would
do for one. A transaction of etcd's default size has a thousand."""

PART_BYTES: Final = 64 << 10
"""Of a text that is made in parts: about a millisecond and a half."""
PIECE_BYTES_MAX: Final = 8 << 10
"""A message up to this size is made as one; a larger one field by field."""

_WHOLE_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]*)", re.ASCII)
"""In a string, as JSON writes it. Python's int() also takes spaces, signs, zeros ahead and underscores."""

# Go's encoder writes these so that JSON can stand inside HTML.
_HTML: Final = str.maketrans(
    {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
)


class BadJson(Exception):
    """The text is no message of the method; says why."""


def encode(value: Any) -> bytes:
    """JSON as Go writes it: without spaces, in UTF-8; half of a surrogate, which has none, as an escape."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).translate(_HTML)
    return text.encode(errors="backslashreplace")


def to_value(message: Message) -> dict[str, Any]:
    """The message as what encode() takes."""
    value: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return value


def parts(message: Message) -> Iterator[bytes]:
    """The text of a message that may be large, about PART_BYTES at a time, each made when it is asked for: encoding a
    range of many megabytes takes a second, and as much memory as ten of its answers."""
    gathered: list[bytes] = []
    size = 0
    for piece in _pieces(message):
        gathered.append(piece)
        size += len(piece)
        if size >= PART_BYTES:
            yield b"".join(gathered)
            gathered.clear()
            size = 0
    yield b"".join(gathered)


def _pieces(message: Message) -> Iterator[bytes]:
    if message.ByteSize() <= PIECE_BYTES_MAX:
        yield encode(to_value(message))
        return
    yield b"{"
    comma = b""
    for field, value in message.ListFields():
        yield comma
        comma = b","
        if field.message_type is None:
            yield _field_alone(message, field, value)
            continue
        assert not field.message_type.GetOptions().map_entry, f"{field.full_name} is a map"
        yield json.dumps(field.name).encode() + b":"
        if field.is_repeated:
            yield b"["
            for number, one in enumerate(value):
                if number:
                    yield b","
                yield from _pieces(one)
            yield b"]"
        else:
            yield from _pieces(value)
    yield b"}"


def _field_alone(message: Message, field: FieldDescriptor, value: Any) -> bytes:
    """A field that is no message, as it stands between the braces."""
    alone = type(message)()
    if field.is_repeated:
        getattr(alone, field.name).extend(value)
    else:
        setattr(alone, field.name, value)
    return encode(to_value(alone))[1:-1]


def parse(body: bytes, message: M) -> M:
    """Fills the message from one JSON object; nothing at all is an empty one. Raises BadJson."""
    for value in split(body):
        return fill(value, message)
    return message


def split(body: bytes) -> Iterator[Any]:
    """The JSON values that stand one behind the other in body. Raises BadJson at the first that is none, and at once
    if there are too many."""
    if sum(map(body.count, (b"{", b"[", b","))) > VALUES_MAX:
        raise BadJson(f"more than {VALUES_MAX} values")
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise BadJson(f"the body is not UTF-8: {error}") from None
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    position = _skip_space(text, 0)
    while position < len(text):
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise BadJson(str(error)) from None
        yield value
        position = _skip_space(text, position)


def _refuse_constant(name: str) -> None:
    """Python's NaN and Infinity."""
    raise ValueError(f"{name} is no JSON")


def fill(value: Any, message: M) -> M:
    """As parse(), from a value that split() gave, and takes out of that what no message has. null is an empty one."""
    if value is None:
        return message
    if not isinstance(value, dict):
        raise BadJson(f"a message is a JSON object, not {_named(value)}")
    _check(value, cast("Descriptor", message.DESCRIPTOR), NESTING_MAX)
    try:
        json_format.ParseDict(value, message, ignore_unknown_fields=True)
    except (json_format.ParseError, RecursionError) as error:
        raise BadJson(str(error)) from None
    return message


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _check(value: dict[str, Any], descriptor: Descriptor, levels: int) -> None:
    """Refuse what json_format would read as something else, or fail on. Raises BadJson."""
    if not levels:
        raise BadJson(f"messages are nested more than {NESTING_MAX} deep")
    fields = {**descriptor.fields_by_camelcase_name, **descriptor.fields_by_name}
    for name in [name for name in value if name not in fields]:
        del value[name]
    for name, field in descriptor.fields_by_name.items():
        # Of a field that is there by both of its names this one counts, and the other is not looked at.
        if name != field.camelcase_name and field.camelcase_name in value:
            value.pop(name, None)
    for name, given in value.items():
        field = fields[name]
        if given is None:
            continue
        if field.is_repeated and not isinstance(given, list):
            raise BadJson(f"field {field.name} is a list, not {_named(given)}")
        for one in given if field.is_repeated else (given,):
            if one is None:
                raise BadJson(f"field {field.name} is a list without null")
            _check_field(field, one, levels)
    _decide(value, descriptor)


def _decide(value: dict[str, Any], descriptor: Descriptor) -> None:
    """Of fields that exclude each other, which json_format would refuse, the one counts that is declared last, as it
    does for the gateway."""
    for alternatives in descriptor.oneofs:
        given = [
            name
            for field in alternatives.fields
            for name in {field.name, field.camelcase_name}
            if value.get(name) is not None
        ]
        for name in given[:-1]:
            del value[name]


def _check_field(field: FieldDescriptor, value: Any, levels: int) -> None:
    if field.message_type is not None:
        if not isinstance(value, dict):
            raise BadJson(f"field {field.name} is an object, not {_named(value)}")
        _check(value, field.message_type, levels - 1)
    elif field.enum_type is not None:
        _check_enum(field.enum_type, value)
    elif field.type == FieldDescriptor.TYPE_BYTES:
        _check_bytes(field, value)
    elif field.type == FieldDescriptor.TYPE_BOOL:
        if not isinstance(value, bool):
            raise BadJson(f"field {field.name} is true or false, not {_named(value)}")
    elif field.type == FieldDescriptor.TYPE_STRING:
        if not isinstance(value, str):
            raise BadJson(f"field {field.name} is a string, not {_named(value)}")
    elif not _is_whole_number(value):
        raise BadJson(f"field {field.name} is a whole number, not {_quoted(value)}")


def _check_enum(enum: EnumDescriptor, value: Any) -> None:
    # By a list of names: protobuf's own look-up fails on half of a surrogate.
    if isinstance(value, str):
        known = value in list(enum.values_by_name)
    else:
        known = _is_whole_number(value) and -(2**31) <= value < 2**31
    if not known:
        raise BadJson(f"unknown value {_quoted(value)} for enum {enum.full_name}")


def _check_bytes(field: FieldDescriptor, value: Any) -> None:
    if not isinstance(value, str):
        raise BadJson(f"field {field.name} is a string in base64, not {_named(value)}")
    letters = value.replace("\r", "").replace("\n", "")
    try:
        data = base64.b64decode(letters, validate=True)
        if len(letters) != (len(data) + 2) // 3 * 4:
            raise ValueError("padding that belongs to nothing")
    except ValueError:  # as binascii.Error is
        raise BadJson(f"illegal base64 data in field {field.name}") from None


def _is_whole_number(value: Any) -> bool:
    if isinstance(value, str):
        return _WHOLE_NUMBER.fullmatch(value) is not None
    return isinstance(value, int) and not isinstance(value, bool)


def _quoted(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str | int | float) else _named(value)


def _named(value: Any) -> str:
    return {
        dict: "an object",
        list: "a list",
        str: "a string",
        type(None): "null",
        bool: "a truth value",
    }.get(type(value), "a number")
