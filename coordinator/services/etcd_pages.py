"""The pages that etcd has beside its API on the clients' port: how healthy, which version.

What they ask goes through the same routes as a client's calls, on the table that a call by the same port would mean:
what is healthy is what serves.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

from coordinator.api import outcomes
from coordinator.api.call import SYSTEM
from coordinator.api.etcd_version import CLUSTER_VERSION, VERSION
from coordinator.api.local_call import LocalCall
from coordinator.front import json_text
from coordinator.front.http_pages import TEXT, Request, Response
from coordinator.services.etcd_tables import TABLE_KEY
from proto import errors
from proto.etcd import rpc_pb2 as etcd

if TYPE_CHECKING:
    import asyncio

    from coordinator.front.http_pages import Header, Page
    from coordinator.services.etcd_calls import EtcdCalls

JSON: Final[Header] = ("Content-Type", "application/json")
CHECK_TIMEOUT_S: Final = 5.0
PROBED_KEY: Final = b"health"

_TABLE_HEADER: Final = f"grpc-metadata-{TABLE_KEY}"
_LOCAL: Final = "local"

Ask = Callable[[], LocalCall]
"""A call on the table that is looked at."""
Check = Callable[[Ask], Awaitable[None]]
"""Raises _Unready or BoathouseError if something is wrong."""


class _Unready(Exception):
    """Says what is wrong in etcd's words."""


class EtcdPages:
    """/health, /livez, /readyz and /version, as etcd 3.5 answers them."""

    def __init__(self, calls: EtcdCalls, loop: asyncio.AbstractEventLoop) -> None:
        self._calls = calls
        self._loop = loop
        self._live: dict[str, Check] = {"serializable_read": self._read_locally}
        self._ready: dict[str, Check] = {
            "data_corruption": self._check_corruption,
            "serializable_read": self._read_locally,
            "linearizable_read": self._read,
            "non_learner": self._check_votes,
        }

    @property
    def pages(self) -> dict[tuple[str, str], Page]:
        """By method and path."""
        pages: dict[tuple[str, str], Page] = {
            ("GET", "/health"): self.health,
            ("GET", "/version"): self.version,
        }
        for path, checks in (("/livez", self._live), ("/readyz", self._ready)):
            pages["GET", path] = self._all_of(checks)
            for name, check in checks.items():
                pages["GET", f"{path}/{name}"] = self._all_of({name: check})
        return pages

    async def version(self, _request: Request) -> Response:
        """The version that we behave as."""
        body = json_text.encode({"etcdserver": VERSION, "etcdcluster": CLUSTER_VERSION})
        return Response(headers=(JSON,), body=body)

    async def health(self, request: Request) -> Response:
        """Alarms, then the leader, then a read. `exclude=NOSPACE` passes over an alarm, `serializable=true` over the
        leader."""
        query = parse_qs(request.query)
        serializable = query.get("serializable", [""])[0] == "true"
        ask = self._ask_for(request)
        reason = await self._complaint(ask, set(query.get("exclude", [])), serializable=serializable)
        if reason:
            body = json_text.encode({"health": "false", "reason": reason}) + b"\n"
            return Response(status=HTTPStatus.SERVICE_UNAVAILABLE, headers=(TEXT,), body=body)
        return Response(headers=(TEXT,), body=json_text.encode({"health": "true", "reason": ""}))

    async def _complaint(self, ask: Ask, passed_over: set[str], *, serializable: bool) -> str:
        try:
            for name in await self._alarms(ask):
                if name not in passed_over:
                    return f"ALARM {name}"
            if not serializable and not (await self._calls.status(ask())).leader:
                return "RAFT NO LEADER"
            await (self._read_locally(ask) if serializable else self._read(ask))
        except errors.NoLeader:
            return "RAFT NO LEADER"
        except errors.BoathouseError as error:
            return f"RANGE ERROR:{outcomes.to_status(outcomes.ETCD, error).text}"
        return ""

    def _all_of(self, checks: dict[str, Check]) -> Page:
        """A page that says "ok", or names each check and what it found. `exclude=NAME` passes over one, `verbose` lists
        all."""

        async def page(request: Request) -> Response:
            query = parse_qs(request.query, keep_blank_values=True)
            passed_over = set(query.get("exclude", []))
            ask = self._ask_for(request)
            lines, failed = [], False
            for name, check in checks.items():
                if name in passed_over:
                    continue
                try:
                    await check(ask)
                except _Unready as why:
                    failed = True
                    lines.append(f"[-]{name} failed: {why}")
                except errors.BoathouseError as error:
                    failed = True
                    lines.append(f"[-]{name} failed: {outcomes.to_status(outcomes.ETCD, error).text}")
                else:
                    lines.append(f"[+]{name} ok")
            listing = "".join(f"{line}\n" for line in lines)
            if failed:
                return Response(status=HTTPStatus.SERVICE_UNAVAILABLE, body=f"{listing}\n".encode())
            verbose = listing if "verbose" in query else ""
            return Response(body=f"{verbose}ok\n".encode())

        return page

    # ---- what is looked at -------------------------------------------------------------------------------------

    def _ask_for(self, request: Request) -> Ask:
        """On the table of the port that the request came by, or that it names itself; and in nobody's name, whatever
        else it says."""
        named = request.headers.get(_TABLE_HEADER)
        metadata = {} if named is None else {TABLE_KEY: named}
        return lambda: LocalCall(
            (), metadata=metadata, deadline=self._loop.time() + CHECK_TIMEOUT_S, peer=_LOCAL, identity=SYSTEM
        )

    async def _alarms(self, ask: Ask) -> list[str]:
        answer = await self._calls.alarm(ask(), etcd.AlarmRequest(action=etcd.AlarmRequest.GET))
        return [etcd.AlarmType.Name(member.alarm) for member in answer.alarms]

    async def _read(self, ask: Ask) -> None:
        await self._calls.range(ask(), etcd.RangeRequest(key=PROBED_KEY, limit=1))

    async def _read_locally(self, ask: Ask) -> None:
        await self._calls.range(ask(), etcd.RangeRequest(key=PROBED_KEY, limit=1, serializable=True))

    async def _check_corruption(self, ask: Ask) -> None:
        if "CORRUPT" in await self._alarms(ask):
            raise _Unready("alarm activated: CORRUPT")

    async def _check_votes(self, ask: Ask) -> None:
        if (await self._calls.status(ask())).isLearner:
            raise _Unready("this member is a learner")
