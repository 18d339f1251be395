"""What is stored of the results of an entry, so that its requests can be answered once more.

A row of `results` has the ids, the fingerprints and the revisions of all commands, each column of one width, and then a
StoredResults, which takes no byte if all went well and nothing was answered. The bytes of answers are in a row of their
own, since they leave earlier (window.py, which says how long either stays).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from proto import errors
from proto.internal import frames_pb2 as frames
from proto.methods import REQUEST_ID_BYTES
from shardworker.machine.checked_rows import CheckedRows
from shardworker.machine.handler import Result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import apsw

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS results (
    log_index INTEGER PRIMARY KEY,
    time_ms INTEGER NOT NULL,      -- of its batch
    age_clock_ms INTEGER NOT NULL, -- see window.STEP_MS_MAX
    commands INTEGER NOT NULL,
    data BLOB NOT NULL,            -- see encode
    crc INTEGER NOT NULL           -- of all that, checked whenever the row is read
) STRICT;
CREATE TABLE IF NOT EXISTS answers (
    log_index INTEGER PRIMARY KEY,
    data BLOB NOT NULL,            -- the bodies of an entry's answers, glued together
    crc INTEGER NOT NULL           -- of all that, checked whenever the row is read
) STRICT;
"""

RESULTS: Final = CheckedRows(
    "results",
    {"log_index": int, "time_ms": int, "age_clock_ms": int, "commands": int, "data": bytes},
    "the results of log index {0}",
)
ANSWERS: Final = CheckedRows("answers", {"log_index": int, "data": bytes}, "the answers of log index {0}")
_REVISION: Final = struct.Struct("<q")

FINGERPRINT_BYTES: Final = 8

ANSWER_KEPT_BYTES_MAX: Final = 4 << 20
"""A larger answer is given once and not kept. Part of the replicated behaviour."""


class Remembered(NamedTuple):
    """What is known of a request that was applied."""

    fingerprint: bytes
    result: Result


def encode(fresh: Mapping[bytes, Remembered]) -> tuple[bytes, bytes]:
    """The row of an entry, and the bodies that are kept beside it."""
    results = [result for _, result in fresh.values()]
    columns = [
        *fresh,
        *[fingerprint for fingerprint, _ in fresh.values()],
        *[_REVISION.pack(result[0]) for result in results],
    ]
    bodies = b""
    if any(result[1] or result[2] is not None for result in results):
        rest, bodies = _encode_rest(results)
        columns.append(rest.SerializeToString())
    return b"".join(columns), bodies


def _encode_rest(results: list[Result]) -> tuple[frames.StoredResults, bytes]:
    rest = frames.StoredResults()
    bodies = [result.body for result in results]
    for place, result in enumerate(results):
        error = result.error
        if error is not None:
            rest.errors.add(place=place, error=error.frame_code, detail=error.detail)
        elif len(result.body) > ANSWER_KEPT_BYTES_MAX:
            rest.unkept.append(place)
            bodies[place] = b""
    together = b"".join(bodies)
    if together:
        rest.body_bytes.extend([len(body) for body in bodies])
    return rest, together


def read_outcomes(connection: apsw.Connection, index: int) -> dict[bytes, tuple[int, str]]:
    """By request id, the revision and the error's name, if there was one, of the commands that this entry was the first
    to bring; of one that is remembered no longer, nothing. Raises Corrupt."""
    found = RESULTS.find(connection, "WHERE log_index = ?", (index,))
    if found is None:
        return {}
    *_, commands, data = found
    start = (REQUEST_ID_BYTES + FINGERPRINT_BYTES) * commands
    revisions = struct.unpack_from(f"<{commands}q", data, start)
    rest = frames.StoredResults.FromString(data[start + _REVISION.size * commands :])
    wrong = {one.place: type(errors.from_frame(one.error, one.detail)).__name__ for one in rest.errors}
    return {
        request_id: (revisions[place], wrong.get(place, ""))
        for place, request_id in enumerate(ids_of(data, commands))
    }


def remembered(
    data: bytes, commands: int, request_id: bytes, answers: Callable[[], bytes | None]
) -> Remembered:
    """What the row of an entry says of one of its requests. answers: the bodies that are kept beside it, if any are."""
    place = ids_of(data, commands).index(request_id)
    fingerprints = data[REQUEST_ID_BYTES * commands :]
    fingerprint = fingerprints[place * FINGERPRINT_BYTES : (place + 1) * FINGERPRINT_BYTES]
    revisions = fingerprints[FINGERPRINT_BYTES * commands :]
    (revision,) = _REVISION.unpack_from(revisions, _REVISION.size * place)
    rest = frames.StoredResults.FromString(revisions[_REVISION.size * commands :])
    return Remembered(fingerprint, _result(place, revision, rest, answers))


def _result(
    place: int, revision: int, rest: frames.StoredResults, answers: Callable[[], bytes | None]
) -> Result:
    for failed in rest.errors:
        if failed.place == place:
            return Result(revision, b"", errors.from_frame(failed.error, failed.detail))
    if place in rest.unkept:
        return Result(revision, b"", errors.AnswerForgotten())
    if not rest.body_bytes or not rest.body_bytes[place]:
        return Result(revision, b"")
    bodies = answers()
    if bodies is None:
        return Result(revision, b"", errors.AnswerForgotten())
    start = sum(rest.body_bytes[:place])
    return Result(revision, bodies[start : start + rest.body_bytes[place]])


class StoredEntry(NamedTuple):
    """The results of one entry, as they are stored."""

    log_index: int
    age_ms: int
    """Since then, by the clock of ages."""
    commands: int
    data: bytes
    answers: bytes
    """Empty if none are kept."""


def stored_entries(connection: apsw.Connection, after: int) -> Iterator[StoredEntry]:
    """The entries behind this log index, in their order, of a connection's own state. Raises Corrupt."""
    now_ms = read_age_clock_ms(connection)
    for row in RESULTS.all(connection, "WHERE log_index > ? ORDER BY log_index", (after,)):
        index, _, age_clock_ms, commands, data = row
        found = ANSWERS.find(connection, "WHERE log_index = ?", (index,))
        answers = b"" if found is None else found[1]
        yield StoredEntry(index, now_ms - age_clock_ms, commands, data, answers)


def read_age_clock_ms(connection: apsw.Connection) -> int:
    """ResultWindow.age_clock_ms as this connection sees it. Raises Corrupt."""
    newest = RESULTS.find(connection, "ORDER BY log_index DESC LIMIT 1")
    return 0 if newest is None else newest[2]


def ids_of(data: bytes, commands: int) -> list[bytes]:
    return [
        data[at : at + REQUEST_ID_BYTES] for at in range(0, commands * REQUEST_ID_BYTES, REQUEST_ID_BYTES)
    ]


def found_row(row: tuple[Any, ...] | None) -> tuple[Any, ...]:
    """What a query for a row has found that must be there. Raises Corrupt if it is not."""
    if row is None:
        raise errors.Corrupt("a row of remembered results or answers is missing")
    return row
