"""What keeps Regatta's own restore, by which its follower clusters take snapshots, too, from losing anything: pure.

It gathers records until they come to half of its raft.max-in-mem-log-size, writes what it has, and leaves out the
record that came to it (tried with 0.5.2). So before one that would be that there goes a record that says
nothing, as large as what is missing, and is left out instead. Where another size is configured there it does no
harm, and no good. What is larger than that by itself nobody can bring there."""

from __future__ import annotations

from typing import Final

from proto.regatta import mvcc_pb2 as mvcc

GATHERED_BYTES: Final = 3 << 20
"""Of records, without their lengths; half of what Regatta is set to by default."""
LENGTH_BYTES: Final = 8


class Fillers:
    """Of one stream of records."""

    def __init__(self, table: bytes) -> None:
        self._empty = mvcc.Command(table=table, type=mvcc.Command.DUMMY)
        self._gathered_bytes = 0

    def before(self, record_bytes: int) -> bytes:
        """What goes before a record of this size, which does not count its length: mostly nothing."""
        missing_bytes = GATHERED_BYTES - self._gathered_bytes
        if record_bytes < missing_bytes:
            self._gathered_bytes += record_bytes
            return b""
        self._gathered_bytes = record_bytes if record_bytes < GATHERED_BYTES else 0
        filler = mvcc.Command(range_end=bytes(max(0, missing_bytes - self._empty.ByteSize())))
        filler.MergeFrom(self._empty)
        record = filler.SerializeToString()
        return len(record).to_bytes(LENGTH_BYTES, "little") + record
