"""What kernels of other ages offer, and what a process of a model is given."""

from __future__ import annotations

import errno
import os
import pwd
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from suite.actors.rights import make_directories, rights
from suite.confinement import gpus, landlock, seccomp
from suite.confinement.confinement import offered
from suite.messages.actions.status import Confinement
from suite.messages.actor import NatsAccess
from suite.node.confinement import ModelConfinement
from suite.node.process import end_process, open_process
from support.actors import spec

GIB = 1 << 30


# --- kernels --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSYS, "the kernel has no Landlock"),
        (errno.EOPNOTSUPP, "switched off"),
        (errno.EPERM, "EPERM"),
    ],
)
def test_without_landlock_files_and_network_are_not_confined(
    monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    def refuse() -> int:
        raise OSError(number, errno.errorcode[number])

    monkeypatch.setattr(landlock, "version", refuse)
    found = offered()
    assert found.off["files"] == found.off["network"]
    assert reason in found.off["files"]
    assert {"privileges", "limits"} <= {*found.on}


def test_an_old_landlock_confines_files_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "version", lambda: 3)
    found = offered()
    assert "files" in found.on
    assert "version 4" in found.off["network"]


def test_on_processors_whose_calls_are_not_known_none_is_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "NUMBERS", {})
    assert "not known" in offered().off["system_calls"]


def test_where_a_filter_of_the_system_forbids_filters_it_says_so() -> None:
    code = (
        "from suite.confinement import confinement, privileges, seccomp;"
        "privileges.drop(); seccomp.install([seccomp.Forbidden('seccomp')]);"
        "print(confinement.confine(confinement.Rights()).off['system_calls'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if told := offered().off.get("system_calls"):
        assert told
    else:
        assert "cannot be used: Operation not permitted" in done.stdout, done.stderr


@pytest.mark.parametrize("version", [1, 2, 3, 5])
def test_a_kernel_of_an_older_landlock_is_asked_for_what_it_knows(version: int) -> None:
    if told := offered().off.get("files"):
        assert "Landlock" in told
        return
    version = min(version, landlock.version())
    code = (
        "from pathlib import Path; from suite.confinement import landlock, privileges;"
        f"privileges.drop(); ruleset = landlock.Ruleset({version});"
        "ruleset.allow(Path('/usr/lib'), landlock.READ); ruleset.allow_port(4222); ruleset.restrict();"
        "list(Path('/usr/lib').iterdir())\n"
        "try: list(Path('/etc').iterdir())\n"
        "except PermissionError: print('confined')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "confined\n", done.stderr


def test_drivers_of_gpus_get_what_they_need() -> None:
    code = (
        "import socket; from suite.confinement.confinement import Rights, confine;"
        "confine(Rights(ports=(4222,), local_sockets=True, uses_gpus=True));"
        "found = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET);"
        "found.bind('\\0suite-test'); found.listen();"
        "open('/dev/shm/suite-test', 'w').close();"
        "import pathlib; pathlib.Path('/dev/shm/suite-test').unlink(); print('done')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "done\n", done.stderr


def test_cuda_gets_its_cache_even_at_the_first_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_CACHE_PATH", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    *_, cache = gpus.written()
    assert cache == tmp_path / ".nv" / "ComputeCache"
    assert cache.is_dir()


def test_a_user_without_a_home_has_no_cache_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: int) -> None:
        raise KeyError

    for name in ("CUDA_CACHE_PATH", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert [*gpus.written()] == [Path("/dev/shm")]


# --- what a node tells ----------------------------------------------------------------------------------


def test_it_tells_what_the_setting_has_switched_off() -> None:
    found = ModelConfinement.of(is_on=False).found
    assert found.on == ()
    assert {*found.off.values()} == {"the setting confinement is false"}


def test_what_a_process_tells_counts_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    told = ModelConfinement(Confinement(on=("files", "limits")))
    for _ in range(2):
        told.heard("tiny", Confinement(on=("limits",), off={"files": "2 threads ran before"}))
    told.heard("other", Confinement(on=("files", "limits")))
    assert told.found == Confinement(on=("limits",), off={"files": "2 threads ran before"})
    (line,) = caplog.messages
    assert "tiny" in line
    assert "2 threads ran before" in line


# --- what a process is given ----------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.touch()
    return path


def test_it_connects_to_the_servers_of_nats_only(model: Path) -> None:
    of_addresses = NatsAccess(url="nats://10.0.0.1:4333,10.0.0.2")
    given = rights(spec(model, nats=of_addresses), memory_bytes=GIB)
    assert {*given.ports} == {4333, 4222}
    assert not given.resolves_names


def test_it_resolves_names_where_nats_has_one(model: Path) -> None:
    given = rights(spec(model, nats=NatsAccess(url="wss://nats.example")), memory_bytes=GIB)
    assert given.ports == (443,)
    assert given.resolves_names


def test_it_asks_the_machine_for_names_of_mdns(model: Path) -> None:
    named = NatsAccess(url="nats://box.local")
    given = rights(spec(model, nats=named), memory_bytes=GIB)
    assert given.local_sockets


def test_it_connects_to_the_collector_of_traces_where_there_is_one(model: Path) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector.example", "HTTPS_PROXY": "10.0.0.3:3128"}
    traced = spec(
        model,
        nats=NatsAccess(url="nats://127.0.0.1:4222"),
        tracing={"mode": "otlp", "store": str(model.parent / "spans"), "store_bytes": 1 << 30},
    )
    given = rights(traced, memory_bytes=GIB, environ=environ)
    assert {4222, 443, 3128, 4317, 4318} == {*given.ports}
    assert given.resolves_names
    assert given.write == (model.parent / "spans",)
    make_directories(traced)
    assert given.write[0].is_dir()
    assert given.limits is not None
    assert given.limits.file_bytes == 1 << 30


def test_it_reads_what_its_spec_names(model: Path) -> None:
    access = NatsAccess(url="tls://127.0.0.1:1", ca_file="/ca.pem", credentials_file="/user.creds")
    given = rights(spec(model, nats=access, chat_template="/t.jinja"), memory_bytes=GIB)
    assert {model, Path("/ca.pem"), Path("/user.creds"), Path("/t.jinja")} == {*given.read}
    assert given.write == ()


def test_folders_that_others_may_open_are_closed_before_it_cannot_do_that(model: Path) -> None:
    root = model.parent / "snapshots"
    of_content = root / "content" / "key"
    of_content.mkdir(parents=True)
    of_content.chmod(0o755)
    kept = {"memory_bytes": 1, "disk_bytes": 1, "max_conversations": 1, "max_age_seconds": 1}
    access = NatsAccess(url="nats://127.0.0.1:4222")
    snapshotting = spec(model, nats=access, snapshots={"directory": str(root), **kept})
    make_directories(snapshotting)
    assert rights(snapshotting, memory_bytes=GIB, environ={}).write == (root,)
    assert of_content.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("exports", [False, True])
async def test_it_does_not_know_the_secrets_among_the_variables_of_its_node(
    monkeypatch: pytest.MonkeyPatch, exports: bool
) -> None:
    secrets = ("SUITE_NATS_PASSWORD", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY")
    for name in secrets:
        monkeypatch.setenv(name, "canary")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "needed")
    process = await open_process(exports_spans=exports)
    try:
        environ = (await anyio.Path(f"/proc/{process.pid}/environ").read_bytes()).decode()
    finally:
        await end_process(process)
    assert "canary" not in environ
    assert ("OTEL_EXPORTER_OTLP_HEADERS=needed" in environ) is exports
    assert f"PATH={os.environ['PATH']}" in environ
