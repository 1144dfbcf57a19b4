"""What somebody can do who has taken over the process of a model: attempts from inside of a real one."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import anyio
import psutil
import pytest

from suite.confinement.confinement import offered
from suite.messages.actions.status import ConfinedPart, Confinement
from suite.messages.actor import Ready
from suite.node.process import ActorProcess, end_process, open_process
from support.actors import Actor, spec, stage
from support.intruder import Intruder, Targets
from support.models import CHAT_TEMPLATE, tiny_model

NEEDED: Final = (
    "read its model",
    "write among its snapshots",
    "remove a snapshot",
    "note when a snapshot was used",
    "connect to NATS",
    "start Python",
)
"""What it goes on with."""
FAILS: Final[Mapping[ConfinedPart, Mapping[str, str]]] = {
    "privileges": {
        "new privileges": "none",
        "capabilities": "files",
        "who may read its memory": "nobody",
    },
    "limits": {
        "take much memory": "ENOMEM",
        "open many files": "EMFILE",
        "write a large file": "EFBIG",
        "core files": "0",
    },
    "files": {
        "read a secret": "EACCES",
        "read the passwords of users": "EACCES",
        "list a directory": "EACCES",
        "read the variables of its node": "EACCES",
        "write over a secret": "EACCES",
        "write over its model": "EACCES",
        "make a file": "EACCES",
        "remove a secret": "EACCES",
        "move a secret here": "EACCES",
        "read a secret by another program": "1",
        "start a shell": "EACCES",
    },
    "network": {"connect elsewhere": "EACCES"},
    "system_calls": {
        "connect elsewhere with the first data": "EPERM",
        "send datagrams": "EPERM",
        "use a socket of the machine": "EPERM",
        "use another protocol": "EPERM",
        "listen": "EPERM",
        "debug its node": "EPERM",
        "read the memory of its node": "EPERM",
        "make namespaces": "EPERM",
        "mount": "EPERM",
        "load a program into the kernel": "EPERM",
        "read keys": "EPERM",
        "load another kernel": "EPERM",
        "make calls that nobody sees": "EPERM",
        "watch the processor": "EPERM",
        "change the mode of a secret": "EPERM",
        "change its mode by another call": "EPERM",
        "change the owner of a secret": "EPERM",
        "change the owner of a link": "EPERM",
        "change the times of a secret": "EPERM",
        "change them by an odd address": "EPERM",
        "change attributes of a secret": "EPERM",
        "change attributes of a link": "EPERM",
        "remove attributes of a secret": "EPERM",
        "empty a secret": "EPERM",
        "change the mode of its model": "EPERM",
        "change the owner of its model": "EPERM",
        "change attributes of its model": "EPERM",
    },
}
"""What comes of everything else."""
OF_HELPERS: Final = {
    "write among its snapshots": "EACCES",
    "connect to NATS": "EPERM",
    "start Python": "EPERM",
    "send datagrams": "EPERM",
}
"""What the processes that render templates and follow grammars cannot do either."""
CUT: Final[tuple[ConfinedPart, ...]] = ("files", "network")
"""What only Landlock confines."""
SCHEMA: Final = {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"]}


class Found(NamedTuple):
    """What came of the attempts in the processes of one model."""

    told: Confinement
    own: dict[str, str]
    helpers: dict[str, dict[str, str]]
    """By the module that each runs."""
    answer: str


@asynccontextmanager
async def taken_over(
    directory: Path, *, confined: bool = True, without_landlock: bool = False, attempts: Iterable[str] = ()
) -> AsyncIterator[tuple[Actor, Intruder]]:
    """The process of a model in which an intruder waits for his signal."""
    model = tiny_model(directory / "tiny.gguf", chat_template=CHAT_TEMPLATE)
    results, secret = directory / "snapshots", directory / "secret" / "diary.txt"
    for folder in (results, secret.parent):
        folder.mkdir()
    secret.write_text("dear diary")
    with socket.create_server(("127.0.0.1", 0)) as elsewhere, pytest.MonkeyPatch.context() as patch:
        async with stage(directory) as on:
            targets = Targets(
                results=str(results),
                secret=str(secret),
                model=str(model),
                permitted_port=urlsplit(on.server.access.url).port or 0,
                other_port=elsewhere.getsockname()[1],
                attempts=tuple(attempts),
                without_landlock=without_landlock,
            )
            intruder = Intruder.prepare(directory / "site", targets)
            for name, value in intruder.environ.items():
                patch.setenv(name, value)
            options: dict[str, Any] = {} if confined else {"confinement": None}
            async with on.actor(model, snapshots=_kept(results), **options) as actor:
                yield actor, intruder


def _kept(directory: Path) -> dict[str, object]:
    limits = {"memory_bytes": 1 << 20, "disk_bytes": 1 << 20, "max_conversations": 9, "max_age_seconds": 60}
    return {"directory": str(directory), **limits}


async def _found(directory: Path) -> Found:
    async with taken_over(directory) as (actor, intruder):
        client = await actor.generate(
            "g", messages=[{"role": "user", "content": "hi"}], json_schema=SCHEMA, max_tokens=20
        )
        answer = (await client.success()).text
        helpers = {
            each.cmdline()[2]: await intruder.attempts(each.pid)
            for each in psutil.Process(actor.process.pid).children()
        }
        own = await intruder.attempts(actor.process.pid)
        return Found(_told(actor), own, helpers, answer)


def _told(actor: Actor) -> Confinement:
    (ready,) = (report for report in actor.reports if isinstance(report, Ready))
    return ready.confinement


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return anyio.run(_found, tmp_path_factory.mktemp("confined"))


def _of(part: ConfinedPart, found: Found) -> Iterator[tuple[str, str]]:
    """What must come of the attempts on a part: nothing is said of one that this kernel cannot confine."""
    assert (part in found.told.on) != bool(found.told.off.get(part))
    if part in found.told.on:
        yield from FAILS[part].items()


def test_it_does_what_it_is_for(found: Found) -> None:
    assert [found.own[name] for name in NEEDED] == ["allowed"] * len(NEEDED)
    assert "a" in found.answer


@pytest.mark.parametrize("part", FAILS)
def test_what_it_does_not_need_fails(found: Found, part: ConfinedPart) -> None:
    wanted = dict(_of(part, found))
    assert {name: found.own[name] for name in wanted} == wanted


def test_it_tells_what_the_kernel_can_and_why_not_the_rest(found: Found) -> None:
    assert found.told == offered()
    assert {*found.told.on, *found.told.off} == FAILS.keys()


@pytest.mark.parametrize("module", ["suite.engine.grammar.process", "suite.engine.prompts.template_process"])
def test_its_helpers_can_do_even_less(found: Found, module: str) -> None:
    own = found.helpers[module]
    for part in ("limits", "files", "network", "system_calls"):
        assert [name for name, _ in _of(part, found) if own[name] == "allowed"] == []
    if {"files", "system_calls"} <= {*found.told.on}:
        assert {name: own[name] for name in OF_HELPERS} == OF_HELPERS


async def test_a_standby_process_is_confined_when_it_gets_its_model(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "tiny.gguf")
    standby = await open_process()
    try:
        async with stage(tmp_path) as on:
            assert standby.stdout is not None
            await standby.stdout.receive()  # it has imported all
            assert _filters(standby.pid) == 0
            async with ActorProcess.start(spec(model, nats=on.server.access), standby) as actor:
                reports = [report async for report in _until_ready(actor)]
                assert reports[-1].confinement == offered()
                assert actor.pid == standby.pid
                assert bool(_filters(actor.pid)) == ("system_calls" in offered().on)
    finally:
        await end_process(standby)


async def test_it_keeps_its_rights_where_confinement_is_off(tmp_path: Path) -> None:
    tried = ("read a secret", "connect elsewhere", "start a shell")
    async with taken_over(tmp_path, confined=False, attempts=tried) as (actor, intruder):
        assert _told(actor) == Confinement()
        assert await intruder.attempts(actor.process.pid) == dict.fromkeys(tried, "allowed")


async def test_on_a_kernel_without_landlock_it_says_so_and_the_rest_is_confined(tmp_path: Path) -> None:
    rest = {
        name: outcome for part in offered().on if part not in CUT for name, outcome in FAILS[part].items()
    }
    tried = ("read a secret", *rest)
    async with taken_over(tmp_path, without_landlock=True, attempts=tried) as (actor, intruder):
        assert _told(actor).off == dict.fromkeys(CUT, "the kernel has no Landlock")
        assert await intruder.attempts(actor.process.pid) == {"read a secret": "allowed", **rest}


async def _until_ready(actor: ActorProcess) -> AsyncIterator[Any]:
    async for report in actor.reports():
        yield report
        if isinstance(report, Ready):
            return


def _filters(pid: int) -> int:
    """How many filters of system calls a process has."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status.get("Seccomp_filters", status["Seccomp"]))
