"""Reads a transaction as people write it for etcdctl: three sections with an empty line between them.

    mod("key1") > "0"
    value("key2") = "old"

    put key1 "new value"
    get key1 key9

    del key2 --prev-kv

First what must hold, then what happens if it does, then what happens otherwise; each may be empty, and later
ones may be missing. Lines that begin with # are comments. Text in double quotes takes \\n, \\t, \\", \\\\ and
\\xNN. Pure: text in, a TxnRequest out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from proto.etcd import rpc_pb2 as rpc
from tools.key_range import prefix_end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SECTIONS: Final = ("compares", "success requests", "failure requests")

_COMPARE = re.compile(
    r'(?P<target>[a-z]+)\((?P<key>"(?:[^"\\]|\\.)*"|[^")\s]+)\)\s*(?P<op>!=|=|<|>)\s*(?P<value>.+)'
)
_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"(?=\s|$)|(\S+)')
_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|(.))", re.DOTALL)
_ESCAPED: Final = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\"}
_RESULTS: Final = {
    "=": rpc.Compare.EQUAL,
    "!=": rpc.Compare.NOT_EQUAL,
    "<": rpc.Compare.LESS,
    ">": rpc.Compare.GREATER,
}


class TxnSyntaxError(ValueError):
    """The text is no transaction; says in which line, and what was expected there."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"line {line}: {message}")


def parse_txn(text: str) -> rpc.TxnRequest:
    """The transaction that a text describes. Raises TxnSyntaxError."""
    request = rpc.TxnRequest()
    section = 0
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.strip()
        if line.startswith("#"):
            continue
        if not line:
            # Empty lines before anything is written, too, end a section: an empty list of compares is common.
            section += 1
            continue
        if section >= len(SECTIONS):
            raise TxnSyntaxError(number, f"nothing may follow the three sections ({', '.join(SECTIONS)})")
        if section == 0:
            request.compare.append(_compare(number, line))
        else:
            (request.success if section == 1 else request.failure).append(_operation(number, line))
    return request


# ---- compares ----------------------------------------------------------------------------------------------


def _compare(number: int, line: str) -> rpc.Compare:
    match = _COMPARE.fullmatch(line)
    if match is None:
        raise TxnSyntaxError(number, f'expected a compare such as mod("key") > "0", got {line!r}')
    compare = rpc.Compare(key=_words(number, match["key"])[0][0], result=_RESULTS[match["op"]])
    values = [word for word, _ in _words(number, match["value"])]
    if len(values) != 1:
        raise TxnSyntaxError(number, "expected one value after the operator")
    value = values[0]
    match match["target"]:
        case "value" | "val":
            compare.target, compare.value = rpc.Compare.VALUE, value
        case "version" | "ver":
            compare.target, compare.version = rpc.Compare.VERSION, _integer(number, value)
        case "create" | "c":
            compare.target, compare.create_revision = rpc.Compare.CREATE, _integer(number, value)
        case "mod" | "m":
            compare.target, compare.mod_revision = rpc.Compare.MOD, _integer(number, value)
        case "lease":
            compare.target, compare.lease = rpc.Compare.LEASE, _integer(number, value)
        case other:
            raise TxnSyntaxError(number, f"can't compare {other!r}; use value, version, create, mod or lease")
    return compare


# ---- operations --------------------------------------------------------------------------------------------


def _operation(number: int, line: str) -> rpc.RequestOp:
    (verb, _), *rest = _words(number, line)
    # Quotes make a flag a word: put key "--value".
    flags = {word.partition(b"=")[0].decode(): word for word, quoted in rest if _is_flag(word, quoted)}
    words = [word for word, quoted in rest if not _is_flag(word, quoted)]
    build = _OPERATIONS.get(verb)
    if build is None:
        raise TxnSyntaxError(number, f"expected put, get or del, got {verb.decode(errors='replace')!r}")
    operation = build(number, words, flags)
    if flags:
        raise TxnSyntaxError(number, f"{verb.decode()} takes no {next(iter(flags))} here")
    return operation


def _is_flag(word: bytes, quoted: bool) -> bool:
    return word.startswith(b"--") and not quoted


def _put(number: int, words: list[bytes], flags: dict[str, bytes]) -> rpc.RequestOp:
    if len(words) != 2:
        raise TxnSyntaxError(number, "put takes a key and a value")
    prev_kv = flags.pop("--prev-kv", None) is not None
    return rpc.RequestOp(request_put=rpc.PutRequest(key=words[0], value=words[1], prev_kv=prev_kv))


def _get(number: int, words: list[bytes], flags: dict[str, bytes]) -> rpc.RequestOp:
    key, range_end = _range(number, "get", words, flags)
    limit = flags.pop("--limit", b"")
    return rpc.RequestOp(
        request_range=rpc.RangeRequest(
            key=key, range_end=range_end, limit=_integer(number, limit.partition(b"=")[2]) if limit else 0
        )
    )


def _delete(number: int, words: list[bytes], flags: dict[str, bytes]) -> rpc.RequestOp:
    key, range_end = _range(number, "del", words, flags)
    prev_kv = flags.pop("--prev-kv", None) is not None
    return rpc.RequestOp(
        request_delete_range=rpc.DeleteRangeRequest(key=key, range_end=range_end, prev_kv=prev_kv)
    )


_OPERATIONS: Final[dict[bytes, Callable[[int, list[bytes], dict[str, bytes]], rpc.RequestOp]]] = {
    b"put": _put,
    b"get": _get,
    b"del": _delete,
}


def _range(number: int, verb: str, words: list[bytes], flags: dict[str, bytes]) -> tuple[bytes, bytes]:
    if len(words) not in (1, 2):
        raise TxnSyntaxError(number, f"{verb} takes a key, or the two ends of a range")
    if flags.pop("--prefix", None) is None:
        return words[0], words[1] if len(words) == 2 else b""
    if len(words) == 2:
        raise TxnSyntaxError(number, "--prefix takes one key")
    return words[0] or b"\0", prefix_end(words[0])


# ---- words -------------------------------------------------------------------------------------------------


def _words(number: int, text: str) -> list[tuple[bytes, bool]]:
    """The words of a line, each with whether it was in quotes."""
    words: list[tuple[bytes, bool]] = []
    rest = text.lstrip()
    while rest:
        match = _WORD.match(rest)
        if match is None or (match[2] or "").startswith('"'):
            raise TxnSyntaxError(number, "a quote is not closed")
        quoted = match[1] is not None
        words.append((_unescape(number, match[1]) if quoted else match[2].encode(), quoted))
        rest = rest[match.end() :].lstrip()
    return words


def _unescape(number: int, text: str) -> bytes:
    return b"".join(_pieces(number, text))


def _pieces(number: int, text: str) -> Iterable[bytes]:
    position = 0
    for match in _ESCAPE.finditer(text):
        yield text[position : match.start()].encode()
        if match[1]:
            yield bytes([int(match[1], 16)])
        elif match[2] in _ESCAPED:
            yield _ESCAPED[match[2]].encode()
        else:
            raise TxnSyntaxError(number, f"unknown escape \\{match[2]}")
        position = match.end()
    yield text[position:].encode()


def _integer(number: int, word: bytes) -> int:
    try:
        value = int(word)
    except ValueError:
        raise TxnSyntaxError(
            number, f"expected a whole number, got {word.decode(errors='replace')!r}"
        ) from None
    if not -(2**63) <= value < 2**63:
        raise TxnSyntaxError(number, f"{value} is out of range")
    return value
