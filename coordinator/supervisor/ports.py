"""The listening sockets of a node, which its supervisor owns.

Where clients are listened to, ports and unix sockets (config/process/listeners.py), is bound once, before anything
starts, and handed to the coordinators as inherited descriptors. All coordinators of a node accept from the same socket,
and while one dies or is replaced the kernel keeps new connections waiting for the next: none is refused as long as one
coordinator lives or is about to. Only when all of them are down for good the node says so, by refusing.

The ports between nodes are bound by the workers themselves (ZeroMQ takes no foreign socket) and only tried here, so
that a taken port is one line and not a restart loop."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from typing import TYPE_CHECKING, Final, Protocol, Self

from config.process.listeners import client_listeners
from coordinator.supervisor.refusal import StartRefused

if TYPE_CHECKING:
    from pathlib import Path

    from config import ClusterConfig

BACKLOG: Final = 4096
"""Connections that may wait to be accepted; the kernel's net.core.somaxconn may set a lower bound."""

PROBE_S: Final = 1.0
"""How long it may take to find out whether somebody listens at a unix socket."""


class NodeSockets:
    """The bound sockets of one node, by their names in ProcessSpec.sockets. Not listening until told to."""

    def __init__(self, ports: dict[str, _Listening]) -> None:
        self._ports = ports

    @classmethod
    def bind(cls, cluster: ClusterConfig, node: str) -> Self:
        """Bind what is ours and try what is the workers'. Raises StartRefused; then nothing is bound."""
        config = cluster.node(node)
        with contextlib.ExitStack() as undo:
            ports = {}
            for listener in client_listeners(cluster, node):
                place: _Place = (
                    _Port(config.host, listener.port, listener.key)
                    if listener.path is None
                    else _UnixSocket(listener.path, int(config.client_socket_mode, 8), listener.key)
                )
                ports[listener.name] = _Listening(place)
                undo.callback(ports[listener.name].close)
            for shard in cluster.shards_of(node):
                place = _Port(config.host, config.peer_port + shard - 1, f"nodes.{node}.peer_port")
                _Listening(place).close()
            undo.pop_all()
        return cls(ports)

    @property
    def descriptors(self) -> dict[str, int]:
        """What children inherit, by name. The numbers stay the same until close()."""
        return {name: port.descriptor for name, port in self._ports.items()}

    def listen(self) -> None:
        """Take connections from now on, whether or not anybody accepts them yet. Raises StartRefused if somebody else
        got hold of a port while it was refusing."""
        for port in self._ports.values():
            port.listen()

    def refuse(self) -> None:
        """Refuse connections from now on, those that wait to be accepted included. Only while no child holds the
        sockets."""
        for port in self._ports.values():
            port.refuse()

    def close(self) -> None:
        """Give the ports up."""
        for port in self._ports.values():
            port.close()


class _Place(Protocol):
    """Where a socket can be bound."""

    def bound(self) -> socket.socket:
        """Bound and not listening. Raises StartRefused."""

    def refusal(self, error: OSError) -> StartRefused:
        """Why it can't be had, in words."""

    def give_up(self) -> None:
        """Nothing of ours is bound there any more: leave no trace."""


class _Listening:
    """One socket that is ours, under one descriptor for as long as we live."""

    def __init__(self, place: _Place) -> None:
        """Bind it. Raises StartRefused."""
        self._place = place
        self._socket = place.bound()
        self._is_bound, self._listens = True, False

    @property
    def descriptor(self) -> int:
        return self._socket.fileno()

    def listen(self) -> None:
        if self._listens:
            return
        if not self._is_bound:
            self._bind_again()
        try:
            self._socket.listen(BACKLOG)
        except OSError as error:
            raise self._place.refusal(error) from None
        self._listens = True

    def refuse(self) -> None:
        """Linux has no way back from listening to bound, so a fresh socket takes the old one's place."""
        if not self._listens:
            return
        self._listens = self._is_bound = False
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, self.descriptor, inheritable=False)
        os.close(nothing)
        with contextlib.suppress(StartRefused):  # somebody was faster: listen() tries again, and says so
            self._bind_again()

    def close(self) -> None:
        self._socket.close()
        self._place.give_up()

    def _bind_again(self) -> None:
        with self._place.bound() as fresh:
            os.dup2(fresh.fileno(), self.descriptor, inheritable=False)
        self._is_bound = True


