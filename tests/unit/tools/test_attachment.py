"""What is done to a cluster that is known by endpoints alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from config.process.names import ProcessName
from tests.unit.tui.clusters import healthy
from tools.admin import attachment
from tools.admin.attachment import EndpointAttachment, NotDone
from tools.admin.quorum import Verb
from tools.admin.reach import IN_THE_CLEAR

if TYPE_CHECKING:
    from tools.admin.snapshot import Snapshot


class OneNodeSeen:
    """A source of a cluster of which one node alone is listed, whoever leads."""

    def __init__(self, *_: object) -> None:
        """Asks nobody."""

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def poll(self) -> Snapshot:
        whole = healthy()
        return replace(whole, nodes=[node for node in whole.nodes if node.name == "n3"])


def test_a_leader_that_is_not_listed_is_not_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attachment, "CoordinatorSource", OneNodeSeen)
    with EndpointAttachment(["127.0.0.1:1"], IN_THE_CLEAR) as attached:
        shard = attached.poll().shard(1)
        assert shard is not None
        assert shard.leader not in (None, "n3")
        with pytest.raises(NotDone, match=f"{shard.leader}, which leads shard 1, is not among the nodes"):
            attached.act(Verb.MOVE_LEADER, ProcessName.replica("n3", 1), shard.leader, force=False)
