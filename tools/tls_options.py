"""--cacert, --cert and --key, as etcdctl has them: the same for every command that talks to a coordinator.

A command takes them by `@takes_tls`, and whoever connects on its behalf asks `tls_options()`."""

from __future__ import annotations

import functools
import inspect
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, ParamSpec

import typer

from tools.failure import Failed

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

    import grpc

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """What the user said about TLS."""

    cacert: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    @property
    def given(self) -> bool:
        """Whether anything was said."""
        return self != TlsOptions()

    def to_json(self) -> dict[str, str | None]:
        """For another process, by the names of the options."""
        return {name: None if path is None else str(path) for name, path in asdict(self).items()}

    def credentials(self) -> grpc.ChannelCredentials:
        """What a secure gRPC channel is made with. Raises Failed if a file can't be read."""
        import grpc

        self._check()
        root, chain, key = (_read(path) for path in (self.cacert, self.cert, self.key))
        return grpc.ssl_channel_credentials(root, key, chain)

    def context(self) -> ssl.SSLContext:
        """What an HTTPS connection is made with. Raises Failed if a file can't be read."""
        from tools.client_tls import client_context

        self._check()
        try:
            return client_context(self.cacert, self.cert, self.key)
        except OSError as error:  # ssl.SSLError is one
            raise Failed(f"the files of --cacert, --cert and --key can't be used: {error}") from None

    def _check(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise typer.BadParameter("--cert and --key come together", param_hint="--cert")


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Failed(f"{path}: can't be read: {error.strerror}") from None
    if b"-----BEGIN" not in content:
        raise Failed(f"{path}: is not a PEM file")
    return content


_PREFIX: Final = "tls_"
"""Of the parameters' names: many a command has a `key` of its own."""
_OPTIONS: Final = {
    "cacert": "PEM file with the authorities that may have signed the server's certificate.",
    "cert": "PEM file with the certificate to show to the server.",
    "key": "PEM file with the private key of --cert.",
}
_PARAMETERS: Final = frozenset(_PREFIX + name for name in _OPTIONS)
NONE: Final = TlsOptions()
_given: ContextVar[TlsOptions] = ContextVar("tls_options", default=NONE)


def takes_tls(command: Callable[P, None]) -> Callable[P, None]:
    """The same command with the options, which it does not get to see."""
    signature = inspect.signature(command, eval_str=True)
    known = [_parameter(name, text) for name, text in _OPTIONS.items()]

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        remember(kwargs)
        command(*args, **{name: value for name, value in kwargs.items() if name not in _PARAMETERS})  # type: ignore[arg-type]

    shown = signature.replace(parameters=[*signature.parameters.values(), *known])
    run.__signature__ = shown  # type: ignore[attr-defined]  # what typer asks
    run.__annotations__ = {name: parameter.annotation for name, parameter in shown.parameters.items()}
    return run


def remember(parameters: Mapping[str, Any]) -> None:
    """What a command line gave, for tls_options(). Only what is named as @takes_tls names it is looked at."""
    _given.set(TlsOptions(**{name: parameters.get(_PREFIX + name) for name in _OPTIONS}))


def _parameter(name: str, text: str) -> inspect.Parameter:
    option = typer.Option(f"--{name}", metavar="FILE", envvar=f"BOATHOUSE_{name.upper()}", help=text)
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(_PREFIX + name, kind, default=None, annotation=Annotated[Path | None, option])


def tls_options() -> TlsOptions:
    """What the command that runs was given."""
    return _given.get()
