"""What etcds differ in by their version: the reference of the tests beside etcd may be any, and what one of them does
otherwise than boathouse, which goes by the latest 3.5, is named here and nowhere else.

The reference is the etcd that comes with the environment, or the one that BOATHOUSE_ETCD names."""

from __future__ import annotations

import functools
import re
import subprocess
from dataclasses import dataclass
from typing import Final

from tools.bench.systems import etcd_program

Version = tuple[int, int, int]

FIRST: Final = (0, 0, 0)
NEVER: Final = (99, 0, 0)


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that etcds of [since, until) do in their own way."""

    what: str
    since: Version = FIRST
    until: Version = NEVER

    @property
    def is_met(self) -> bool:
        """Whether the reference has it."""
        return self.since <= reference_version() < self.until


@functools.cache
def reference_version() -> Version:
    """Of the etcd that boathouse is held against."""
    told = subprocess.run(
        [etcd_program("etcd"), "--version"], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"etcd Version: (\d+)\.(\d+)\.(\d+)", told)
    assert found is not None, told
    return int(found[1]), int(found[2]), int(found[3])


FORGETS_DELETES_AT_COMPACTION: Final = Difference(
    "who watches from the very revision that was compacted is not told of a deletion in it", until=(3, 5, 18)
)
FORGETS_WHO_LEARNS: Final = Difference(
    "a learner whose URLs are updated is shown as a voter", until=(3, 5, 31)
)
FORGETS_PROGRESS: Final = Difference("a request for progress may stay without an answer", until=(3, 5, 13))
REFUSES_TOKENS_WITHOUT_AUTH: Final = Difference(
    "while authentication is off, a token that is none is refused", until=(3, 5, 10)
)
ASKS_LESS_OF_USERS: Final = Difference(
    "whoever is known may compact and see and end any lease, and what hides in a transaction within a transaction, or "
    "goes with a put in one, is not looked at",
    until=(3, 5, 33),
)

DIES_OF_UNKNOWN_TARGETS: Final = Difference(
    "a sort target that does not exist ends the process", until=(3, 6, 0)
)
REFUSES_UNKNOWN_ORDERS: Final = Difference(
    "a sort order that does not exist is refused, where 3.5 leaves the order of keys", since=(3, 6, 0)
)
CHECKS_OPERATIONS_IN_ANOTHER_ORDER: Final = Difference(
    "of several things that are wrong with a transaction's operations another one is told", since=(3, 6, 0)
)
SHOWS_WHAT_ROOT_MAY: Final = Difference(
    "the role root is shown with one permission, for everything", since=(3, 6, 0)
)
GOES_BACK_TO_ITS_OWN_PAST: Final = Difference(
    "another version is the one before, and what was never begun can be cancelled", since=(3, 6, 0)
)
TELLS_EVERYBODY_OF_AUTH: Final = Difference("AuthStatus asks nobody who he is", since=(3, 7, 0))
TRANSLATES_REFUSED_MAINTENANCE: Final = Difference(
    "who may not maintain is refused with the code of etcd's other errors, not UNKNOWN", since=(3, 6, 0)
)
SAYS_WHICH_REVISION_WAS_HASHED: Final = Difference("HashKV repeats the revision", since=(3, 6, 0))
STREAMS_RANGES: Final = Difference("there is KV.RangeStream", since=(3, 7, 0))
REFUSES_HASHES_AT_COMPACTION: Final = Difference(
    "HashKV does not answer for the very revision that was compacted", until=(3, 5, 10)
)
TELLS_OF_THE_COMPACTION_BEFORE: Final = Difference(
    "HashKV of one of the last revisions that were compacted is of what was there before, and names the compaction "
    "before that one",
    since=(3, 5, 10),
)
LEAVES_OUT_LEASES_OF_KEYS: Final = Difference("a range of keys alone names no leases", since=(3, 7, 0))
