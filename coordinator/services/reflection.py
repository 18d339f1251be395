"""grpc.reflection, v1 and v1alpha: the .proto files of what is served, for clients such as grpcurl that have none.

The two versions differ in their package's name alone, so one set of messages serves both and the newer file is made of
the older. Descriptors come from a pool of their own: the process's own pool has its internal frames too, which are
nobody's business. It is built when the first client asks.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection_pb2

from coordinator.services.decoding import decode
from proto.codes import Code

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from google.protobuf.descriptor import FileDescriptor

    from coordinator.api.call import Call, Handler

SERVICES: Final = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


class Reflection:
    """ServerReflectionInfo, of both versions."""

    def __init__(self, services: Iterable[str], files: Iterable[FileDescriptor]) -> None:
        """services: full names of those that are served. files declare them; what they import is shown with them."""
        self._services = sorted(services)
        self._files = tuple(files)

    @property
    def handlers(self) -> dict[str, Handler]:
        """By path."""
        return {f"/{service}/ServerReflectionInfo": self.answer_all for service in SERVICES}

    async def answer_all(self, call: Call) -> None:
        """One answer for each question, in order. What can't be answered is an answer as well."""
        told: set[str] = set()
        async for message in call.messages():
            request = decode(reflection_pb2.ServerReflectionRequest.FromString, message)
            response = self._answer(request, told)
            response.valid_host = request.host
            response.original_request.CopyFrom(request)
            await call.send(response.SerializeToString())

    def _answer(
        self, request: reflection_pb2.ServerReflectionRequest, told: set[str]
    ) -> reflection_pb2.ServerReflectionResponse:
        """told: names of the files that this client has got; it needs none twice."""
        pool = self._pool
        asked = request.WhichOneof("message_request")
        try:
            match asked:
                case "file_by_filename":
                    return _files(pool.FindFileByName(request.file_by_filename), told)
                case "file_containing_symbol":
                    return _files(_file_of(pool, request.file_containing_symbol), told)
                case "file_containing_extension":
                    extended = pool.FindMessageTypeByName(request.file_containing_extension.containing_type)
                    number = request.file_containing_extension.extension_number
                    extension = pool.FindExtensionByNumber(extended, number)
                    return _files(_file_of(pool, extension.full_name), told)
                case "all_extension_numbers_of_type":
                    name = request.all_extension_numbers_of_type
                    found = pool.FindAllExtensions(pool.FindMessageTypeByName(name))
                    numbers = sorted(extension.number for extension in found)
                    answer = reflection_pb2.ExtensionNumberResponse(
                        base_type_name=name, extension_number=numbers
                    )
                    return reflection_pb2.ServerReflectionResponse(all_extension_numbers_response=answer)
                case "list_services":
                    services = [reflection_pb2.ServiceResponse(name=name) for name in self._services]
                    return reflection_pb2.ServerReflectionResponse(
                        list_services_response=reflection_pb2.ListServiceResponse(service=services)
                    )
                case _:
                    return _error(Code.INVALID_ARGUMENT, "the request asks for nothing that is known here")
        except KeyError:
            return _error(Code.NOT_FOUND, f"not found: {getattr(request, str(asked))}".strip())

    @functools.cached_property
    def _pool(self) -> descriptor_pool.DescriptorPool:
        pool = descriptor_pool.DescriptorPool()
        told: set[str] = set()
        for file in (*self._files, reflection_pb2.DESCRIPTOR):
            for needed in _with_imports(file, told):
                pool.AddSerializedFile(needed.serialized_pb)
        pool.AddSerializedFile(_v1_file())
        return pool


def _file_of(pool: descriptor_pool.DescriptorPool, symbol: str) -> FileDescriptor:
    """Raises KeyError."""
    try:
        return pool.FindFileContainingSymbol(symbol)
    except KeyError:  # the pool's index has no methods
        return pool.FindMethodByName(symbol).containing_service.file


def _with_imports(file: FileDescriptor, told: set[str]) -> Iterator[FileDescriptor]:
    """The file and all it imports, imports first, without those already told; they are told then."""
    if file.name not in told:
        told.add(file.name)
        for imported in file.dependencies:
            yield from _with_imports(imported, told)
        yield file


def _files(file: FileDescriptor, told: set[str]) -> reflection_pb2.ServerReflectionResponse:
    """The file that was asked for first, even if it was told before: an empty answer would say that there is none."""
    others = [imported for imported in _with_imports(file, told) if imported.name != file.name]
    serialized = [each.serialized_pb for each in (file, *others)]
    return reflection_pb2.ServerReflectionResponse(
        file_descriptor_response=reflection_pb2.FileDescriptorResponse(file_descriptor_proto=serialized)
    )


def _error(code: Code, text: str) -> reflection_pb2.ServerReflectionResponse:
    return reflection_pb2.ServerReflectionResponse(
        error_response=reflection_pb2.ErrorResponse(error_code=code, error_message=text)
    )


def _v1_file() -> bytes:
    """The description of v1: v1alpha's under another name."""
    file = descriptor_pb2.FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
    old, new = ".grpc.reflection.v1alpha.", ".grpc.reflection.v1."
    file.name = "grpc/reflection/v1/reflection.proto"
    file.package = new.strip(".")
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(old, new)
    for service in file.service:
        for method in service.method:
            method.input_type = method.input_type.replace(old, new)
            method.output_type = method.output_type.replace(old, new)
    return file.SerializeToString()
