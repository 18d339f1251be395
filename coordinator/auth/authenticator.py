"""Who makes a call, and what he may do where a shard can't say: for methods that no shard sees, and for watches.

What a client shows goes to the shard with his request, and the shard refuses him or does not. So nothing is asked here
where authentication is off, and nobody keeps a second list of users that could be old.
"""

from __future__ import annotations

from base64 import b64decode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from coordinator.api.credentials import NOBODY, SYSTEM, Credentials
from coordinator.auth.table_users import bare, shown_token
from coordinator.catalog.table_calls import Asked
from coordinator.replication.token_key import PASSED_ON_KEY, VOUCHED_KEY
from coordinator.replication.token_key import TOKEN_KEY as REPLICATION_TOKEN_KEY
from coordinator.shards import request_ids
from proto import errors, tokens
from proto.auth_version import is_enabled, revision_of
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from proto.spans import EVERYTHING, SpanSet

if TYPE_CHECKING:
    from coordinator.api.call import Call
    from coordinator.auth.passwords import Passwords
    from coordinator.auth.signed_tokens import SignedTokens
    from coordinator.catalog.table_calls import Answer, TableCalls
    from coordinator.replication.gate import Gate
    from proto.catalog import TableEntry

LOGIN_ATTEMPTS_MAX: Final = 5
"""Users that change all the time while one of them logs in: then it is for him to try again."""

PASSED_ON_DIGITS_MAX: Final = 9

Need = frames.RightsRequest.Need


@dataclass(frozen=True, slots=True)
class Rights:
    """What one user may read, at one auth version of a table (frames.TableChanges)."""

    auth_version: int
    user: str
    """Who he is; empty where nobody asks."""
    readable: SpanSet

    @property
    def asks(self) -> bool:
        """Whether the table has authentication enabled."""
        return is_enabled(self.auth_version)


