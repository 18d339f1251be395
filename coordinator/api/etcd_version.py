"""The etcd that we behave as. Clients compare it: kube-apiserver wants 3.5.13 at least."""

from typing import Final

VERSION: Final = "3.5.21"
CLUSTER_VERSION: Final = ".".join((*VERSION.split(".")[:2], "0"))
"""What all members of a cluster have in common."""

MINOR_BEFORE: Final = (3, 4)
"""What a cluster of that version could be downgraded to, were it etcd."""
