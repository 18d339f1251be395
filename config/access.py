"""Who may connect, and how each side proves who it is: passwords, tokens, certificates, keys; and who copies whom."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from config.values import AbsolutePath, Model, Quota, node_path


class JwtConfig(Model):
    """Tokens that anybody with the public key can check, and nobody has to remember."""

    sign_method: Literal[
        "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
        "HS256", "HS384", "HS512",
    ]  # fmt: skip
    """How they are signed: RS and PS are RSA, ES is ECDSA, HS a secret that both sides have."""
    private_key: AbsolutePath | None = None
    """PEM file that signs, or the secret of HS. Nobody but its owner may read it. Without it nobody can log in here:
    tokens come from elsewhere."""
    public_key: AbsolutePath | None = None
    """PEM file that checks. Default: what belongs to private_key."""
    ttl_ms: Annotated[int, Field(ge=1_000, le=365 * 86_400_000)] = 300_000
    """Until a token expires. Any change of users or permissions ends it earlier."""

    @model_validator(mode="after")
    def _check(self) -> JwtConfig:
        if self.private_key is None and self.public_key is None:
            raise PydanticCustomError("jwt", "needs a private_key, or the public_key of who signs elsewhere")
        return self


class AuthConfig(Model):
    """How users prove who they are, in tables where authentication is enabled (`etcdctl auth enable`)."""

    token_ttl_ms: Annotated[int, Field(ge=1_000, le=86_400_000)] = 300_000
    """A token that is not used for so long ends."""
    jwt: JwtConfig | None = None
    """Answer logins with signed tokens. Default: with tokens that the cluster remembers, as etcd."""
    bcrypt_cost: Annotated[int, Field(ge=4, le=16)] = 10
    """Of hashing a password: one more doubles the time. etcd's default."""


class TokensConfig(Model):
    """What a client has to show as `authorization: Bearer TOKEN` for the APIs of who runs the cluster. Each is a file
    with the token in it, which nobody but its owner may be able to read; whoever shows it may do everything there, in
    every table. {node} stands for the name of the node that reads the file. Read when a process starts."""

    maintenance: AbsolutePath | None = None
    """For backup, restore and reset. Default: what each table asks of its users."""
    tables: AbsolutePath | None = None
    """For Regatta's API of tables: create, delete and list. Default: likewise."""

    def of_node(self, name: str) -> TokensConfig:
        """The same with a node's own paths."""
        return TokensConfig(
            maintenance=None if self.maintenance is None else node_path(self.maintenance, name),
            tables=None if self.tables is None else node_path(self.tables, name),
        )


class FollowsTlsConfig(Model):
    """TLS towards the leader cluster. In a path, {node} stands for the name of the node that reads the file. The files
    are read again when they change."""

    ca: AbsolutePath
    """Authorities in PEM, any of which has to have signed the leader cluster's certificates."""
    cert: AbsolutePath | None = None
    """Certificate in PEM to show there, if it asks for one, with those between it and the root behind it."""
    key: AbsolutePath | None = None
    """Its private key in PEM, without a password. Nobody but its owner may be able to read the file."""
    server_name: Annotated[str, Field(min_length=1)] | None = None
    """What the leader cluster's certificates are issued to, where that is not the host of each endpoint."""

    def of_node(self, name: str) -> FollowsTlsConfig:
        """The same with a node's own paths."""
        paths = {
            field: None if path is None else node_path(path, name)
            for field, path in (("ca", self.ca), ("cert", self.cert), ("key", self.key))
        }
        return self.model_copy(update=paths)


class FollowsConfig(Model):
    """Makes this a follower cluster, which copies its leader cluster's tables and serves reads and watches of them."""

    cluster: str
    """Name of the leader cluster. One that speaks no replication but Regatta's does not say how it is called; then this
    is what it is called here."""
    endpoints: Annotated[list[str], Field(min_length=1)]
    """host:port of coordinators of the leader cluster."""
    identity: Annotated[str, Field(pattern="^[0-9a-f]{32}$")] | None = None
    """Which cluster of that name: needed only to follow another one than before, as when it was made anew, and have the
    copies replaced by its tables. Without it the first one that answers is remembered, and no other is followed."""
    tls: FollowsTlsConfig | None = None
    """How it is reached, for copying and for writes that are passed on; none = in the clear."""
    token_file: AbsolutePath | None = None
    """File with the token that the leader cluster asks for (its `replication.token_file`), on the first line. Nobody
    but its owner may be able to read it. Read again when it changes."""

    def of_node(self, name: str) -> FollowsConfig:
        """The same with a node's own paths."""
        tls = None if self.tls is None else self.tls.of_node(name)
        token_file = None if self.token_file is None else node_path(self.token_file, name)
        return self.model_copy(update={"tls": tls, "token_file": token_file})

    def __str__(self) -> str:
        return f"cluster {self.cluster} at {', '.join(self.endpoints)}"


class ReplicationConfig(Model):
    """What this cluster asks of those that follow it, and does for them."""

    token_file: AbsolutePath | None = None
    """File with tokens, one a line: who copies has to show one of them. Nobody but its owner may be able to read it.
    Read again when it changes, so a new token can be let in before the old one goes. Default: none is asked for."""

    keep_bytes: Quota = 256 << 20
    """History of a table that is compacted, and that a follower cluster has not copied yet, is kept until so much was
    written to the table since that cluster last came further: bytes, also as 1GiB; 0 or none = nothing is kept, and who
    is behind takes a snapshot. Not where history is none. A disk or a table that is full keeps nothing either."""

    def of_node(self, name: str) -> ReplicationConfig:
        """The same with a node's own path."""
        path = None if self.token_file is None else node_path(self.token_file, name)
        return self.model_copy(update={"token_file": path})


class ClientTlsConfig(Model):
    """TLS of client_port and http_port. In a path, {node} stands for the name of the node that reads the file. The
    files are read again when they change."""

    cert: AbsolutePath
    """Certificate in PEM, with those between it and the root behind it."""
    key: AbsolutePath
    """Its private key in PEM, without a password. Nobody but its owner may be able to read the file."""
    ca: AbsolutePath | None = None
    """Authorities in PEM, any of which has to have signed a client's certificate."""
    client_cert_auth: bool = False
    """Clients have to show a certificate that `ca` has signed."""
    allowed_cn: Annotated[str, Field(min_length=1)] | None = None
    """Only a client certificate with exactly this common name."""
    allowed_hostname: Annotated[str, Field(min_length=1)] | None = None
    """Only a client certificate that is valid for this host name or IP address."""

    def of_node(self, name: str) -> ClientTlsConfig:
        """The same with a node's own paths."""
        paths = {"cert": node_path(self.cert, name), "key": node_path(self.key, name)}
        if self.ca is not None:
            paths["ca"] = node_path(self.ca, name)
        return self.model_copy(update=paths)


class PeerTlsConfig(Model):
    """Encryption between nodes, by CURVE: a key pair for each node, which `boathouse keygen` makes."""

    keys: AbsolutePath
    """Folder with NODE.public of every node, and of this machine's own nodes NODE.secret, which nobody but its owner
    may be able to read. Read when a process starts."""


class TlsConfig(Model):
    """Who may read what travels, and who may connect at all."""

    client: ClientTlsConfig | None = None
    """Between clients and coordinators; none = in the clear."""
    peer: PeerTlsConfig | None = None
    """Between nodes; none = in the clear, and anybody who reaches the ports is believed."""
