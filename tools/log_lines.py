"""Lines of a process's log as people read them. Pure.

A process writes one JSON object a line: for machines, and so that nothing of it has to be guessed. For people the
moment, the level and the words come first and then what belongs to them, one line an event; what went wrong in the
program is shown below it as Python shows it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SAID_FIRST: Final = ("timestamp", "level", "event")
LEVEL_WIDTH: Final = 7
"""Of `warning`."""


def readable(line: str) -> str:
    """What the line says; one that is no event of ours, a crash for instance, is left as it is."""
    try:
        event = json.loads(line)
    except ValueError:
        return line
    if not isinstance(event, dict) or "event" not in event:
        return line
    exception = event.pop("exception", None)
    moment = str(event.get("timestamp", "")).replace("T", " ")
    level = str(event.get("level", "")).ljust(LEVEL_WIDTH)
    facts = "".join(f" {name}={_value(value)}" for name, value in event.items() if name not in SAID_FIRST)
    first = f"{moment} {level} {event['event']}{' ' + facts if facts else ''}"
    return "\n".join((first, *_traceback(exception)))


def _value(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return json.dumps(text, ensure_ascii=False) if " " in text or not text else text


def _traceback(exceptions: Any) -> Iterator[str]:
    """Of structlog's ExceptionDictTransformer: the cause first, as Python does."""
    for exception in reversed(exceptions if isinstance(exceptions, list) else []):
        yield "    Traceback (most recent call last):"
        for frame in exception.get("frames", ()):
            yield f"      {_place(frame)}"
        yield f"    {exception.get('exc_type')}: {exception.get('exc_value')}"


def _place(frame: Mapping[str, Any]) -> str:
    return f"{frame.get('filename')}:{frame.get('lineno')} in {frame.get('name')}"
