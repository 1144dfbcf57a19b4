"""What keeps a node from starting is said with its code and what to do, and nothing is left running."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from subprocess import CompletedProcess

import anyio
import pytest

from suite.config import ConnectionFile, load_settings
from support.disks import read_only
from support.models import tiny_model
from support.service import serving


async def serve(*options: str) -> CompletedProcess[bytes]:
    with anyio.fail_after(40):
        return await anyio.run_process([sys.executable, "-m", "suite", "serve", *options], check=False)


async def refused(code: str, *options: str, exit_code: int = 1) -> str:
    result = await serve(*options)
    words = result.stderr.decode()
    assert result.returncode == exit_code, words
    assert f"error {code}:" in words
    assert "Traceback" not in words
    return words


async def test_a_second_service_on_a_data_directory_is_refused(tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny.gguf")
    async with serving(tmp_path, tmp_path / "data"):
        words = await refused("data_dir_in_use", "--data-dir", str(tmp_path / "data"))
        assert "--data-dir" in words
        assert ConnectionFile.path(tmp_path / "data").exists()


async def test_a_data_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    await refused("data_dir_unusable", "--data-dir", str(tmp_path / "file" / "data"))


async def test_a_store_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    store = tmp_path / "data" / "nats"
    async with serving(tmp_path, tmp_path / "data") as service:
        await service.stop()
    for part in (store, *sorted(store.glob("jetstream/**/SUITE/msgs"))):
        with read_only(part):
            words = await refused("data_dir_unusable", "--data-dir", str(tmp_path / "data"))
            assert str(part) in words and "--data-dir" in words
    async with serving(tmp_path, tmp_path / "data"):
        pass


async def test_a_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        await refused("port_taken", "--data-dir", str(tmp_path / "data"), "--port", port)


async def test_a_nats_that_cannot_be_reached_is_said_to_be_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"nats://127.0.0.1:{closed.getsockname()[1]}"
    await refused("unavailable", "--data-dir", str(tmp_path / "data"), "--nats-url", url, exit_code=3)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("memory_limit_gb = 'much'", "memory_limit_gb"),
        ("memory_limit_gb = 0", "memory_limit_gb"),
        ("colour = 'red'", "colour"),
        ("[models.m]\ncontext_length = -4", "context_length"),
        ("[models", "TOML"),
    ],
)
async def test_a_wrong_configuration_is_refused_with_the_path_to_the_value(
    tmp_path: Path, content: str, words: str
) -> None:
    config = tmp_path / "suite.toml"
    config.write_text(content)
    said = await refused(
        "invalid_configuration", "--data-dir", str(tmp_path / "data"), "--config", str(config), exit_code=2
    )
    assert words in said


async def test_how_to_reach_it_is_private_and_goes_with_it(tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny.gguf")
    async with serving(tmp_path, tmp_path / "data") as service:
        file = ConnectionFile.path(tmp_path / "data")
        assert file.stat().st_mode & 0o777 == 0o600
        assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
        connection = service.connection_file()
        assert connection.user == "operator"
        written = service.errors.read_text()
        assert connection.password
        assert connection.password not in written
        assert await service.stop() == 0
        assert not file.exists()


def test_credentials_in_a_url_are_taken_out_of_it() -> None:
    settings = load_settings(environ={"SUITE_NATS_URL": "nats://box:se%40cret@nats.example:4222"})
    assert settings.nats.url == "nats://nats.example:4222"
    assert (settings.nats.user, settings.nats.password) == ("box", "se@cret")
