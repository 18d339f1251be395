"""host:port as users write it."""

from __future__ import annotations

import pytest

from tools.admin.endpoints import Endpoints, is_loopback, parse_endpoints


@pytest.mark.parametrize(
    ("text", "endpoints"),
    [
        ("127.0.0.1:2379", Endpoints(("127.0.0.1:2379",))),
        ("http://127.0.0.1:2379/", Endpoints(("127.0.0.1:2379",), "http")),
        ("https://n1:2379,https://n2:2379/", Endpoints(("n1:2379", "n2:2379"), "https")),
        (" n1:2379, n2.example:2379,", Endpoints(("n1:2379", "n2.example:2379"))),
        ("[::1]:2379", Endpoints(("[::1]:2379",))),
        ("a:65535", Endpoints(("a:65535",))),
        ("unix:///run/b/n1,unix:///run/b/n2", Endpoints(("unix:///run/b/n1", "unix:///run/b/n2"), "unix")),
    ],
)
def test_what_is_an_endpoint(text: str, endpoints: Endpoints) -> None:
    assert parse_endpoints(text) == endpoints


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no endpoint given"),
        (" , ", "no endpoint given"),
        ("127.0.0.1:99999", "'127.0.0.1:99999': a port is 1 to 65535"),
        ("127.0.0.1:0", "'127.0.0.1:0': a port is 1 to 65535"),
        ("127.0.0.1", "'127.0.0.1' is not host:port"),
        ("unix://n1.sock", "'unix://n1.sock': a unix socket is given by its whole path, unix:///path"),
        (":2379", "':2379' is not host:port"),
        ("::1:2379", "'::1:2379' is not host:port"),
        ("http://n1:2379/path", "'http://n1:2379/path' is not host:port"),
        ("https://n1:1,n2:1", "https://n1:1,n2:1: write the same scheme before all endpoints"),
        ("ftp://n1:1", "ftp://n1:1: a scheme is http, https or unix"),
    ],
)
def test_what_is_none_is_told_why(text: str, complaint: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its text is compared
        parse_endpoints(text)
    assert str(caught.value) == complaint


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("localhost:1", True),
        ("unix:///run/b/n1", True),
        ("[::1]:1", True),
        ("10.0.0.1:1", False),
        ("example.org:1", False),
    ],
)
def test_loopback(endpoint: str, expected: bool) -> None:
    assert is_loopback(endpoint) == expected
