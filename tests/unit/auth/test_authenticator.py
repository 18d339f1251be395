"""What a client shows of himself, and logging in while users change."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from config import JwtConfig
from config.access import ReplicationConfig
from coordinator.api.call import ANYBODY, SYSTEM, Identity
from coordinator.api.credentials import NOBODY, Credentials
from coordinator.api.credentials import SYSTEM as THE_SYSTEM
from coordinator.api.local_call import LocalCall
from coordinator.auth import authenticator as module
from coordinator.auth.authenticator import Authenticator
from coordinator.auth.passwords import Passwords
from coordinator.auth.signed_tokens import SignedTokens
from coordinator.catalog.table_calls import Answer, Asked
from coordinator.replication.gate import Gate
from coordinator.replication.token_key import PASSED_ON_KEY, TOKEN_KEY, VOUCHED_KEY
from proto import errors
from proto.catalog import TableEntry
from proto.etcd import rpc_pb2 as etcd
from proto.ids import ShardId
from proto.internal import frames_pb2 as frames
from proto.tokens import digest_of, presented

if TYPE_CHECKING:
    from pathlib import Path

TABLE = TableEntry("t", 10_001, ShardId(1))
OTHER = TableEntry("other", 10_002, ShardId(1))


class FakeShard:
    """The users of one table, and what was asked about them."""

    def __init__(self, hash_: str = "") -> None:
        self.secret = frames.Secret(enabled=True, auth_revision=4, hash=hash_)
        self.changes = 0
        """How often anything changes between a look at a password and the login."""
        self.logins: list[frames.LogIn] = []
        self.rights: list[frames.Rights] = []
        """What replicas say, one after the other."""
        self.asked: list[bool] = []
        """Of rights: whether the leader was asked."""

    async def read(self, asked: Asked, *, linearizable: bool) -> Answer:
        if asked.method == frames.AUTH_RIGHTS:
            self.asked.append(linearizable)
            return Answer(asked.table, frames.Reply(body=self.rights.pop(0).SerializeToString()))
        assert asked.method == frames.AUTH_LOOK_UP
        assert linearizable
        assert not etcd.AuthenticateRequest.FromString(asked.body).password
        return Answer(asked.table, frames.Reply(body=self.secret.SerializeToString()))

    async def write(self, asked: Asked) -> Answer:
        assert asked.method == frames.AUTH_LOG_IN
        if self.changes:
            self.changes -= 1
            self.secret.auth_revision += 1
            raise errors.AuthOldRevision
        self.logins.append(frames.LogIn.FromString(asked.body))
        return Answer(asked.table, frames.Reply(body=frames.LoggedIn(index=17).SerializeToString()))


def call(identity: Identity = ANYBODY, **metadata: str) -> Any:
    return LocalCall((b"",), metadata=metadata, deadline=0.0, peer="test", identity=identity)


def make(
    shard: FakeShard,
    signed: SignedTokens | None = None,
    passwords: Passwords | None = None,
    tokens: Path | None = None,
) -> Authenticator:
    """tokens: of the clusters that follow this one."""
    calls: Any = shard
    gate = Gate(ReplicationConfig(token_file=tokens), lambda: 0.0)
    return Authenticator(calls, passwords or Passwords(cost=4), signed, gate)


def test_what_is_shown() -> None:
    who = make(FakeShard()).credentials
    assert who(call(), TABLE) is NOBODY
    token = Credentials(token=presented("abc.7"))
    assert who(call(token="abc.7"), TABLE) == token
    assert who(call(authorization="abc.7"), TABLE) == token
    assert who(call(authorization="Bearer abc.7"), TABLE) == token
    assert who(call(token="abc.7", authorization="other.8"), TABLE) == token
    assert who(call(SYSTEM), TABLE) is THE_SYSTEM
    certified = Identity(common_name="cn")
    assert who(call(certified), TABLE) == Credentials(user="cn")
    assert who(call(certified, token="abc.7"), TABLE) == token
    # What is empty is shown, and no token that there is; nor does anything else count beside it.
    empty = Credentials(token=presented(""))
    assert who(call(certified, token=""), TABLE) == empty
    assert who(call(certified, authorization=""), TABLE) == empty
    assert who(call(authorization="Bearer "), TABLE) == empty
    assert who(call(token="", authorization="abc.7"), TABLE) == empty


def test_a_signed_token_is_good_for_its_table_only(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"k" * 40)
    key.chmod(0o600)
    signed = SignedTokens(JwtConfig(sign_method="HS256", private_key=key))
    who = make(FakeShard(), signed).credentials
    token = signed.sign("u", table_id=TABLE.id, revision=7)
    assert who(call(token=token), TABLE) == Credentials(user="u", auth_revision=7)
    assert who(call(token=token), OTHER) == Credentials(token=presented(token))
    assert who(call(token=token + "x"), TABLE).user == ""


def log_in(shard: FakeShard, password: str = "right") -> str:
    async def within() -> str:
        passwords = Passwords(cost=4)
        try:
            shard.secret.hash = shard.secret.hash and await passwords.hash(shard.secret.hash)
            request = etcd.AuthenticateRequest(name="u", password=password)
            _, token = await make(shard, None, passwords).log_in(TABLE, request, 0.0)
            return token
        finally:
            passwords.close()

    return asyncio.run(within())


def test_a_login_makes_a_token_that_the_shard_never_sees() -> None:
    shard = FakeShard("right")
    letters, _, index = log_in(shard).partition(".")
    assert index == "17"
    (login,) = shard.logins
    assert (login.user, login.auth_revision, login.digest) == ("u", 4, digest_of(letters))
    assert letters.encode() not in login.SerializeToString()


def test_a_password_is_checked_again_when_users_change_meanwhile() -> None:
    shard = FakeShard("right")
    shard.changes = 2
    log_in(shard)
    assert shard.logins[0].auth_revision == 6
    shard = FakeShard("right")
    shard.changes = module.LOGIN_ATTEMPTS_MAX
    with pytest.raises(errors.AuthOldRevision):
        log_in(shard)


@pytest.mark.parametrize("shard", [FakeShard("right"), FakeShard()], ids=["wrong password", "no such user"])
def test_who_is_nobody_hears_no_more_than_that(shard: FakeShard) -> None:
    with pytest.raises(errors.AuthFailed):
        log_in(shard, "wrong")
    assert shard.logins == []


def test_there_is_nothing_to_log_in_to_while_it_is_off() -> None:
    shard = FakeShard("right")
    shard.secret.enabled = False
    with pytest.raises(errors.AuthNotEnabled):
        log_in(shard)


def test_a_replica_that_lags_is_not_believed() -> None:
    async def within() -> None:
        shard = FakeShard()
        who = Credentials(user="u")
        shard.rights = [frames.Rights(auth_version=4), frames.Rights(auth_version=7, user="u")]
        rights = await make(shard).rights(who, TABLE, 0.0, at_least=7)
        assert shard.asked == [False, True]
        assert rights.auth_version == 7
        assert not rights.readable.covers((b"a", b"b"))
        shard.rights = [frames.Rights(auth_version=9, user="u", readable=[frames.Span(key=b"a", open=True)])]
        assert (await make(shard).rights(who, TABLE, 0.0, at_least=7)).readable.covers((b"b", None))
        for everything in (frames.Rights(auth_version=8), frames.Rights(auth_version=9, root=True)):
            shard.rights = [everything]
            assert (await make(shard).rights(who, TABLE, 0.0)).readable.covers((b"", None))
        shard.rights = [frames.Rights(auth_version=9, user="u")]
        with pytest.raises(errors.AuthOldRevision):
            await make(shard).rights(Credentials(user="u", auth_revision=3), TABLE, 0.0)

    asyncio.run(within())


def test_a_follower_cluster_that_shows_its_token_is_believed_whose_call_it_is(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("token-of-the-island")
    file.chmod(0o600)
    shown = {TOKEN_KEY: "token-of-the-island", VOUCHED_KEY: "d8O2bGZl"}
    who = make(FakeShard(), tokens=file).credentials
    assert who(call(ANYBODY, **shown), TABLE) == Credentials(user="wölfe", passed_on=1)
    for wrong in ({VOUCHED_KEY: "d8O2bGZl"}, shown | {TOKEN_KEY: "token-of-somebody"}):
        with pytest.raises(errors.BadReplicationToken):
            who(call(ANYBODY, **wrong), TABLE)
    for unreadable in ("", "!", "/w"):
        with pytest.raises(errors.InvalidAuthToken):
            who(call(ANYBODY, **(shown | {VOUCHED_KEY: unreadable})), TABLE)
    # Where nobody is asked for a token, nobody is believed.
    with pytest.raises(errors.InvalidAuthToken):
        make(FakeShard()).credentials(call(ANYBODY, **shown), TABLE)


def test_a_follower_clusters_certificate_names_no_user() -> None:
    island = Identity(common_name="root")
    who = make(FakeShard()).credentials
    assert who(call(island), TABLE) == Credentials(user="root")
    assert who(call(island, **{TOKEN_KEY: "any"}), TABLE) is NOBODY
    for circles in ("", "-1", "1e3", "9" * 10, "٣"):
        with pytest.raises(errors.InvalidAuthToken):
            who(call(island, **{PASSED_ON_KEY: circles}), TABLE)
    assert who(call(island, **{PASSED_ON_KEY: "3"}), TABLE) == Credentials(passed_on=3)
