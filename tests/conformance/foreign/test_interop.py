"""grpc-go's interoperability client against the test service."""

from __future__ import annotations

import asyncio
import subprocess
from typing import TYPE_CHECKING

import pytest
import uvloop

from tests.conformance.foreign.service import serving

if TYPE_CHECKING:
    from pathlib import Path

CASE_S = 30
CASES = (
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "cancel_after_begin",
    "cancel_after_first_response",
    "timeout_on_sleeping_server",
    "custom_metadata",
    "status_code_and_message",
    "special_status_message",
    "unimplemented_method",
    "unimplemented_service",
)


@pytest.mark.parametrize("case", CASES)
def test_case(interop_client: Path, case: str) -> None:
    async def play() -> None:
        async with serving() as port:
            client = await asyncio.create_subprocess_exec(
                interop_client,
                "-server_host=127.0.0.1",
                f"-server_port={port}",
                f"-test_case={case}",
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            try:
                async with asyncio.timeout(CASE_S):
                    said, _ = await client.communicate()
            finally:
                if client.returncode is None:
                    client.kill()
                    await client.wait()
            assert client.returncode == 0, said.decode()

    uvloop.run(play())
