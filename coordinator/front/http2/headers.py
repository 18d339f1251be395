"""Header blocks (RFC 7541) and what HTTP/2 asks of a request's fields (RFC 9113, 8.2 and 8.3).

Clients send the same few requests over and over, so what one means is remembered, in two ways. A call of a method that
was called before is, to an encoder, a row of references into the table that both sides keep: such a block is looked up
whole. The meaning of a reference changes when anything is added to the table, so all of these are forgotten then.
And where one field is another each time (gRPC's timeout), the block has to be decoded, but the other fields are known.

Encoding costs nothing: answers are made of literals (`literal`), most of them made once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from coordinator.front.http2.decoder import Decoder, TooLarge, Undecodable
from coordinator.front.http2.frames import ConnectionFault, ErrorCode
from coordinator.front.http2.streams import LENGTH_UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.front.limits import Limits

Fields = Sequence[tuple[bytes, bytes]]
"""Names and values as they came, pseudo-headers first."""

T = TypeVar("T")

STATUS_200: Final = b"\x88"
"""`:status: 200`, which is in the static table (RFC 7541, appendix A)."""

FIELDS_BYTES_KEPT_MAX: Final = 1_024
"""Of a request's fields that are remembered: some clients send a token of kilobytes, another each time."""

BLOCK_BYTES_KEPT_MAX: Final = 64
"""Of a header block that is remembered."""

_COLON: Final = 0x3A
_INDEXED: Final = 0x80
_REQUEST_PSEUDO: Final = frozenset({b":method", b":scheme", b":authority", b":path"})
_CONNECTION_FIELDS: Final = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"}
)
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
_BAD_IN_VALUE: Final = re.compile(rb"[\x00\r\n]").search


class Head(Generic[T]):
    """A request's fields, understood."""

    __slots__ = ("content_length", "is_worth_keeping", "malformed", "pseudo_count", "value", "varying")

    def __init__(
        self,
        *,
        value: T | None = None,
        content_length: int = LENGTH_UNKNOWN,
        malformed: str = "",
        pseudo_count: int = 0,
        is_worth_keeping: bool = False,
        varying: bytes | None = None,
    ) -> None:
        self.value = value
        """What the layer above makes of the fields but the varying one; None if malformed."""
        self.content_length = content_length
        self.malformed = malformed
        """Why it is no request of HTTP/2; empty if it is one."""
        self.pseudo_count = pseudo_count
        self.is_worth_keeping = is_worth_keeping
        self.varying = varying
        """The value of the field that is another each time; None if it did not come."""

    def with_varying(self, varying: bytes) -> Head[T]:
        """The same with this value."""
        return Head(
            value=self.value,
            content_length=self.content_length,
            pseudo_count=self.pseudo_count,
            is_worth_keeping=self.is_worth_keeping,
            varying=varying,
        )


def malformed(reason: str) -> Head[T]:
    """What is no request of HTTP/2."""
    return Head(malformed=reason)


class HeaderBlock:
    """One that goes on in CONTINUATION frames (RFC 9113, 6.10)."""

    __slots__ = ("_fragments", "_size", "ends", "stream_id")

    def __init__(self, stream_id: int, fragment: bytes, *, ends: bool) -> None:
        """ends: the stream ends with it."""
        self.stream_id = stream_id
        self.ends = ends
        self._fragments = [fragment]
        self._size = len(fragment)

    def add(self, fragment: bytes, limits: Limits) -> bool:
        """Its next fragment came. False: it is too large by now."""
        self._fragments.append(fragment)
        self._size += len(fragment)
        return (
            self._size <= limits.header_block_bytes_max
            and len(self._fragments) <= limits.header_fragments_max
        )

    def whole(self) -> bytes:
        """The block, after its last fragment."""
        return b"".join(self._fragments)