class Authenticator:
    """For all tables of this coordinator."""

    def __init__(
        self, calls: TableCalls, passwords: Passwords, signed: SignedTokens | None, gate: Gate
    ) -> None:
        """signed: None = tokens are simple ones. gate: which clusters are believed when they say whose call it is."""
        self._gate = gate
        self._calls = calls
        self._passwords = passwords
        self._signed = signed

    def credentials(self, call: Call, table: TableEntry) -> Credentials:
        """What the client of this call has shown: a token, or else the certificate of his connection. For one of a
        follower cluster that cluster has looked. Raises BadReplicationToken, InvalidAuthToken."""
        metadata = call.metadata
        if VOUCHED_KEY in metadata or PASSED_ON_KEY in metadata:
            return self._passed_on(call)
        shown = shown_token(metadata)
        if shown is not None:
            return self._of_token(bare(shown), table)
        identity = call.identity
        if identity.is_system:
            return SYSTEM
        if REPLICATION_TOKEN_KEY in metadata:
            return NOBODY  # a cluster: its certificate is for the connection, and names no user
        return Credentials(user=identity.common_name) if identity.common_name else NOBODY

    def asked(
        self,
        call: Call,
        table: TableEntry,
        method: frames.Method.ValueType,
        *,
        body: bytes | None = None,
        deadline: float | None = None,
    ) -> Asked:
        """What the call asks of the table, in the name of its client. body, deadline: the call's, if they are not
        given. Raises what credentials() does."""
        return Asked(
            table,
            method,
            call.body if body is None else body,
            call.deadline if deadline is None else deadline,
            self.credentials(call, table),
            call.metadata.get(request_ids.METADATA_KEY),
            call.peer,
        )

    def _passed_on(self, call: Call) -> Credentials:
        self._gate.check(call)
        encoded = call.metadata.get(VOUCHED_KEY)
        passed_on = _number(call.metadata.get(PASSED_ON_KEY, "1"))
        if encoded is None:
            return Credentials(passed_on=passed_on)  # to be nobody takes no belief
        try:
            user = b64decode(encoded + "=" * (-len(encoded) % 4), validate=True).decode()
        except ValueError:
            user = ""
        if not self._gate.asks or not user:
            raise errors.InvalidAuthToken
        return Credentials(user=user, passed_on=passed_on)

    def _of_token(self, token: str, table: TableEntry) -> Credentials:
        claims = None if self._signed is None else self._signed.check(token)
        if claims is None or claims.table_id != table.id:
            # Perhaps a simple one; else it is one that the shard does not know.
            return Credentials(token=tokens.presented(token))
        return Credentials(user=claims.user, auth_revision=claims.revision)

    async def rights(
        self,
        who: Credentials,
        table: TableEntry,
        deadline: float,
        *,
        need: Need.ValueType = frames.RightsRequest.USER,
        at_least: int = 0,
        linearizable: bool = False,
    ) -> Rights:
        """What he may read now, and not before this auth version of the table unless its leader knows of none so new.
        Otherwise than linearizable it is what the nearest replica says.

        Raises UserEmpty, UserNotFound or PermissionDenied if he is not what is needed, InvalidAuthToken, and
        AuthOldRevision for a proof that is older than the users as they are."""
        body = frames.RightsRequest(need=need).SerializeToString()
        asked = Asked(table, frames.AUTH_RIGHTS, body, deadline, who)
        _, reply = await self._calls.read(asked, linearizable=linearizable)
        said = frames.Rights.FromString(reply.body)
        if said.auth_version < at_least:
            # The nearest replica lags; the leader doesn't.
            _, reply = await self._calls.read(asked, linearizable=True)
            said = frames.Rights.FromString(reply.body)
        if not is_enabled(said.auth_version) or said.root or who.is_system:
            return Rights(said.auth_version, said.user, EVERYTHING)
        if 0 < who.auth_revision < revision_of(said.auth_version):
            raise errors.AuthOldRevision
        spans = ((span.key, None if span.open else span.end) for span in said.readable)
        return Rights(said.auth_version, said.user, SpanSet(spans))

    # ---- passwords --------------------------------------------------------------------------------------------------

    async def hashed(self, password: str, salt: bytes | None) -> str:
        """salt: see Passwords.hash. Raises PasswordTooLong, TooManyLogins."""
        return await self._passwords.hash(password, salt)

    async def log_in(
        self, table: TableEntry, request: etcd.AuthenticateRequest, deadline: float
    ) -> tuple[Answer, str]:
        """A new token, and the answer that its header comes from.

        Raises AuthNotEnabled, AuthFailed, NoPasswordUser, TooManyLogins; AuthOldRevision if users change all the
        time."""
        for _ in range(LOGIN_ATTEMPTS_MAX):
            found = await self._look_up(table, request.name, deadline)
            secret = frames.Secret.FromString(found.reply.body)
            if not secret.enabled:
                raise errors.AuthNotEnabled
            if secret.no_password:
                raise errors.NoPasswordUser
            if not await self._passwords.matches(
                request.name, request.password, secret.hash, usual_cost=secret.usual_cost
            ):
                raise errors.AuthFailed
            if self._signed is not None:
                return found, self._signed.sign(
                    request.name, table_id=found.table.id, revision=secret.auth_revision
                )
            letters = tokens.draw_letters()
            login = frames.LogIn(
                user=request.name, auth_revision=secret.auth_revision, digest=tokens.digest_of(letters)
            )
            asked = Asked(found.table, frames.AUTH_LOG_IN, login.SerializeToString(), deadline, NOBODY)
            try:
                answer = await self._calls.write(asked)
            except errors.AuthOldRevision:
                continue
            return answer, f"{letters}.{frames.LoggedIn.FromString(answer.reply.body).index}"
        raise errors.AuthOldRevision

    async def _look_up(self, table: TableEntry, name: str, deadline: float) -> Answer:
        body = etcd.AuthenticateRequest(name=name).SerializeToString()
        asked = Asked(table, frames.AUTH_LOOK_UP, body, deadline, NOBODY)
        return await self._calls.read(asked, linearizable=True)


def _number(text: str) -> int:
    """Raises InvalidAuthToken."""
    if not (text.isascii() and text.isdecimal() and len(text) <= PASSED_ON_DIGITS_MAX):
        raise errors.InvalidAuthToken
    return int(text)
