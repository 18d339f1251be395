"""Which replica of a shard a request goes to: a pure view, fed with what the links hear.

Every replica says of itself which term it is in and whom it believes to be the leader. Those beliefs disagree for a
moment after each election, so a shard's leader is worked out from all of them: the claim with the highest term wins,
unless the claimed replica is out of reach, or says itself, in a term as new, that it does not lead. The last rule
matters when a leader has just restarted or stepped down and its followers have not noticed yet.

Not handled here, on purpose: a replica that cannot be reached from this node although it leads. Its requests wait
until the link is back, another leader is elected, or their deadline passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from proto.ids import NodeId

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class _Belief:
    term: int
    leader: NodeId | None


class ShardRoutes:
    """What this coordinator knows about the replicas of one shard."""

    def __init__(self, *, nodes: Sequence[NodeId] = (), local: NodeId) -> None:
        """nodes hold a replica each; local is this coordinator's node, which need not be one of them."""
        self._nodes = tuple(nodes)
        self._local = local
        self._beliefs: dict[NodeId, _Belief] = {}
        self._connected: set[NodeId] = set()
        self._term_shown = 0
        self.leader: NodeId | None = None
        """The replica to send writes and linearizable reads to; None = wait."""

    @property
    def nodes(self) -> tuple[NodeId, ...]:
        """The nodes that hold a replica."""
        return self._nodes

    def add_node(self, node: NodeId) -> None:
        """node holds a replica from now on."""
        self._nodes = (*self._nodes, node)

    def remove_node(self, node: NodeId) -> None:
        """node, whose link is down, holds no replica any more."""
        self._nodes = tuple(other for other in self._nodes if other != node)

    @property
    def leader_believed(self) -> NodeId | None:
        """The newest belief about who leads, reachable or not."""
        claims = [
            (belief.term, belief.leader) for belief in self._beliefs.values() if belief.leader is not None
        ]
        return max(claims)[1] if claims else None

    @property
    def is_led(self) -> bool:
        """Whether the replica here knows a leader, or any if there is none here.

        As with a member of etcd: what a replica that is cut off last said counts for as long as its link seems to be
        up, and the one here is the first to notice."""
        here = self._beliefs.get(self._local)
        return (here.leader if here is not None else self.leader_believed) is not None

    def is_connected(self, node: NodeId) -> bool:
        """Whether the link to this node's replica is up."""
        return node in self._connected

    def handle_connected(self, node: NodeId) -> bool:
        """The link to node is up. Returns whether `leader` changed, as do the next two."""
        self._connected.add(node)
        return self._elect()

    def handle_disconnected(self, node: NodeId) -> bool:
        """The link to node is down; what that replica believed is forgotten."""
        self._connected.discard(node)
        self._beliefs.pop(node, None)
        return self._elect()

    def handle_belief(self, node: NodeId, *, term: int, leader: int) -> bool:
        """The replica on node is in this term and believes in this leader (0 = none, as frames have it).

        Beliefs of one replica arrive in order on one link, but a refusal can overtake an announcement inside one
        envelope: an older term is ignored."""
        known = self._beliefs.get(node)
        if known is not None and term < known.term:
            return False
        self._beliefs[node] = _Belief(term, NodeId(leader) if leader else None)
        return self._elect()

    def _elect(self) -> bool:
        leader: NodeId | None = None
        leader_term = -1
        for node in sorted(self._beliefs):
            belief = self._beliefs[node]
            if belief.term > leader_term and self._is_credible(belief):
                leader, leader_term = belief.leader, belief.term
        changed = leader != self.leader
        self.leader = leader
        return changed

    def _is_credible(self, claim: _Belief) -> bool:
        if claim.leader is None or claim.leader not in self._connected:
            return False
        own = self._beliefs.get(claim.leader)
        return own is None or own.leader == claim.leader or own.term < claim.term

    def nearest(self, *, avoid: NodeId | None = None) -> NodeId | None:
        """The replica for a read that may be stale: the local one if it is up, else the leader, else any.

        avoid is the replica that has just refused; it is taken only by waiting for it (None)."""
        for node in (self._local, self.leader, *self._nodes):
            if node is not None and node != avoid and node in self._connected:
                return node
        return None

    def term_shown(self, term: int) -> int:
        """The term for a response header, which never goes down."""
        if term > self._term_shown:
            self._term_shown = term
        return self._term_shown