class HeaderReader(Generic[T]):
    """The decoding half of a connection's compression."""

    def __init__(self, read: Callable[[Fields], T], varying: bytes, limits: Limits) -> None:
        """read makes of a well-formed request's fields what the layer above wants; it is called once for equal ones,
        so what it gives must not change. varying is the name of the field that it does not get to see."""
        self._read = read
        self._varying = varying
        self._decoder = Decoder(limits.header_list_bytes_hard_max)
        self._cached_max = limits.headers_cached_max
        self.cache: dict[bytes, Head[T]] = {}
        """Blocks whose meaning is known, for a look-up that costs no call."""
        self._by_fields: dict[tuple[tuple[bytes, bytes], ...], Head[T]] = {}

    def read_request(self, block: bytes) -> Head[T] | ConnectionFault:
        """The head of a request."""
        head = self.cache.get(block)
        if head is not None:
            return head
        fields = self._decode(block)
        if isinstance(fields, ConnectionFault):
            return fields
        head = self._understand(fields)
        if head.is_worth_keeping and len(block) <= BLOCK_BYTES_KEPT_MAX and _is_all_references(block):
            _remember(self.cache, block, head, self._cached_max)
        return head

    def _understand(self, fields: Fields) -> Head[T]:
        varying: bytes | None = None
        position, rest = 0, []
        for number, field in enumerate(fields):
            if field[0] != self._varying:
                rest.append(field)
            elif varying is None:
                varying, position = field[1], number
            else:
                return malformed("a field came twice")
        key = tuple(rest)
        head = self._by_fields.get(key)
        if head is None:
            head = self._understand_rest(rest)
            if head.is_worth_keeping:
                _remember(self._by_fields, key, head, self._cached_max)
        if varying is None or head.malformed:
            return head
        if position < head.pseudo_count:
            return malformed("a pseudo-header after another field")
        if _BAD_IN_VALUE(varying):
            return malformed("a field value has characters that are not allowed")
        return head.with_varying(varying)

    def _understand_rest(self, fields: Fields) -> Head[T]:
        content_length, fault = check_request(fields)
        if fault:
            return malformed(fault)
        size = sum(len(name) + len(value) for name, value in fields)
        return Head(
            value=self._read(fields),
            content_length=content_length,
            pseudo_count=sum(name[0] == _COLON for name, _ in fields),
            is_worth_keeping=size <= FIELDS_BYTES_KEPT_MAX,
        )

    def read_trailers(self, block: bytes) -> str | ConnectionFault:
        """What is wrong with a request's trailers, empty if nothing. Their content means nothing to us, but they may
        change the table."""
        fields = self._decode(block)
        if isinstance(fields, ConnectionFault):
            return fields
        return _check_names_and_values(fields, pseudo=frozenset())

    def _decode(self, block: bytes) -> Fields | ConnectionFault:
        if not _is_all_references(block):
            self.cache.clear()
        try:
            return self._decoder.decode(block)
        except TooLarge:
            return ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "the header list is too large")
        except Undecodable:
            return ConnectionFault(ErrorCode.COMPRESSION_ERROR, "a header block can't be decoded")


K = TypeVar("K")


def _remember(known: dict[K, Head[T]], key: K, head: Head[T], count_max: int) -> None:
    if len(known) >= count_max:
        known.clear()
    known[key] = head


def _is_all_references(block: bytes) -> bool:
    """Whether it only refers to fields of the table, each with one byte."""
    return min(block, default=0) >= _INDEXED


def check_request(fields: Fields) -> tuple[int, str]:
    """The content-length of a request, and what is wrong with its fields (8.3.1)."""
    fault = _check_names_and_values(fields, pseudo=_REQUEST_PSEUDO)
    if fault:
        return LENGTH_UNKNOWN, fault
    pseudo: dict[bytes, bytes] = {}
    content_length = LENGTH_UNKNOWN
    for name, value in fields:
        if name[0] == _COLON:
            if name in pseudo:
                return LENGTH_UNKNOWN, "a pseudo-header came twice"
            pseudo[name] = value
        elif name == b"content-length":
            if not value.isdigit() or len(value) > 18 or content_length not in {LENGTH_UNKNOWN, int(value)}:
                return LENGTH_UNKNOWN, "content-length is no number"
            content_length = int(value)
    if b":method" not in pseudo or not pseudo.get(b":path") or b":scheme" not in pseudo:
        return LENGTH_UNKNOWN, "a pseudo-header is missing"
    return content_length, ""


def _check_names_and_values(fields: Fields, *, pseudo: frozenset[bytes]) -> str:
    """8.2 and 8.2.2."""
    only_pseudo_so_far = True
    for name, value in fields:
        if name[:1] == b":":
            if name not in pseudo:
                return "an unknown pseudo-header"
            if not only_pseudo_so_far:
                return "a pseudo-header after another field"
        else:
            only_pseudo_so_far = False
            if not _NAME(name):
                return "a field name has characters that are not allowed"
            if name in _CONNECTION_FIELDS:
                return "a field that belongs to a connection of HTTP/1.1"
            if name == b"te" and value != b"trailers":
                return "te is something else than trailers"
        if _BAD_IN_VALUE(value):
            return "a field value has characters that are not allowed"
    return ""


def literal(name: bytes, value: bytes) -> bytes:
    """A field as a literal that no table remembers (RFC 7541, 6.2.2)."""
    return b"".join((b"\x00", _string_length(len(name)), name, _string_length(len(value)), value))


def _string_length(length: int) -> bytes:
    """An integer with a 7-bit prefix (5.1), no Huffman code."""
    if length < 0x7F:
        return bytes((length,))
    encoded = bytearray(b"\x7f")
    length -= 0x7F
    while length >= 0x80:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    encoded.append(length)
    return bytes(encoded)
