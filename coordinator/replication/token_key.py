"""What clusters show each other."""

from typing import Final

TOKEN_KEY: Final = "boathouse-replication-token"  # noqa: S105
"""Metadata of every call to another cluster, where the file names a token."""
VOUCHED_KEY: Final = "boathouse-user-bin"
"""Metadata of a write that a follower cluster passes on: whose it is, in UTF-8. Believed of who shows a token."""
MEANT_KEY: Final = "boathouse-meant-cluster"
"""Likewise: the identity of the cluster that it is meant for. Earlier versions don't look at it."""
PASSED_ON_KEY: Final = "boathouse-passed-on"
"""Metadata of every such write: by how many clusters it was passed on. It is nobody's if nobody is named beside this;
earlier versions, which don't know this, refuse to be told of nobody by name."""
