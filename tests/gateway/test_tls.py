"""HTTPS by the files of a certificate and its key. Those in `certificates/` are for these tests alone."""

from __future__ import annotations

import shutil
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from suite.errors import InvalidConfiguration
from suite.gateway import server
from suite.gateway.connection import Limits
from suite.gateway.server import serving
from suite.gateway.tls import Certificate
from suite.listening import listening, url_of

FILES = Path(__file__).parent / "certificates"
LIMITS = Limits(body_bytes=1000)
SECONDS = 20


@pytest.fixture
def files(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A certificate and its key, which a test may change."""
    certificate, key = tmp_path / "served.pem", tmp_path / "served.key.pem"
    shutil.copy(FILES / "first.pem", certificate)
    shutil.copy(FILES / "first.key.pem", key)
    yield certificate, key


async def answered(port: int, name: str) -> bytes:
    """What a client gets that trusts only this certificate."""

    def ask() -> bytes:
        context = ssl.create_default_context(cafile=FILES / f"{name}.pem")
        with (
            closing(socket.create_connection(("127.0.0.1", port), timeout=SECONDS)) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as secured,
        ):
            secured.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return b"".join(iter(lambda: secured.recv(4096), b""))

    with anyio.fail_after(SECONDS):
        return await anyio.to_thread.run_sync(ask)


async def scheme(request: Request) -> PlainTextResponse:
    return PlainTextResponse(request.url.scheme)


async def test_a_handshake_does_not_take_for_ever(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_HANDSHAKE_SECONDS", 0.2)
    served = Certificate(*files)
    with listening("127.0.0.1", 0) as opened:
        async with serving(Starlette(), opened, limits=LIMITS, tls=served.context, drain_seconds=1.0):
            async with await anyio.connect_tcp("127.0.0.1", opened.getsockname()[1]) as silent:
                with anyio.fail_after(SECONDS), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                    await silent.receive()


async def test_a_new_certificate_is_served_without_a_restart_and_a_broken_one_never(
    files: tuple[Path, Path],
) -> None:
    certificate, key = files
    served = Certificate(certificate, key)
    app = Starlette(routes=[Route("/", scheme)])
    with listening("127.0.0.1", 0) as opened:
        assert url_of(opened, secure=True).startswith("https://127.0.0.1:")
        async with serving(app, opened, limits=LIMITS, tls=served.context, drain_seconds=1.0):
            port = opened.getsockname()[1]
            assert (await answered(port, "first")).endswith(b"https")
            shutil.copy(FILES / "second.pem", certificate)
            served.look()
            assert (await answered(port, "first")).endswith(b"https"), "its key is still the other one"
            shutil.copy(FILES / "second.key.pem", key)
            served.look()
            assert (await answered(port, "second")).endswith(b"https")
            key.unlink()
            served.look()
            assert (await answered(port, "second")).endswith(b"https")


def test_files_that_cannot_be_used_are_one_clear_line(files: tuple[Path, Path], tmp_path: Path) -> None:
    certificate, key = files
    nothing = tmp_path / "nothing.pem"
    text = tmp_path / "text.pem"
    text.write_text("hello")
    for pair, told in (
        ((nothing, key), f"{nothing} cannot be read (No such file or directory)"),
        ((certificate, nothing), f"{nothing} cannot be read"),
        ((certificate, FILES / "second.key.pem"), "key values mismatch"),
        ((certificate, FILES / "locked.key.pem"), "the key is encrypted"),
        ((text, key), f"the certificate {text} cannot be used"),
        ((certificate, text), "cannot be used"),
        ((key, certificate), "cannot be used"),
    ):
        with pytest.raises(InvalidConfiguration) as refused:
            Certificate(*pair)
        assert told in refused.value.message
        assert "\n" not in refused.value.message
    assert Certificate.of(None, None) is None
    for half in ((certificate, None), (None, key)):
        with pytest.raises(InvalidConfiguration, match="both --tls-certificate and --tls-key"):
            Certificate.of(*half)
