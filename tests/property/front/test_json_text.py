"""Whatever JSON a client sends is a message or is refused in words that can be sent back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from hypothesis import given
from hypothesis import strategies as st

from coordinator.front.json_text import BadJson, encode, parse
from proto.etcd import rpc_pb2 as etcd

if TYPE_CHECKING:
    from google.protobuf.message import Message

REQUESTS: Final[tuple[type[Message], ...]] = (
    etcd.RangeRequest,
    etcd.TxnRequest,
    etcd.WatchRequest,
    etcd.LeaseGrantRequest,
    etcd.MemberAddRequest,
    etcd.AlarmRequest,
    etcd.AuthUserAddRequest,
    etcd.AuthRoleGrantPermissionRequest,
)

# With halves of surrogates, which JSON can spell and UTF-8 cannot.
text = st.text(st.characters(categories=("L", "N", "P", "Z", "Cs")), max_size=5)
numbers = st.integers() | st.floats() | st.sampled_from([2**63, -(2**63), 2**64, 1e308, -0.0])
scalars = (
    st.none() | st.booleans() | numbers | text | st.sampled_from(["YQ==", "YQ", "1", "1_0", "KEY", "NOPUT"])
)


def names_below(message: type[Message]) -> list[str]:
    """Of all fields of it, and of the messages in it."""
    names: dict[str, None] = {}
    waiting = [message.DESCRIPTOR]
    seen = set()
    while waiting:
        descriptor = waiting.pop()
        if descriptor.full_name in seen:
            continue
        seen.add(descriptor.full_name)
        for field in descriptor.fields:
            names |= {field.name: None, field.camelcase_name: None}
            if field.message_type is not None:
                waiting.append(field.message_type)
    return list(names)


NAMES: Final = {request: names_below(request) for request in REQUESTS}


@st.composite
def bodies(draw: st.DrawFn) -> tuple[type[Message], Any]:
    request = draw(st.sampled_from(REQUESTS))
    keys = st.sampled_from(NAMES[request]) | text
    values = st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=12,
    )
    return request, draw(st.dictionaries(keys, values, max_size=5) | values)


@given(bodies())
def test_anything_is_a_message_or_refused(body: tuple[type[Message], Any]) -> None:
    request, value = body
    refusal = ""
    try:
        parse(json.dumps(value).encode(), request())
    except BadJson as error:
        refusal = str(error)
    assert json.loads(encode({"error": refusal})) == {"error": refusal}
