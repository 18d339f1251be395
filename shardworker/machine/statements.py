"""The statements that work on a table's rows (tables.py says what is in them), composed once for each table.

Reading the past starts at a key's newest change and follows `prev`. An index over (key, id) would find a far past
faster, but takes half of all put time (DESIGN.md has the figures).
"""

from __future__ import annotations

CHANGE_BYTES = 64
"""What a change counts in its table's size beside its key and pair: about what ids, checksum and the place among the
live keys take."""


class TableSql:
    """The statements of one table, composed once: the driver finds prepared statements by their text."""

    __slots__ = (
        "add_change",
        "add_dead",
        "all_attached",
        "attached",
        "attached_count",
        "attached_from",
        "attached_leases",
        "bury_span",
        "change",
        "changed_keys",
        "changes",
        "changes_and_heads",
        "dead",
        "dead_of_many",
        "dead_span",
        "delete_change",
        "delete_dead",
        "delete_live",
        "delete_replaced",
        "drop_changed",
        "drop_dead",
        "drop_live",
        "exported",
        "exported_old",
        "get_kv",
        "heads",
        "history",
        "key_after",
        "kill_attached",
        "kill_span",
        "killed",
        "live",
        "live_count",
        "live_name",
        "live_newer",
        "live_of_many",
        "live_rows",
        "newest_change",
        "pairs",
        "probe",
        "removed_bytes",
        "replaced_bytes",
        "sample",
        "scan",
        "set_live",
        "sweep",
        "sweep_tombstones",
    )

    def __init__(self, table_id: int) -> None:
        rev, live, dead = f"t{table_id}_rev", f"t{table_id}_live", f"t{table_id}_dead"
        self.live_name = live
        self.live = f"SELECT id, create_revision, version, lease FROM {live} WHERE key = ?"
        self.get_kv = f"SELECT r.kv FROM {live} l CROSS JOIN {rev} r ON r.id = l.id WHERE l.key = ?"
        self.change = f"SELECT kv, prev FROM {rev} WHERE id = ?"
        self.dead = f"SELECT id FROM {dead} WHERE key = ?"
        self.live_of_many = (
            "SELECT l.id, l.create_revision, l.version, l.lease, l.key"
            f" FROM carray(?) asked CROSS JOIN {live} l ON l.key = asked.value"
        )
        self.dead_of_many = (
            f"SELECT d.id, d.key FROM carray(?) asked CROSS JOIN {dead} d ON d.key = asked.value"
        )
        self.add_change = f"INSERT INTO {rev} (id, key, kv, prev, crc) VALUES (?, ?, ?, ?, ?)"
        self.set_live = (
            f"REPLACE INTO {live} (key, id, create_revision, version, lease) VALUES (?, ?, ?, ?, ?)"
        )
        self.add_dead = f"INSERT INTO {dead} (key, id) VALUES (?, ?)"
        self.delete_live = f"DELETE FROM {live} WHERE key = ?"
        self.delete_dead = f"DELETE FROM {dead} WHERE key = ?"
        self.delete_change = f"DELETE FROM {rev} WHERE id = ?"
        self.drop_dead = f"DELETE FROM {dead} WHERE key = ? AND id = ?"
        self.delete_replaced = (
            f"DELETE FROM {rev} WHERE id IN"
            f" (SELECT prev FROM {rev} WHERE id >= ? AND id < ? AND prev NOTNULL)"
        )
        size = f"ifnull(sum(length(r.key) + ifnull(length(r.kv), 0) + {CHANGE_BYTES}), 0)"
        self.removed_bytes = f"SELECT {size} FROM carray(?) gone CROSS JOIN {rev} r ON r.id = gone.value"
        self.replaced_bytes = (
            f"SELECT {size} FROM {rev} s CROSS JOIN {rev} r ON r.id = s.prev WHERE s.id >= ? AND s.id < ?"
        )
        # Statements over a span come in two texts, with and without an upper bound, so that the planner sees it.
        self.scan = {
            bounded: (
                "SELECT count(*), cast(group_concat(kv, '') AS BLOB) FROM (SELECT r.kv"
                f" FROM {live} l CROSS JOIN {rev} r ON r.id = l.id WHERE l.key >= ?"
                f"{' AND l.key < ?' if bounded else ''} ORDER BY l.key LIMIT -1)"
            )
            for bounded in (True, False)
        }
        self.pairs = f"SELECT l.id, r.kv FROM {live} l CROSS JOIN {rev} r ON r.id = l.id ORDER BY l.key"
        self.key_after = _both(f"SELECT key FROM {live} WHERE key >= ?{{}} ORDER BY key LIMIT 1 OFFSET ?")
        self.live_count = _both(f"SELECT count(*) FROM {live} WHERE key >= ?{{}}")
        self.live_rows = _both(f"SELECT id, create_revision, version, lease FROM {live} WHERE key >= ?{{}}")
        self.probe = _both(f"SELECT count(*) FROM (SELECT 1 FROM {live} WHERE key >= ?{{}} LIMIT ?)")
        self.sample = _both(
            f"SELECT avg(length(r.kv)) FROM (SELECT id FROM {live} WHERE key >= ?{{}} LIMIT ?) l"
            f" CROSS JOIN {rev} r ON r.id = l.id"
        )
        self.heads = _both(
            f"SELECT key, id FROM {live} WHERE key >= ?{{}} UNION ALL "
            f"SELECT key, id FROM {dead} WHERE key >= ?{{}} AND id >= ? ORDER BY key"
        )
        self.live_newer = _both(f"SELECT id FROM {live} WHERE key >= ?{{}} AND id >= ?")
        self.dead_span = _both(f"SELECT id FROM {dead} WHERE key >= ?{{}} AND id >= ?")
        self.kill_span = _both(
            f"INSERT INTO {rev} (id, key, kv, prev) "
            f"SELECT ? + row_number() OVER (ORDER BY key), key, NULL, id FROM {live} WHERE key >= ?{{}} ORDER BY key"
        )
        leased = f"{live} INDEXED BY t{table_id}_leased WHERE lease = ? AND lease <> 0"
        self.attached = f"SELECT key FROM {leased} ORDER BY key LIMIT ?"
        self.attached_from = f"SELECT key FROM {leased} AND key >= ? ORDER BY key LIMIT 1"
        self.all_attached = f"SELECT key FROM {live} INDEXED BY t{table_id}_leased WHERE lease <> 0"
        self.attached_leases = (
            f"SELECT DISTINCT lease FROM {live} INDEXED BY t{table_id}_leased WHERE lease <> 0 ORDER BY lease"
        )
        self.attached_count = f"SELECT count(*) FROM (SELECT 1 FROM {leased} LIMIT ?)"
        self.kill_attached = (
            f"INSERT INTO {rev} (id, key, kv, prev) SELECT ? + row_number() OVER (ORDER BY key), key, NULL, id"
            f" FROM (SELECT key, id FROM {leased} ORDER BY key LIMIT ?) ORDER BY key"
        )
        self.drop_changed = (
            f"DELETE FROM {live} WHERE key IN (SELECT key FROM {rev} WHERE id >= ? AND id < ?)"
        )
        self.bury_span = f"INSERT INTO {dead} (key, id) SELECT key, id FROM {rev} WHERE id >= ? AND id < ?"
        self.killed = {
            True: f"SELECT r.key, p.kv FROM {rev} r LEFT JOIN {rev} p ON p.id = r.prev WHERE r.id >= ? AND r.id < ?"
            " ORDER BY r.id",
            False: f"SELECT key, NULL FROM {rev} WHERE id >= ? AND id < ? ORDER BY id",
        }
        self.changed_keys = f"SELECT key FROM {rev} WHERE id >= ? AND id < ? ORDER BY id"
        self.drop_live = _both(f"DELETE FROM {live} WHERE key >= ?{{}}")
        self.history = {
            True: (
                f"SELECT r.id, r.key, r.kv, p.kv FROM {rev} r LEFT JOIN {rev} p ON p.id = r.prev"
                " WHERE r.id >= ? ORDER BY r.id"
            ),
            False: f"SELECT id, key, kv, NULL FROM {rev} WHERE id >= ? ORDER BY id",
        }
        self.changes = f"SELECT id, key, kv, NULL FROM {rev} WHERE id >= ? AND id < ? ORDER BY id LIMIT ?"
        self.changes_and_heads = (
            f"SELECT r.id, r.key, r.kv, ifnull(l.id, d.id) FROM {rev} r LEFT JOIN {live} l ON l.key = r.key"
            f" LEFT JOIN {dead} d ON d.key = r.key WHERE r.id >= ? AND r.id < ? ORDER BY r.id LIMIT ?"
        )
        self.exported = (
            f"SELECT id, key, kv, crc, NULL FROM {rev} WHERE id >= ? AND id < ? ORDER BY id LIMIT ?"
        )
        self.exported_old = (
            f"SELECT r.id, r.key, r.kv, r.crc, ifnull(l.id, d.id) FROM {rev} r LEFT JOIN {live} l ON l.key = r.key"
            f" LEFT JOIN {dead} d ON d.key = r.key WHERE r.id >= ? AND r.id < ? ORDER BY r.id LIMIT ?"
        )
        self.newest_change = f"SELECT max(id) FROM {rev}"
        self.sweep = (
            f"SELECT id, key, kv ISNULL, prev FROM {rev} WHERE id >= ? AND id < ? ORDER BY id LIMIT ?"
        )
        self.sweep_tombstones = (
            f"SELECT id, key FROM {rev} WHERE id >= ? AND id < ? AND kv ISNULL ORDER BY id LIMIT ?"
        )


def _both(text: str) -> dict[bool, str]:
    """The statement for a span with an upper bound (True) and without (False)."""
    return {True: text.replace("{}", " AND key < ?"), False: text.replace("{}", "")}


_sql: dict[int, TableSql] = {}


def table_sql(table_id: int) -> TableSql:
    found = _sql.get(table_id)
    if found is None:
        found = _sql[table_id] = TableSql(table_id)
    return found


def forget_table_sql(table_id: int) -> None:
    """The table is gone for good."""
    _sql.pop(table_id, None)
