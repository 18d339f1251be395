"""h2spec: 145 questions on RFC 7540 and 7541."""

from __future__ import annotations

import asyncio
import subprocess
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import uvloop

from tests.conformance.foreign.service import serving

if TYPE_CHECKING:
    from pathlib import Path

RUN_S = 240
FAILED_MAX = 25
"""As many as fail on etcd 3.5."""

NO_BODY = "expects DATA; h2spec asks by GET, which is no gRPC call, and is refused without a body"
KNOWN = {
    "generic/2: Sends a WINDOW_UPDATE frame on half-closed (remote) stream": NO_BODY,
    "generic/2: Sends a PRIORITY frame on half-closed (remote) stream": NO_BODY,
    "http2/3.5: Sends invalid connection preface": (
        "expects nothing but the end of the connection; what is no preface is taken for HTTP/1.1 and told so"
    ),
    "http2/5.1.2: Sends HEADERS frames that causes their advertised concurrent stream limit to be exceeded": (
        "expects requests to be still open when the next comes; each is refused at once, so there are never two"
    ),
}
"""Why each case that fails does, by its section and description."""

EARLY = {
    "http2/6.1: Sends a DATA frame with invalid pad length",
    "http2/6.9: Sends a WINDOW_UPDATE frame with a flow control window increment of 0 on a stream",
    "http2/6.9.1: Sends multiple WINDOW_UPDATE frames increasing the flow control window to above 2^31-1 on a stream",
    "http2/8.1: Sends a second HEADERS frame without the END_STREAM flag",
    "http2/8.1.2.1: Sends a HEADERS frame that contains a pseudo-header field as trailers",
    (
        'http2/8.1.2.6: Sends a HEADERS frame with the "content-length" header field which does not equal the '
        "DATA frame payload length"
    ),
    (
        'http2/8.1.2.6: Sends a HEADERS frame with the "content-length" header field which does not equal the sum '
        "of the multiple DATA frames payload length"
    ),
}
"""Cases that fail if their second frame comes in a later read than their first. They begin a request, by GET, and then
break a rule within it. The request is refused before, by an answer and RST_STREAM, and what was on its way then is let
pass unread (RFC 9113, 8.1)."""


async def run(h2spec: Path, report: Path) -> str:
    async with serving() as port:
        program = await asyncio.create_subprocess_exec(
            h2spec,
            f"--port={port}",
            "--timeout=6",
            f"--junit-report={report}",
            "--path=/grpc.testing.TestService/EmptyCall",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(RUN_S):
                said, _ = await program.communicate()
        finally:
            if program.returncode is None:
                program.kill()
                await program.wait()
    return said.decode()


def test_what_fails_is_known(h2spec: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    said = uvloop.run(run(h2spec, report))
    cases = [case for suite in ElementTree.parse(report).getroot() for case in suite.iter("testcase")]  # noqa: S314
    failed = {
        f"{case.get('package')}: {case.get('classname')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    }
    assert len(cases) >= 145, said
    assert len(failed) <= FAILED_MAX, said
    assert KNOWN.keys() - failed == set(), "mended: no longer to be listed"
    assert failed - KNOWN.keys() - EARLY == set(), said
