"""Which cluster that answers is one to copy from."""

from __future__ import annotations

import pytest

from config import FollowsConfig
from coordinator.replication.leader import Unfit, check_identity
from proto.regatta.replication_pb2 import MetadataResponse

OLD, NEW = "a" * 32, "b" * 32


def follows(identity: str | None = None) -> FollowsConfig:
    return FollowsConfig(cluster="harbour", endpoints=["h1:1"], identity=identity)


def test_the_first_one_that_answers_is_followed_and_no_other_of_its_name() -> None:
    check_identity(MetadataResponse(cluster="harbour", identity=OLD), follows(), "")
    check_identity(MetadataResponse(cluster="harbour", identity=OLD), follows(), OLD)
    with pytest.raises(Unfit, match=f"follows.identity: {NEW}"):
        check_identity(MetadataResponse(cluster="harbour", identity=NEW), follows(), OLD)
    with pytest.raises(Unfit, match="'reef' answers"):
        check_identity(MetadataResponse(cluster="reef", identity=OLD), follows(), "")


def test_what_the_file_says_counts_more_than_what_is_remembered() -> None:
    check_identity(MetadataResponse(cluster="harbour", identity=NEW), follows(NEW), OLD)
    with pytest.raises(Unfit):
        check_identity(MetadataResponse(cluster="harbour", identity=OLD), follows(NEW), OLD)


def test_an_earlier_version_goes_by_its_name() -> None:
    check_identity(MetadataResponse(cluster="harbour"), follows(), OLD)
