"""That a service confines its models without being asked, and tells what of it this machine cannot do."""

from __future__ import annotations

from pathlib import Path

from suite.confinement.confinement import offered
from support.intruder import Intruder, Targets
from support.models import tiny_model
from support.service import service_and_client


async def test_its_models_are_confined_and_health_says_how(tmp_path: Path) -> None:
    for name in ("models", "seen"):
        (tmp_path / name).mkdir()
    model, data = tiny_model(tmp_path / "models" / "tiny.gguf"), tmp_path / "data"
    targets = Targets(
        results=str(tmp_path / "seen"),
        secret=str(data / "connection.json"),
        model=str(model),
        permitted_port=0,
        other_port=0,
        attempts=("read a secret", "read its model", "new privileges"),
    )
    intruder = Intruder.prepare(tmp_path / "site", targets)
    async with service_and_client(tmp_path / "models", data, environ=intruder.environ) as (_, client):
        await client.generate_text("tiny", "hello", max_tokens=1)
        status = await client.get_model_status("tiny")
        assert status.model is not None
        assert status.model.instance is not None
        assert status.model.instance.pid is not None
        own = await intruder.attempts(status.model.instance.pid)
        assert own["read its model"] == "allowed"
        assert own["new privileges"] == "none"
        (health,) = (await client.health_check()).node_health
        assert health.confinement == offered()
        if "files" in offered().on:
            assert own["read a secret"] == "EACCES"


async def test_what_this_kernel_cannot_confine_stands_in_health_and_in_the_log(tmp_path: Path) -> None:
    for name in ("models", "seen"):
        (tmp_path / name).mkdir()
    tiny_model(tmp_path / "models" / "tiny.gguf")
    targets = Targets(
        results=str(tmp_path / "seen"),
        secret="",
        model="",
        permitted_port=0,
        other_port=0,
        without_landlock=True,
    )
    environ = Intruder.prepare(tmp_path / "site", targets).environ
    async with service_and_client(tmp_path / "models", tmp_path / "data", environ=environ) as (
        service,
        client,
    ):
        await client.generate_text("tiny", "hello", max_tokens=1)
        reply = await client.health_check()
        assert reply.status == "HEALTHY"
        (health,) = reply.node_health
        assert health.confinement is not None
        assert health.confinement.off == dict.fromkeys(("files", "network"), "the kernel has no Landlock")
        assert service.errors.read_text().count("not confined") == 1
