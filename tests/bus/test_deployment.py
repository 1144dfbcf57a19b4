"""The files of deploy/nats are those of the table, start a real server, and hold as the embedded one does."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL, STDOUT

import anyio
import pytest

from suite.bus.accounts import roles
from suite.bus.connection import Connection
from suite.bus.deployment import drift, main, write
from suite.bus.embedded import find_server
from suite.bus.jetstream import JetStream
from suite.bus.replicas import raise_replicas
from suite.errors import Unavailable
from suite.identity import new_id
from suite.log.reader import Reader
from suite.messages.actor import NatsAccess
from suite.node.cluster import wait_for_cluster
from support.cluster import all_known, cluster_file
from support.journal import SUBJECTS, generated, open_log
from support.ports import free_port, free_ports
from support.walk import Watched, harm

FILES = Path(__file__).parents[2] / "deploy" / "nats"
PASSWORDS = {name: f"secret-of-{name}" for name in roles(SUBJECTS)}
ENVIRONMENT = {f"SUITE_{name.upper()}_PASSWORD": password for name, password in PASSWORDS.items()}


def test_the_files_are_those_of_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert drift(FILES) == []
    write(tmp_path)
    assert main(["--check", str(tmp_path)]) == 0
    (tmp_path / "suite.conf").write_text("accounts {}")
    assert main(["--check", str(tmp_path)]) == 1
    assert "--write" in capsys.readouterr().err


@asynccontextmanager
async def server_by_the_file(directory: Path) -> AsyncIterator[dict[str, NatsAccess]]:
    port = free_port()
    async with await anyio.open_process(
        [await find_server(), "-c", str(FILES / "suite.conf"), "-p", str(port)],
        cwd=directory,
        env=os.environ | ENVIRONMENT,
        stdin=DEVNULL,
        stdout=DEVNULL,
        stderr=STDOUT,
    ) as process:
        try:
            access = {
                name: NatsAccess(
                    url=f"nats://127.0.0.1:{port}",
                    user=name,
                    password=PASSWORDS[name],
                    inbox_prefix=role.inbox_prefix,
                )
                for name, role in roles(SUBJECTS).items()
            }
            await listening(access["suite"])
            yield access
        finally:
            process.kill()


async def listening(access: NatsAccess) -> None:
    with anyio.fail_after(20):
        while True:
            try:
                async with Connection.open(access, name="probe"):
                    return
            except Unavailable:
                await anyio.sleep(0.02)


async def test_a_server_of_one_s_own_with_a_mirror_made_by_hand(tmp_path: Path) -> None:
    async with server_by_the_file(tmp_path) as access:
        async with (
            open_log(access["suite"]) as (_, log),
            Connection.open(access["mirror"], name="administrator") as administrator,
            Connection.open(access["consumer"], name="reader") as consumer,
        ):
            await log.append(generated("a"))
            copy = JetStream(administrator, "SUITE", new_id=new_id)
            await copy.create(json.loads((FILES / "mirror.json").read_bytes()))
            await Reader(JetStream(consumer, "SUITE", new_id=new_id), new_id=new_id).reach(1)
        async with Watched.on(access) as watched:
            for role in ("consumer", "client"):
                assert await harm(watched, access[role], may_ask=frozenset({"clear_kv_cache"})) == set()


async def test_the_block_for_tls_is_what_a_server_reads(tmp_path: Path) -> None:
    text = (FILES / "suite.conf").read_text()
    begin, end = text.index("#   tls {"), text.index("\nmax_payload")
    block = "\n".join(line.removeprefix("#") for line in text[begin:end].splitlines())
    (tmp_path / "suite.conf").write_text(text[:begin] + block + text[end:])
    said = await output_of_check(tmp_path / "suite.conf", ENVIRONMENT)
    assert "/etc/nats/server.pem" in said, "all is read, up to the certificate that is not there"


async def output_of_check(file: Path, environment: Mapping[str, str]) -> str:
    command = [await find_server(), "-t", "-c", str(file)]
    done = await anyio.run_process(command, env=os.environ | environment, check=False, stderr=STDOUT)
    return done.stdout.decode()


async def test_without_a_password_it_does_not_start() -> None:
    lacking = {name: value for name, value in ENVIRONMENT.items() if name != "SUITE_CLIENT_PASSWORD"}
    said = await output_of_check(FILES / "suite.conf", lacking)
    assert "SUITE_CLIENT_PASSWORD" in said


@asynccontextmanager
async def three_servers_by_the_file(directory: Path) -> AsyncIterator[tuple[NatsAccess, NatsAccess]]:
    """Three servers, as on three machines; access for the suite and for the mirror to one of them."""
    certificate, key = directory / "server.pem", directory / "key.pem"
    certificate.write_text(cluster_file().certificate)
    key.write_text(cluster_file().key)
    text = (FILES / "cluster-of-three.conf").read_text()
    ports = free_ports(6)
    for number, port in enumerate(ports[:3], 1):
        text = text.replace(f"nats{number}:6222", f"127.0.0.1:{port}")
    for file, ours in (("server.pem", certificate), ("server-key.pem", key), ("ca.pem", certificate)):
        text = text.replace(f"/etc/nats/{file}", str(ours))
    async with AsyncExitStack() as stack:
        for number, port in enumerate(ports[:3], 1):
            own = directory / f"nats{number}"
            own.mkdir()
            (own / "suite.conf").write_text((FILES / "suite.conf").read_text())
            (own / "three.conf").write_text(text.replace("0.0.0.0:6222", f"127.0.0.1:{port}"))
            process = await stack.enter_async_context(
                await anyio.open_process(
                    [await find_server(), "-c", str(own / "three.conf"), "-p", str(ports[2 + number])],
                    cwd=own,
                    env=os.environ | ENVIRONMENT | {"SUITE_SERVER_NAME": f"nats{number}"},
                    stdin=DEVNULL,
                    stdout=DEVNULL,
                    stderr=STDOUT,
                )
            )
            stack.callback(process.kill)
        by_name = roles(SUBJECTS)
        suite, mirror = (
            NatsAccess(
                url=f"nats://127.0.0.1:{ports[3]}",
                user=name,
                password=PASSWORDS[name],
                inbox_prefix=by_name[name].inbox_prefix,
            )
            for name in ("suite", "mirror")
        )
        yield suite, mirror


async def test_three_servers_of_the_files_have_the_log_and_its_mirror_three_times(tmp_path: Path) -> None:
    async with (
        three_servers_by_the_file(tmp_path) as (suite, reader),
        Connection.open(suite, name="test", wait=True) as connection,
    ):
        await wait_for_cluster(connection, ())
        await all_known(connection, 3)
        async with Connection.open(reader, name="mirror") as readers, open_log(suite) as (_, log):
            await raised(JetStream(connection, "SUITE", new_id=new_id))
            config = json.loads((FILES / "mirror-of-three.json").read_text())
            copy = JetStream(readers, "SUITE", new_id=new_id)
            assert (await copy.create(config)).config["num_replicas"] == 3
            await log.append(generated("phi"))
            with anyio.fail_after(20):
                while (await copy.info()).state.last_seq < 1:
                    await anyio.sleep(0.05)


async def raised(jetstream: JetStream) -> None:
    info = await raise_replicas(jetstream, await jetstream.info(), replicas=3)
    assert info.config["num_replicas"] == 3
