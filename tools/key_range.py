"""Key ranges as the etcd API writes them: [key, range_end), with \\0 for "no end". Pure."""

from __future__ import annotations

from proto.spans import OPEN_END

FIRST_KEY = b"\0"
"""As key of a range: from the first key on."""


def prefix_end(prefix: bytes) -> bytes:
    """The smallest key after all keys with this prefix, or OPEN_END."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else OPEN_END


def selected(key: bytes, *, range_end: bytes | None, prefix: bool, from_key: bool) -> tuple[bytes, bytes]:
    """key and range_end of a request for what a command line names. At most one of the three may be given."""
    assert (range_end is not None) + prefix + from_key <= 1
    if prefix:
        return key or FIRST_KEY, prefix_end(key)
    if from_key:
        return key or FIRST_KEY, OPEN_END
    return key, range_end or b""
