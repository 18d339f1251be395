"""`python -m tests.conformance.foreign.writer ENDPOINTS`: a client that writes all the time, and repeats what ends as
UNAVAILABLE at another endpoint under the same id, until SIGTERM. Then it says what it saw, as JSON."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import grpc

from proto.etcd import rpc_pb2 as rpc
from tools.admin.client import CallFailed, KvClient

TIMEOUT_S = 30.0


def main() -> None:
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    ca, cert, key = (Path(os.environ[f"BOATHOUSE_{name}"]).read_bytes() for name in ("CACERT", "CERT", "KEY"))
    credentials = grpc.ssl_channel_credentials(ca, key, cert)
    endpoints = sys.argv[1].replace("https://", "").split(",")
    written, failed, slowest_s, last = 0, [], 0.0, 0
    with KvClient(endpoints, None, TIMEOUT_S, credentials=credentials) as client:
        while not over.wait(0.005):
            begun_s = time.monotonic()
            try:
                last = client.put(rpc.PutRequest(key=b"counter", value=b"%d" % (written + 1))).header.revision
                written += 1
            except CallFailed as failure:
                failed.append(str(failure))
            slowest_s = max(slowest_s, time.monotonic() - begun_s)
    print(  # noqa: T201
        json.dumps({"written": written, "failed": failed, "slowest_s": slowest_s, "revision": last})
    )


if __name__ == "__main__":
    main()