class _Port:
    """A TCP port."""

    def __init__(self, host: str, number: int, key: str) -> None:
        self._host, self._number, self._key = host, number, key

    def bound(self) -> socket.socket:
        """SO_REUSEADDR, so that connections of an earlier run which are winding down don't count; a living listener
        does."""
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                _numeric(self._host), self._number, type=socket.SOCK_STREAM
            )[0]
            bound = socket.socket(family, kind, protocol)
        except OSError as error:
            raise self.refusal(error) from None
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            # A property of the socket and not of a descriptor: several coordinators wait on it, and one gets each.
            bound.setblocking(False)
        except OSError as error:
            bound.close()
            raise self.refusal(error) from None
        return bound

    def refusal(self, error: OSError) -> StartRefused:
        return StartRefused(f"{self._host}:{self._number} ({self._key}) {_why_not(error, self._number)}")

    def give_up(self) -> None:
        """A port is given up with its socket."""


class _UnixSocket:
    """A unix socket, of the file system."""

    def __init__(self, path: Path, mode: int, key: str) -> None:
        self._path, self._mode, self._key = path, mode, key
        self._ours: os.stat_result | None = None

    def bound(self) -> socket.socket:
        """In the place of one that was left behind, by us or by an earlier run; a living listener's stays."""
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._clear()
            bound.bind(str(self._path))
            # Nobody is let in before the mode says so: nothing listens yet.
            self._path.chmod(self._mode)
            self._ours = self._path.lstat()
            bound.setblocking(False)
        except OSError as error:
            bound.close()
            raise self.refusal(error) from None
        return bound

    def _clear(self) -> None:
        """Raises OSError if something is there that nobody left behind."""
        try:
            found = self._path.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(found.st_mode):
            raise FileExistsError(errno.EEXIST, "there is a file of that name")
        if not self._is_ours(found):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(PROBE_S)
                try:
                    probe.connect(str(self._path))
                except ConnectionRefusedError:
                    pass
                else:
                    raise OSError(errno.EADDRINUSE, "somebody listens there")
        self._path.unlink()

    def _is_ours(self, found: os.stat_result) -> bool:
        return self._ours is not None and os.path.samestat(found, self._ours)

    def refusal(self, error: OSError) -> StartRefused:
        if error.errno == errno.EADDRINUSE:
            why = "is already in use; stop that, or choose another path"
        elif error.errno == errno.EEXIST:
            why = "is a file already, and no socket; remove it, or choose another path"
        elif error.errno == errno.ENOENT:
            why = "lies in a folder that does not exist; make it, or choose another path"
        else:
            why = f"can't be used: {error.strerror}"
        return StartRefused(f"{self._path} ({self._key}) {why}")

    def give_up(self) -> None:
        with contextlib.suppress(OSError):
            if self._is_ours(self._path.lstat()):
                self._path.unlink()


def _numeric(host: str) -> str:
    """localhost as the address that everything else here means by it."""
    return "127.0.0.1" if host == "localhost" else host


def _why_not(error: OSError, port: int) -> str:
    if isinstance(error, socket.gaierror):
        return f"has no address: {error.strerror}"
    if error.errno == errno.EADDRINUSE:
        return f"is already in use{_by_whom(port)}; stop that, or choose another port"
    if error.errno == errno.EADDRNOTAVAIL:
        return "is no address of this machine; start this node where it is"
    return f"can't be used: {error.strerror}"


def _by_whom(port: int) -> str:
    """` by process N (name)`, if the system tells us."""
    import psutil  # only on the way to a refusal; a start does without it

    try:
        for connection in psutil.net_connections(kind="tcp"):
            here = connection.status == psutil.CONN_LISTEN and getattr(connection.laddr, "port", 0) == port
            if here and connection.pid:
                return f" by process {connection.pid} ({psutil.Process(connection.pid).name()})"
    except psutil.Error:
        pass
    return ""
