"""Who is let in without a key: this machine, and of the pages in its browser those that were allowed."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from suite.config.settings import HttpSettings
from suite.errors import HostNotAllowed, InvalidConfiguration, OriginNotAllowed
from suite.gateway.access import Everybody, endpoint_of

PAGE = "https://chat.example"


def headers(host: str, origin: str | None = None) -> Headers:
    return Headers({"host": host} if origin is None else {"host": host, "origin": origin})


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8080",
        "127.0.0.1:8080",
        "127.1.2.3",
        "[::1]:8080",
        "suite.localhost:1",
        "LocalHost.",
    ],
)
def test_this_machine_is_served_under_its_own_names(host: str) -> None:
    assert Everybody().identify(headers(host)) is None
    assert Everybody().identify(headers(host, f"http://{host}")) is None, "a page of the gateway itself"


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "[::1",
        "127.0.0.1@evil.example",
        "evil.example@localhost",
        "localhost/evil.example",
        "localhost?evil.example",
        "localhost#evil.example",
        "evil.example#localhost",
        "0x7f000001",
        "notlocalhost",
    ],
)
def test_a_name_that_leads_here_from_elsewhere_is_refused(host: str) -> None:
    with pytest.raises(HostNotAllowed, match="--require-keys"):
        Everybody().identify(headers(host))


def test_pages_of_others_are_refused_unless_they_are_allowed_to_the_letter() -> None:
    allowed = Everybody([PAGE])
    assert allowed.identify(headers("localhost", PAGE)) is None
    for origin in (
        "null",
        "http://chat.example",
        f"{PAGE}:8443",
        f"{PAGE}.evil.example",
        "",
        "https://localhost:1",
    ):
        with pytest.raises(OriginNotAllowed, match="--cors-origin"):
            allowed.identify(headers("localhost", origin))
    assert Everybody(["*"]).identify(headers("localhost", "https://any.example")) is None


def test_an_origin_is_written_as_browsers_send_it() -> None:
    right = ("*", PAGE, "http://localhost:3000", "app://obsidian.md", "chrome-extension://abc")
    assert HttpSettings(cors_origins=right).allowed_origins == right
    for wrong in (f"{PAGE}/", f"{PAGE}/chat", "chat.example", "", "https://", "https://a b"):
        with pytest.raises(InvalidConfiguration, match="no origin of pages"):
            _ = HttpSettings(cors_origins=(wrong,)).allowed_origins


def test_a_path_that_nobody_has_thought_of_is_for_admins() -> None:
    assert endpoint_of("/v1/chat/completions") == "chat"
    assert endpoint_of("/v1/models/some/model") == "models"
    assert endpoint_of("/v1/messages/count_tokens") == "tokens"
    for path in ("/metrics", "/v1", "/v1/chat", "/", "", "//v1/chat/completions", "/v1/chat/completionsx"):
        assert endpoint_of(path) == "admin"
