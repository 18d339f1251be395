"""Key pairs of the connections between nodes, and the files that hold them.

A node has one pair, which all its processes use: as a server towards whoever connects by tcp, and as a client towards
other nodes. A file is one line of 40 characters, ZeroMQ's way (Z85) of writing 32 bytes.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import zmq

from proto.internal.keys import is_key

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

KEY_FILE_BYTES_MAX: Final = 1_000


class BadKeyFile(Exception):
    """A file with a key is missing, open to others, or holds no key. The text says which, and what to do."""


@dataclass(slots=True)
class PeerKeys:
    """What a process of a node needs to talk to other nodes, and to know them: nobody else is let in."""

    public: bytes
    secret: bytes = field(repr=False)
    of_file: Mapping[int, bytes]
    """Public keys by node id, of those that the cluster file names. They do not change."""
    of_members: Mapping[int, bytes] = field(default_factory=dict)
    """The same, of nodes that came later, by the word of the shards that they are members of."""

    @classmethod
    def load(
        cls, folder: Path, own: str, nodes: Mapping[str, int], of_members: Mapping[int, bytes] | None = None
    ) -> PeerKeys:
        """The keys in a folder, for the node `own`; nodes: the ids of all by name. Raises BadKeyFile."""
        of_file = {number: read_public(folder, name) for name, number in nodes.items()}
        public = of_file[nodes[own]]
        return cls(public, read_secret(folder, own, public), of_file, of_members or {})

    def of(self, node: int) -> bytes | None:
        """A node's public key, if it is known. What the file says goes before what members say."""
        return self.of_file.get(node) or self.of_members.get(node)

    def is_known(self, public: bytes) -> bool:
        """Whether a public key is a node's."""
        return public in self.of_file.values() or any(
            public == key and node not in self.of_file for node, key in self.of_members.items()
        )


def public_file(folder: Path, node: str) -> Path:
    """Where a node's public key is."""
    return folder / f"{node}.public"


def secret_file(folder: Path, node: str) -> Path:
    """Where a node's secret key is."""
    return folder / f"{node}.secret"


def read_public(folder: Path, node: str) -> bytes:
    """A node's public key. Raises BadKeyFile."""
    return _read(public_file(folder, node))


def read_secret(folder: Path, node: str, public: bytes) -> bytes:
    """The secret key that belongs to a node's public one. Raises BadKeyFile."""
    path = secret_file(folder, node)
    secret = _read(path)
    if reason := exposure_of(path):
        raise BadKeyFile(reason)
    if zmq.curve_public(secret) != public:
        raise BadKeyFile(f"{path} does not belong to {public_file(folder, node)}; copy both again")
    return secret


def exposure_of(path: Path) -> str:
    """Why a file is no place for a secret: who else can read it, and what to do; "" if nobody.

    The group may read what belongs to root: that is how administrators hand keys to a service."""
    found = path.stat()
    tolerated = stat.S_IRGRP if found.st_uid == 0 and os.getuid() != 0 else 0
    if found.st_mode & 0o077 & ~tolerated:
        return f"{path} can be used by others than its owner; chmod 600 it"
    return ""


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            key = file.read(KEY_FILE_BYTES_MAX).strip()
    except OSError as error:
        raise BadKeyFile(f"{path} can't be read: {error.strerror}") from None
    if not is_key(key):
        raise BadKeyFile(f"{path} holds no key of 40 characters; `boathouse keygen` makes one")
    return key
