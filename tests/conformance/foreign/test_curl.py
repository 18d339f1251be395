"""curl against one port: HTTP/1.1 and, with prior knowledge, HTTP/2."""

from __future__ import annotations

import asyncio
import shutil
import subprocess

import pytest
import uvloop

from tests.conformance.foreign.service import serving

CURL_S = 20


async def curl(*arguments: str, stdin: bytes = b"") -> bytes:
    """What curl says."""
    program = shutil.which("curl")
    if program is None:
        pytest.fail("there is no `curl` on the PATH: install curl with HTTP/2", pytrace=False)
    process = await asyncio.create_subprocess_exec(
        program,
        "--silent",
        "--max-time",
        str(CURL_S),
        *arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    said, _ = await process.communicate(stdin)
    assert process.returncode == 0
    return said


def test_both_protocols_on_one_port() -> None:
    async def scenario() -> None:
        said = ("--write-out", "%{http_version} %{response_code}")
        as_grpc = ("--http2-prior-knowledge", "-H", "content-type: application/grpc", "-H", "te: trailers")
        async with serving() as port:
            base = f"http://127.0.0.1:{port}"
            assert await curl(f"{base}/", *said) == b"1.1 200"
            empty = b"\0\0\0\0\0"
            call = (*as_grpc, "--data-binary", "@-", f"{base}/grpc.testing.TestService/EmptyCall")
            assert await curl(*call, *said, stdin=empty) == empty + b"2 200"
            head = await curl(*call, "--dump-header", "-", "--output", "/dev/null", stdin=empty)
            assert b"grpc-status: 0\r\n" in head.lower()
            # A browser's kind of question, by HTTP/2, is no call.
            assert await curl("--http2-prior-knowledge", f"{base}/", *said) == b"2 405"
            # The upgrade that HTTP/2 once had is not taken up, and not an error.
            assert await curl("--http2", f"{base}/", *said) == b"1.1 200"

    uvloop.run(scenario())
