"""The APIs that a coordinator serves: what describes them, and their limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from coordinator.api import outcomes
from coordinator.api.call import Api
from proto.boathouse import moves_pb2, restore_pb2
from proto.etcd import election_pb2, lock_pb2, rpc_pb2
from proto.methods import METHODS, ApiName
from proto.regatta import maintenance_pb2, regatta_pb2, replication_pb2

if TYPE_CHECKING:
    from google.protobuf.descriptor import FileDescriptor

REGATTA_MESSAGE_BYTES_MAX: Final = 4 << 20
"""Regatta's limit for a request."""
LOAD_BYTES_MAX: Final = 64 << 20
"""Of a piece of a table that is restored: as a rule a megabyte, but a revision is never cut."""
GRPC_MESSAGE_BYTES_MAX: Final = 64 << 10
"""Of gRPC's own services: names."""
ETCD_HEADROOM_BYTES: Final = 512 << 10
"""etcd takes messages this much over its request limit, to refuse them with a better word."""

API_FILES: Final[tuple[FileDescriptor, ...]] = tuple(
    module.DESCRIPTOR
    for module in (
        rpc_pb2,
        lock_pb2,
        election_pb2,
        regatta_pb2,
        maintenance_pb2,
        replication_pb2,
        restore_pb2,
        moves_pb2,
    )
)

GRPC_FILES: Final[tuple[FileDescriptor, ...]] = (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR)
GRPC_SERVICES: Final = frozenset(
    {path.split("/")[1] for path, method in METHODS.items() if method.api is ApiName.GRPC}
)


def api_services() -> frozenset[str]:
    """Full names of all services of both APIs, built or not."""
    return frozenset(service.full_name for file in API_FILES for service in file.services_by_name.values())


def make_apis(request_bytes_max: int) -> dict[ApiName, Api]:
    """How each answers errors, and how large a message of it may be. request_bytes_max: etcd's limit for a request."""
    return {
        ApiName.ETCD: Api(outcomes=outcomes.ETCD, message_bytes_max=request_bytes_max + ETCD_HEADROOM_BYTES),
        ApiName.ETCD_ADMIN: Api(
            outcomes=outcomes.ETCD_ADMIN, message_bytes_max=request_bytes_max + ETCD_HEADROOM_BYTES
        ),
        ApiName.ETCD_CONCURRENCY: Api(
            outcomes=outcomes.ETCD_CONCURRENCY, message_bytes_max=request_bytes_max + ETCD_HEADROOM_BYTES
        ),
        ApiName.REGATTA: Api(outcomes=outcomes.REGATTA, message_bytes_max=REGATTA_MESSAGE_BYTES_MAX),
        ApiName.REGATTA_TABLES: Api(
            outcomes=outcomes.REGATTA_TABLES, message_bytes_max=REGATTA_MESSAGE_BYTES_MAX
        ),
        ApiName.BOATHOUSE: Api(outcomes=outcomes.ETCD, message_bytes_max=LOAD_BYTES_MAX),
        ApiName.GRPC: Api(outcomes=outcomes.GRPC, message_bytes_max=GRPC_MESSAGE_BYTES_MAX),
    }
