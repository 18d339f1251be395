"""What a value of the cluster file can be: sizes, times, ports, paths. A complaint says what it must be."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, TypeGuard

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator
from pydantic_core import PydanticCustomError


class Model(BaseModel):
    """Frozen, and without room for a key that is not its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True)


QUOTA_BYTES_MAX: Final = 1 << 62
QUOTA_WORDS: Final = "none, a number of bytes, or one with KiB, MiB, GiB or TiB: 2GiB"
HISTORY_MAX: Final = 2**31 - 1
"""Revisions that a table can be asked to keep by number."""
SIZE_UNITS: Final = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SIZE: Final = re.compile(rf"([0-9]{{1,19}}) ?({'|'.join(SIZE_UNITS)})")
_TIME_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600}
_TIME: Final = re.compile(rf"([0-9]{{1,9}})([{''.join(_TIME_UNITS_S)}])")
_URL: Final = re.compile(r"https?://[^\s/]+(/\S*)?")


def size_of(text: str) -> int | None:
    """Bytes of a size as 512KiB or 20 MiB; None for what is none."""
    found = _SIZE.fullmatch(text)
    return None if found is None else int(found[1]) * SIZE_UNITS[found[2]]


def seconds_of(text: str) -> int | None:
    """Of a time as 90s, 30m or 1h; None for what is none."""
    found = _TIME.fullmatch(text)
    return None if found is None else int(found[1]) * _TIME_UNITS_S[found[2]]


def is_history(value: object) -> bool:
    """Whether a table can be asked to keep that: all, none, or a number of revisions."""
    return value in ("all", "none") or (_is_number(value) and 1 <= value <= HISTORY_MAX)


def _is_number(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_history(value: object) -> object:
    if is_history(value):
        return value
    raise PydanticCustomError("history", "must be all, none, or a number of revisions from 1")


def _check_ports(value: object) -> object:
    ports = list(value.values()) if isinstance(value, Mapping) else [value]
    good = all(_is_number(port) and 1 <= port <= 65535 for port in ports)
    if value is not None and not (good and ports):
        raise PydanticCustomError("ports", "must be a port, or ports by node as in {n1: 2479}")
    return value


def _check_sockets(value: object) -> Path | dict[str, Path] | None:
    if value is None:
        return None
    if isinstance(value, Mapping) and value and all(isinstance(path, str | Path) for path in value.values()):
        return {node: _absolute(Path(path)) for node, path in value.items()}
    if isinstance(value, str | Path):
        return _absolute(Path(value))
    raise PydanticCustomError("sockets", "must be a path, or paths by node as in {n1: /run/boathouse/users}")


def _check_retention(value: object) -> object:
    if (seconds_of(value) or 0) > 0 if isinstance(value, str) else _is_number(value) and 1 <= value < 2**62:
        return value
    raise PydanticCustomError("retention", "must be a number of revisions, or a time as 90s, 30m or 1h")


def quota_of(value: object) -> int | None:
    """Bytes that a table may hold, 0 = as much as the disk; None for what says nothing of the kind."""
    if value == "none":
        return 0
    if isinstance(value, str):
        value = size_of(value) or None  # 0MiB is a slip
    return value if _is_number(value) and 0 <= value < QUOTA_BYTES_MAX else None


def _check_quota(value: object) -> object:
    size_bytes = quota_of(value)
    if size_bytes is None:
        raise PydanticCustomError("quota", f"must be {QUOTA_WORDS}")
    return size_bytes


def _check_url(url: str) -> str:
    if _URL.fullmatch(url) is None:
        raise PydanticCustomError("url", "must be a URL as http://127.0.0.1:4318")
    return url


def _absolute(path: Path) -> Path:
    if "\0" in str(path):
        raise ValueError("must not hold a zero byte")
    try:
        absolute = Path(os.path.abspath(path.expanduser()))
    except RuntimeError as error:
        raise ValueError(str(error)) from None
    except FileNotFoundError:
        raise ValueError(
            "is relative, and the working directory is gone; change to one that exists"
        ) from None
    try:
        str(absolute).encode()
    except UnicodeEncodeError:
        raise ValueError("its path has to be UTF-8 text; choose another folder") from None
    return absolute


def node_path(path: Path, name: str) -> Path:
    """With {node} for the name of the node that reads it."""
    return Path(str(path).replace("{node}", name))


def empty_if_none(value: object) -> object:
    """A key without a value stands for a mapping that says nothing."""
    return {} if value is None else value


AbsolutePath = Annotated[Path, Field(strict=False), AfterValidator(_absolute)]
Bytes = Annotated[int, Field(ge=1, lt=2**40)]
History = Annotated[int | Literal["all", "none"], PlainValidator(_check_history)]
Milliseconds = Annotated[int, Field(ge=1, le=86_400_000)]
NumberedKey = Annotated[int, Field(strict=False)]
"""JSON has no other keys than text."""
Port = Annotated[int, Field(ge=1, le=65535)]
PortsByNode = Annotated[int | dict[str, int] | None, PlainValidator(_check_ports)]
Quota = Annotated[int, PlainValidator(_check_quota)]
Retention = Annotated[int | str, PlainValidator(_check_retention)]
SocketsByNode = Annotated[Path | dict[str, Path] | None, PlainValidator(_check_sockets)]
Url = Annotated[str, AfterValidator(_check_url)]
