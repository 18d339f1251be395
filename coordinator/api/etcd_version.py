"""The etcd that we behave as. Clients compare it: kube-apiserver wants 3.5.13 at least."""

from typing import Final

VERSION: Final = "3.5.21"
CLUSTER_VERSION: Final = ".".join((*VERSION.split(".")[:2], "0"))
"""What all members of a cluster have in common."""
