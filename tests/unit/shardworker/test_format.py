"""What a database of another form holds is refused by its version, before anything in it is taken for damage."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from shardworker.store.records import FORMAT_VERSION
from tests.unit.raft.replica import members
from tests.unit.shardworker.bench import Bench

if TYPE_CHECKING:
    from pathlib import Path

FORM: Final = (4, "eafd033110422201")
"""A version, and the digest of all tables' columns and indexes in it."""


def test_a_change_of_the_tables_is_another_format_version(tmp_path: Path) -> None:
    bench = Bench(tmp_path, members(1))
    rows: Any = bench.store.connection.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL")
    bare = sorted(re.sub(r"\s+", " ", re.sub(r"--.*", "", sql)) for (sql,) in rows)
    bench.store.close()
    digest = sha256("\n".join(bare).encode()).hexdigest()[:16]
    assert (FORMAT_VERSION, digest) == FORM, (
        "raise FORMAT_VERSION in shardworker/store/records.py, and note both here; the digest alone if there is only a"
        " table more, which is made where it lacks and which builds without it may pass over"
    )
