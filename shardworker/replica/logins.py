"""Who makes a request, for tables with authentication enabled; and the end of tokens that nobody uses.

A token is a row of the shard, so every replica knows its user. When it was last used is known here only, since a write
for each use would cost more than the use: the leader proposes to drop what it has not seen for a while, the others tell
it what they have seen, and a new leader begins to count anew. So a token may live longer after an election, and never
ends while it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proto import errors
from proto.internal import frames_pb2 as frames
from shardworker.machine import NOBODY, SYSTEM, Who
from shardworker.raft import NEVER_TICKS, Role
from shardworker.replica.part import Part

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shardworker.raft import NodeId, Term
    from shardworker.replica.part import ReplicaContext
    from shardworker.replica.proposals import Proposals

LOOKS: Final = 10
"""How often unused tokens are looked for within the time that they may be unused."""


class Logins(Part):
    """The users of one replica's requests."""

    def __init__(self, context: ReplicaContext, proposals: Proposals) -> None:
        self._core = context.core
        self._machine = context.machine
        self._outgoing = context.outgoing
        self._proposals = proposals
        self._unused_ticks_max = max(1, context.cluster.auth.token_ttl_ms // context.cluster.raft.tick_ms)
        self._ticks = 0
        self._used: dict[tuple[int, bytes], int] = {}
        self._term: Term | None = None
        """In which this replica has counted as leader."""

    def identify(self, request: frames.Request) -> Who:
        """Whose request it is, by what he may do now. Raises InvalidAuthToken.

        Where authentication is off nobody asks, and a bad token is as good as none."""
        table_id = request.table_id
        if table_id not in self._machine.auth.guarded:
            return NOBODY
        if request.system:
            return SYSTEM
        revision = self._machine.auth.of(table_id).revision
        if request.token:
            user = self._machine.auth.tokens(table_id).get(request.token)
            if user is None:
                raise errors.InvalidAuthToken
            self._used[table_id, request.token] = self._ticks
            return Who(user, revision)
        return Who(request.user, request.auth_revision or revision) if request.user else NOBODY

    def take_down(self, request: frames.Request) -> None:
        """Put down in a write whose it is, as the log is to hold it. Raises InvalidAuthToken, and UserEmpty for what is
        not worth a log entry, since everybody would refuse it."""
        who = self.identify(request)
        if not who.user and request.table_id in self._machine.auth.guarded:
            self._machine.check_may_be_anybodys(request.method)
        request.user, request.auth_revision = who.user, who.revision

    # ---- unused tokens ----------------------------------------------------------------------------------------------

    def handle(self, identity: bytes, envelope: frames.Envelope) -> None:
        for used in envelope.tokens_used:
            self._used[used.table_id, used.token] = self._ticks

    @property
    def _ticks_between(self) -> int:
        return max(1, self._unused_ticks_max // LOOKS)

    def tick(self) -> None:
        self._ticks += 1
        if not self._machine.auth.guarded:
            self._used.clear()
            return
        leads = self._core.role is Role.LEADER
        if leads and self._term != self._core.term:
            self._used.clear()  # what the last leader has seen of them is not known here
        self._term = self._core.term if leads else None
        if self._ticks % self._ticks_between:
            return
        if leads:
            self._drop_unused()
        elif self._used and self._core.leader:
            self._tell(self._core.leader)

    def ticks_until_action(self) -> int:
        if not self._machine.auth.guarded or not (self._used or self._core.role is Role.LEADER):
            return NEVER_TICKS
        return self._ticks_between - self._ticks % self._ticks_between

    def _tell(self, leader: NodeId) -> None:
        """What this replica has answered without the leader."""
        uses = [frames.TokenUse(table_id=table_id, token=token) for table_id, token in self._used]
        self._outgoing.send_peer(leader, frames.Envelope(tokens_used=uses))
        self._used.clear()

    def _drop_unused(self) -> None:
        used: dict[tuple[int, bytes], int] = {}
        for table_id in sorted(self._machine.auth.guarded):
            dropped = []
            for token in self._machine.auth.tokens(table_id):
                at = self._used.get((table_id, token), self._ticks)
                used[table_id, token] = at
                if self._ticks - at > self._unused_ticks_max:
                    dropped.append(token)
            if dropped:
                self._proposals.add_own(
                    frames.AUTH_DROP_TOKENS,
                    frames.Tokens(tokens=dropped).SerializeToString(),
                    table_id=table_id,
                )
        self._used = used

    def statistics(self) -> Mapping[str, int]:
        auth = self._machine.auth
        return {"tokens": sum([len(auth.tokens(table_id)) for table_id in auth.guarded])}
