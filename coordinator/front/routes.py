"""From a path to who serves it, and the words for a path that nobody serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.api import outcomes
from coordinator.api.call import Route
from proto import errors
from proto.methods import METHODS, Access, ApiName, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from coordinator.api.call import Api, Handler
    from proto.codes import Code


class Routes:
    """All served methods."""

    def __init__(self, routes: Iterable[Route], *, known_services: frozenset[str], unserved: Api) -> None:
        """known_services: full names; their missing methods are unknown methods, not unknown services. unserved
        says how that is worded."""
        self.by_path = {route.path: route for route in routes}
        self._known_services = known_services
        self._unserved = unserved

    def refusal(self, path: str) -> tuple[Code, str]:
        """The status of a call whose path is not in by_path."""
        service, _, method = path.lstrip("/").rpartition("/")
        if service in self._known_services:
            error = errors.MethodNotServed(f"unknown method {method} for service {service}")
        else:
            error = errors.MethodNotServed(f"unknown service {service}")
        row = outcomes.to_status(self._unserved.outcomes, error)
        return row.code, row.text


def make_routes(
    handlers: Mapping[str, Handler],
    apis: Mapping[ApiName, Api],
    *,
    read_timeout_s: float,
    write_timeout_s: float,
) -> list[Route]:
    """A route for each handler, by what METHODS says of its path."""
    routes = []
    for path, handler in handlers.items():
        method = METHODS[path]
        timeout_s: float | None = write_timeout_s if method.access is Access.WRITE else read_timeout_s
        if method.kind is not Kind.UNARY or method.waits:
            timeout_s = None
        routes.append(
            Route(path=path, method=method, api=apis[method.api], handler=handler, timeout_s=timeout_s)
        )
    return routes
