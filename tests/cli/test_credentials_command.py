"""`suite credentials`: with and without a running service, and what it leaves readable to whom."""

from __future__ import annotations

import stat
from pathlib import Path

import anyio
import psutil
import pytest

import suite
from suite.bus import credentials
from suite.cli.invocation import data_dir_arguments
from suite.client import Client
from suite.config import ConnectionFile
from suite.data_directory import held
from suite.errors import AccessDenied, Unavailable
from support.command import Command
from support.nats import PATIENCE_SECONDS, eventually
from support.service import Serving, history, serving


async def accepted(client: Client) -> None:
    """Wait until requests succeed again. They fail at once while they cannot."""
    with anyio.fail_after(PATIENCE_SECONDS):
        while True:
            try:
                await client.list_models()
            except (AccessDenied, Unavailable):
                await anyio.sleep(0.02)
            else:
                return


async def refused(client: Client) -> str:
    """Wait until the client is refused, and return what it is told."""
    with anyio.fail_after(PATIENCE_SECONDS):
        while True:
            try:
                await client.list_models()
            except AccessDenied as error:
                return error.message
            except Unavailable:
                pass
            await anyio.sleep(0.02)


def written(service: Serving) -> str:
    """What the service and its server have written for people, and how their processes were called."""
    processes = [psutil.Process(service.pid), *psutil.Process(service.pid).children(recursive=True)]
    commands = [word for process in processes for word in process.cmdline()]
    nats = service.data_dir / "nats"
    logs = [service.errors, nats / "nats-server.log", nats / "nats-server.out"]
    return "\n".join((*commands, *(log.read_text() for log in logs)))


