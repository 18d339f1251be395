"""Takes secrets out of what is to leave this machine: those that the cluster's files hold, wherever they turn up, and
whatever has the form of one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from config import ClusterConfig

REMOVED: Final = "(removed)"
SECRET_BYTES_MIN: Final = 4
"""Of a whole secret; what is shorter turns up by chance."""
LINE_BYTES_MIN: Final = 16
"""Of a line of a file that holds a secret of several."""
FILE_BYTES_MAX: Final = 1 << 16

_PUBLIC: Final = (b"-----BEGIN CERTIFICATE", b"-----BEGIN PUBLIC KEY", b"-----BEGIN RSA PUBLIC KEY")
_SECRET_NAME: Final = re.compile(r"pass|secret|token|credential|private|api_?key|access_?key", re.IGNORECASE)
_QUOTE: Final = rb"\\*[\"']"
"""Also within JSON that stands as text in other JSON, at any depth."""
_NAMED: Final = rb"(?i)((?:%s)(?:" + _QUOTE + rb")?\s*[:=]\s*)(?!null\b|None\b|/)"
"""A name that promises a secret, up to its value; a path is none."""
_QUOTED: Final = rb"(" + _QUOTE + rb")(?:[^\n]*?(?<!\\)\2|[^\n]*)"
"""Up to the same quotes, or to the end of the line where it was cut off."""
_WORD: Final = rb"[^\s\"',;}\]\\]+"
_SCHEME: Final = rb"(?:digest\s[^\n]*|(?:(?:basic|bearer|negotiate|ntlm|token)\s+)?" + _WORD + rb")"
_PASSWORD: Final = rb"[^\s\"'\\]+(?:[ \t]+(?![\w.-]+[=:])[^\s\"'\\]+)*"
"""It may have blanks in it; what follows is another name with a value, or nothing."""
_FORMS: Final = [
    (re.compile(pattern, re.DOTALL), replacement)
    for pattern, replacement in (
        (rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", b""),
        (rb"\beyJ[\w-]{4,}\.[\w-]+\.[\w-]*", b""),  # a signed token
        (rb"\b[A-Za-z]{16}\.\d{1,20}\b", b""),  # a simple token
        (rb"(?i)(\bbearer\s+)[^\s\"',;]+", rb"\1"),
        (rb"(\b\w+://)[^\s/@:]*:[^\s/@]+(?=@)", rb"\1"),
        *(
            (_NAMED % names + rb"(?:" + _QUOTED + rb"|" + bare + rb")", rb"\1")
            for names, bare in (
                (rb"authorization", _SCHEME),
                (rb"passw(?:or)?d", _PASSWORD),
                (rb"secret|token|credentials?|(?:api|access|private)[_-]?key", _WORD),
            )
        ),
    )
]


class Redaction:
    """Knows the secrets of one machine."""

    def __init__(self, secrets: Iterable[bytes]) -> None:
        known = sorted({secret for secret in secrets if secret}, key=lambda each: (-len(each), each))
        self._known = re.compile(b"|".join(map(re.escape, known))) if known else None

    def apply(self, content: bytes) -> bytes:
        """The same without any."""
        if self._known is not None:
            content = self._known.sub(REMOVED.encode(), content)
        for form, kept in _FORMS:
            content = form.sub(kept + REMOVED.encode(), content)
        return content


def secrets_of(cluster: ClusterConfig, *more: Path) -> Iterator[bytes]:
    """What stands in the files that a cluster file names, and in more of them, as far as they are here and can be read:
    keys of TLS and of nodes, keys and secrets that sign tokens, tokens. Certificates and public keys are none."""
    for path in sorted({*_files(cluster), *more}):
        try:
            content = path.read_bytes() if path.stat().st_size <= FILE_BYTES_MAX else b""
        except OSError:
            continue  # what we can't read we can't have told
        if content.lstrip().startswith(_PUBLIC):
            continue
        whole = content.strip()
        if len(whole) >= SECRET_BYTES_MIN:
            yield whole
        yield from (
            line.strip()
            for line in content.splitlines()
            if len(line.strip()) >= LINE_BYTES_MIN and not line.startswith(b"-----")
        )


def _files(cluster: ClusterConfig) -> set[Path]:
    found: set[Path] = set()
    for path in _paths(cluster.model_dump()):
        for node in cluster.nodes:
            each = Path(str(path).replace("{node}", node))
            if each.is_file():
                found.add(each)
    if cluster.tls.peer is not None:
        found |= set(cluster.tls.peer.keys.glob("*.secret"))
    return found


def _paths(value: Any) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _paths(each)


def without_secrets(value: Any, name: str = "") -> Any:
    """A cluster's model as plain values, without what is a secret by its name. Where a secret is, its path, is none."""
    if isinstance(value, dict):
        return {key: without_secrets(each, str(key)) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(each, name) for each in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, str) and _SECRET_NAME.search(name):
        return REMOVED
    return value
