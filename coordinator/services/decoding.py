"""Request bytes to messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import DecodeError, Message

from proto import errors

if TYPE_CHECKING:
    from collections.abc import Callable

M = TypeVar("M", bound=Message)


def decode(from_string: Callable[[bytes], M], body: bytes) -> M:
    """The message in body. Raises MalformedRequest."""
    try:
        return from_string(body)
    except DecodeError as error:
        raise errors.MalformedRequest(str(error) or "it is no message of this method") from None
