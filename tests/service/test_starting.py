"""What keeps a node from starting is said with its code and what to do, and nothing is left running."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from subprocess import CompletedProcess

import anyio
import pytest

from suite.bus.embedded import EmbeddedServer
from suite.config import ConnectionFile, load_settings
from suite.process_log import Entry
from support.disks import read_only
from support.faults import KillableServer
from support.models import tiny_model
from support.nats import eventually
from support.ports import free_port
from support.service import Serving, service_and_client, serving


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
        words = await refused("port_taken", "--data-dir", str(tmp_path / "data"), "--port", port)
        assert f"port {port} is in use" in words


async def test_programs_are_told_what_has_ended_it_as_json(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = await serve("--data-dir", str(tmp_path / "data"), "--port", port, "--json")
    entries = [Entry.of_line(line) for line in ended.stderr.splitlines()]
    assert ended.returncode == 1
    assert entries[-1] is not None
    assert (entries[-1].level, entries[-1].exception) == ("error", "")
    assert entries[-1].message.startswith(f"error port_taken: port {port} is in use")


BUG = """
import sys
from suite.cli.main import main
from suite.node import startup

async def serve(*_, **__): raise ValueError("what a client has sent")

startup.serve = serve
sys.exit(main(["serve", "--json"]))
"""


async def test_a_bug_that_ends_it_is_told_by_type_and_place(tmp_path: Path) -> None:
    ended = await anyio.run_process(
        [sys.executable, "-c", BUG], check=False, env={**os.environ, "SUITE_DATA_DIR": str(tmp_path)}
    )
    (entry,) = (Entry.of_line(line) for line in ended.stderr.splitlines())
    assert ended.returncode == 70
    assert entry is not None
    assert entry.exception.endswith("ValueError")
    assert b"a client" not in ended.stderr


async def test_a_nats_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    """In whatever order a machine starts them."""
    server = KillableServer(tmp_path, jetstream=True)
    data_dir, said = tmp_path / "data", tmp_path / "data.stderr"
    command = [
        sys.executable,
        "-m",
        "suite",
        "serve",
        "--data-dir",
        str(data_dir),
        "--models-dir",
        str(tmp_path),
    ]
    with said.open("wb") as stderr:
        process = await anyio.open_process([*command, "--nats-url", server.access.url], stderr=stderr)
    async with process:
        await eventually(lambda: "cannot be reached" in said.read_text())
        await anyio.sleep(0.5)  # it tries again meanwhile
        assert len(said.read_text().splitlines()) == 1
        try:
            await server.up()
            service = Serving(process, data_dir, said)
            await service.ready()
            assert await service.stop() == 0
        finally:
            await server.kill()


async def test_a_stop_need_not_wait_for_nats_and_wrong_credentials_are_refused(tmp_path: Path) -> None:
    data_dir = ("--data-dir", str(tmp_path / "data"))
    url = f"nats://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "suite", "serve", *data_dir, "--nats-url", url]
    async with await anyio.open_process(command) as process:
        assert process.stderr is not None
        assert b"cannot be reached" in await process.stderr.receive()
        process.terminate()
        with anyio.fail_after(5):
            assert await process.wait() == 0
    async with EmbeddedServer.start(tmp_path / "nats") as server:
        await refused("access_denied", *data_dir, "--nats-url", server.access.url, exit_code=1)


async def test_what_it_writes_is_for_its_user_alone(tmp_path: Path) -> None:
    models, data_dir = tmp_path / "models", tmp_path / "data"
    models.mkdir()
    tiny_model(models / "tiny.gguf")
    (data_dir / "projections").mkdir(parents=True)
    (data_dir / "projections" / "model_evaluation.foreign-1.db").touch(mode=0o666)
    async with service_and_client(models, data_dir, umask=0) as (service, client):
        await client.generate_text("tiny", "Once", max_tokens=2, conversation_id="one")
        await client.log_performance_metric("agent", "latency", 1.0)
        await client.summary("latency")
        assert await service.stop() == 0
    open_to_others = [
        str(path.relative_to(data_dir))
        for path in data_dir.rglob("*")
        if not path.is_symlink() and path.stat().st_mode & 0o077
    ]
    assert open_to_others == []


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