async def test_users_come_and_go_without_disturbing_others(tmp_path: Path) -> None:
    data, models = tmp_path / "data", tmp_path / "models"
    models.mkdir()
    command = Command(data)
    known: set[str] = set()

    async def shown(*arguments: str) -> dict[str, str]:
        found: dict[str, str] = await command.document("credentials", *arguments)
        known.add(found["password"])
        return found

    nobody = await command.run("credentials")
    assert (nobody.returncode, nobody.stdout) == (3, "")
    assert "suite serve" in nobody.stderr
    early = await shown("add", "early", "--role", "client")
    assert early["inbox_prefix"] == "_INBOX.early"
    assert not early["url"], "nobody knows the port yet"
    assert await shown("rotate", "early") != early
    async with serving(models, data) as service, suite.connect(data_dir=data) as own:
        early = await shown("show", "early")
        url = service.connection_file().url
        assert (early["url"], early["role"]) == (url, "client")
        assert await command.lines("credentials") == [
            "user      role      inbox prefix",
            "client    client    _INBOX.client",
            "consumer  consumer  _INBOX",
            "operator  operator  _INBOX.operator",
            "early     client    _INBOX.early",
        ]
        added = await shown("add", "added", "--role", "operator")
        async with (
            suite.connect(url, user="early", password=early["password"]) as by_url,
            suite.connect(url, user="added", password=added["password"]) as other,
        ):
            seen: list[int] = []

            async def follow() -> None:
                async for event in own.events(follow=True):
                    seen.append(event.seq)  # noqa: PERF401 - the test looks at it meanwhile

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(follow)
                await eventually(lambda: seen)
                await shown("rotate", "early")
                assert "user 'early'" in (message := await refused(by_url))
                assert "suite credentials show early" in message
                for client in (own, other):
                    assert client._connection.connections == 1, "others stay connected"
                for name in ("operator", "consumer"):
                    rotated = await shown("rotate", name)
                    found = ConnectionFile.read(data)
                    password = (
                        found.password if name == "operator" else found.reader and found.reader.password
                    )
                    assert rotated["password"] == password
                    await accepted(own)
                await own.log_performance_metric("agent", "latency", 1)
                last = await own.last_seq()
                await eventually(lambda: seen[-1] == last)
                assert seen == sorted(set(seen))
                tasks.cancel_scope.cancel()
            assert await command.output("credentials", "revoke", "added") == "added is revoked\n"
            assert "revoked" in await refused(other)
        wrong = await command.run("models", "--nats-url", url, "--nats-user", "added")
        assert (wrong.returncode, wrong.stdout, wrong.stderr[:21]) == (1, "", "error access_denied: ")
        done = await command.run("credentials", "show", "added")
        assert (done.returncode, done.stderr[:22]) == (1, "error user_not_found: ")
        table = await command.output("credentials", "show", "consumer")
        assert f"NATS_PASSWORD={(await shown('show', 'consumer'))['password']}" in table
        known |= {each.password for each in credentials.read(credentials.path(data)).users.values()}
        told = written(service) + await command.output("credentials") + str(await history(own))
        assert len(known) == 7
        assert not [password for password in known if password in told]
    for file in (credentials.path(data), data / "credentials.lock"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    gone = await command.run("models")
    assert (gone.returncode, gone.stderr[:19]) == (3, "error unavailable: ")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("add", "client", "--role", "client"), "user_exists", "rotate"),
        (("add", "suite", "--role", "operator"), "invalid_request", "suite's own"),
        (("add", "two words", "--role", "client"), "invalid_request", "letters"),
        (("add", "a.b", "--role", "client"), "invalid_request", "letters"),
        (("add", "ü", "--role", "client"), "invalid_request", "letters"),
        (("add", "x" * 200, "--role", "client"), "invalid_request", "64"),
        (("rotate", "nobody"), "user_not_found", "suite credentials"),
        (("revoke", "operator"), "invalid_request", "rotate it"),
        (("revoke", "mirror"), "user_not_found", "suite credentials"),
    ],
)
async def test_what_cannot_be_done_is_said(
    tmp_path: Path, arguments: tuple[str, ...], code: str, words: str
) -> None:
    before = credentials.change(credentials.path(tmp_path))
    done = await Command(tmp_path).run("credentials", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error {code}: ")
    assert words in done.stderr
    assert credentials.read(credentials.path(tmp_path)) == before


async def test_the_users_of_another_nats_are_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ConnectionFile(url="nats://elsewhere:4222", node="n", pid=1).write(tmp_path)
    done = await Command(tmp_path).run("credentials", "add", "x", "--role", "client")
    assert (done.returncode, done.stderr[:23]) == (1, "error users_elsewhere: ")
    assert "docs/security.md" in done.stderr
    assert not credentials.path(tmp_path).exists()
    monkeypatch.setenv("SUITE_NATS_URL", "nats://elsewhere:4222")
    monkeypatch.setenv("SUITE_DATA_DIR", str(own := tmp_path / "own"))
    own.mkdir()
    credentials.change(credentials.path(own))
    ConnectionFile(url="nats://127.0.0.1:1", user="operator", node="n", pid=1).write(own)
    assert (await Command().run("credentials")).stderr[:23] == "error users_elsewhere: "
    assert (await Command(own).run("credentials")).returncode == 0


async def test_a_directory_in_no_home_and_a_variable_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUITE_DATA_DIR", "~nobody-at-all/data")
    for command in ("credentials", "models"):
        done = await Command().run(command)
        assert done.stderr.startswith("error invalid_configuration: ~nobody-at-all/data is in no home")
    assert data_dir_arguments(tmp_path) == ("--data-dir", str(tmp_path))
    monkeypatch.setenv("SUITE_DATA_DRI", "typo")
    credentials.change(credentials.path(tmp_path))
    for arguments in (("credentials",), ("credentials", "show", "client")):
        done = await Command(tmp_path).run(*arguments)
        assert done.returncode == 0
        assert done.stderr.count("warning: SUITE_DATA_DRI is not known") == 1


async def test_a_change_that_no_service_takes_up_says_where_its_password_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("suite.cli.credentials.IN_FORCE_SECONDS", 0.1)
    credentials.change(credentials.path(tmp_path))
    ConnectionFile(url="nats://127.0.0.1:1", user="operator", node="n", pid=1).write(tmp_path)
    with held(tmp_path):
        for arguments in (("add", "laptop", "--role", "client"), ("rotate", "laptop")):
            done = await Command(tmp_path).run("credentials", *arguments)
            assert (done.returncode, done.stdout, done.stderr[:15]) == (4, "", "error timeout: ")
            assert "`suite credentials show laptop`" in done.stderr
        assert "show" not in (await Command(tmp_path).run("credentials", "revoke", "laptop")).stderr
