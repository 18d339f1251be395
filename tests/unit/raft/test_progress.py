"""What a leader believes about a peer."""

from __future__ import annotations

import pytest

from shardworker.raft import LogIndex
from shardworker.raft.progress import Inflights, PeerState, Progress
from tests.unit.raft.replica import settings_of


def progress(match: int, next_index: int, state: PeerState = PeerState.PROBE) -> Progress:
    made = Progress(
        settings_of(1), match=LogIndex(match), next_index=LogIndex(next_index), recent_active=True
    )
    made.state = state
    return made


def test_the_window_is_full_by_count_or_by_bytes() -> None:
    window = Inflights(2, 100)
    window.add(LogIndex(1), 10)
    assert not window.full
    window.add(LogIndex(2), 10)
    assert window.full
    window.free_to(LogIndex(1))
    assert not window.full
    window.add(LogIndex(3), 90)
    assert window.full
    window.free_to(LogIndex(3))
    assert (len(window), window.full) == (0, False)


def test_one_message_larger_than_the_window_fits_an_empty_one() -> None:
    window = Inflights(10, 100)
    assert not window.full
    window.add(LogIndex(1), 1000)
    assert window.full


def test_an_acknowledgement_moves_both_ends() -> None:
    peer = progress(3, 5)
    assert peer.maybe_update(LogIndex(6))
    assert (peer.match, peer.next) == (6, 7)
    assert not peer.maybe_update(LogIndex(4))
    assert (peer.match, peer.next) == (6, 7)


@pytest.mark.parametrize(
    ("state", "rejected", "hint", "believed", "next_index"),
    [
        (PeerState.REPLICATE, 9, 9, True, 6),
        (PeerState.REPLICATE, 5, 5, False, 10),
        (PeerState.REPLICATE, 4, 4, False, 10),
        (PeerState.PROBE, 9, 7, True, 8),
        (PeerState.PROBE, 9, 100, True, 9),
        (PeerState.PROBE, 9, 2, True, 6),
        (PeerState.PROBE, 8, 2, False, 10),
        (PeerState.SNAPSHOT, 9, 2, False, 10),
    ],
)
def test_backing_off(state: PeerState, rejected: int, hint: int, believed: bool, next_index: int) -> None:
    """Old refusals are not believed, and nobody backs off behind what is known to match."""
    peer = progress(5, 10, state)
    assert peer.maybe_back_off(rejected=LogIndex(rejected), hint=LogIndex(hint)) is believed
    assert peer.next == next_index
    assert peer.match < peer.next


def test_after_a_snapshot_the_probe_starts_behind_it() -> None:
    peer = progress(2, 3)
    peer.become_snapshot(LogIndex(50))
    peer.become_probe()
    assert peer.next == 51
    peer.become_snapshot(LogIndex(50))
    peer.pending_snapshot = LogIndex(0)
    peer.become_probe()
    assert peer.next == 3
