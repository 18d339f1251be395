"""gRPC stubs made from a service's descriptor, as generated code would have them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from google.protobuf import message_factory

if TYPE_CHECKING:
    from types import ModuleType


def stub(channel: Any, module: ModuleType, service: str) -> Any:
    """An object with a callable per method of a service in a *_pb2 module, for a channel of grpc or grpc.aio."""
    described = module.DESCRIPTOR.services_by_name[service]
    calls = {}
    for method in described.methods:
        kind = "_".join(
            "stream" if streams else "unary" for streams in (method.client_streaming, method.server_streaming)
        )
        calls[method.name] = getattr(channel, kind)(
            f"/{described.full_name}/{method.name}",
            message_factory.GetMessageClass(method.input_type).SerializeToString,
            message_factory.GetMessageClass(method.output_type).FromString,
        )
    return SimpleNamespace(**calls)
