"""A stop in order ends with 0, and soon, whatever does not answer."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Literal, TypeAlias

import anyio
import psutil
import pytest

import suite
from suite.bus.embedded import EmbeddedServer
from suite.bus.kv import Leases
from suite.config import NatsSettings, Settings
from suite.node import membership
from suite.node.startup import running_node
from support.faults import KillableServer
from support.journal import open_log
from support.models import tiny_model
from support.nats import running_nats
from support.ports import free_port
from support.service import facts, history, service_and_client, serving
from support.wire import slow_wire

ENDS_SECONDS = 9.0
"""It takes under 5 s, on a machine that has nothing else to do."""

Fault: TypeAlias = Literal["dead", "frozen", "stream gone"]


@contextmanager
def silent_collector() -> Iterator[dict[str, str]]:
    """Environment with a collector that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{listener.getsockname()[1]}"}


@contextmanager
def collector(port: int) -> Iterator[list[str]]:
    """One that takes all; the paths that were posted to."""
    received: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            received.append(self.path)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield received
        server.shutdown()


def settings_of(server: EmbeddedServer, data_dir: Path, port: int) -> Settings:
    access = server.access
    nats = NatsSettings(
        url=f"nats://127.0.0.1:{port}",
        user=access.user,
        password=access.password,
        inbox_prefix=access.inbox_prefix,
    )
    return Settings(node="far", data_dir=data_dir, models_directories=(data_dir,), standby=False, nats=nats)


async def test_a_node_far_from_its_nats_never_takes_its_own_stop_for_anothers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def put(self: Leases, name: str, value: bytes) -> None:
        """Takes no time."""

    # It looks at its name all the time, so that one look is under way whenever it stops.
    monkeypatch.setattr(membership, "RENEW_SECONDS", 0.0)
    monkeypatch.setattr(Leases, "put", put)
    async with running_nats(tmp_path) as (server, _), slow_wire(server.port, seconds=0.03) as port:
        for _ in range(2):
            async with running_node(settings_of(server, tmp_path / "data", port)):
                pass
        async with open_log(server.access) as (_, log):
            nodes = [event async for event in log.read("suite.event.node.>")]
            assert facts(nodes) == ["node.started", "node.stopped"] * 2


@pytest.mark.parametrize("fault", ["dead", "frozen", "stream gone"])
async def test_a_stop_waits_neither_for_nats_nor_for_a_collector(tmp_path: Path, fault: Fault) -> None:
    models = tmp_path / "models"
    models.mkdir()
    tiny_model(models / "tiny.gguf")
    async with KillableServer.start(tmp_path) as server:
        url = ("--nats-url", server.access.url)
        with silent_collector() as environ:
            async with serving(
                models, tmp_path / "data", "--trace", "otlp", *url, environ=environ
            ) as service:
                async with suite.connect(server.access.url) as client:
                    await client.generate_text("tiny", "Once", max_tokens=2)
                match fault:
                    case "dead":
                        await server.kill()
                    case "frozen":
                        server.freeze()
                    case "stream gone":
                        await server.delete_stream("SUITE")
                with anyio.fail_after(ENDS_SECONDS):
                    assert await service.stop() == 0
                assert "Traceback" not in service.errors.read_text()


async def test_an_embedded_server_that_hangs_is_ended_with_its_node(tmp_path: Path) -> None:
    async with serving(tmp_path, tmp_path / "data") as service:
        (server,) = [each for each in psutil.Process(service.pid).children() if "nats" in each.name()]
        server.suspend()
        with anyio.fail_after(ENDS_SECONDS):
            assert await service.stop() == 0
        assert not server.is_running()


async def test_a_collector_that_is_away_costs_one_line_and_no_time(tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny.gguf")
    port = free_port()
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }
    async with service_and_client(tmp_path, tmp_path / "data", "--trace", "otlp", environ=environ) as (
        service,
        client,
    ):
        for _ in range(2):
            await client.load_model("tiny")
            with anyio.fail_after(4):  # after 5 s its process would be killed
                await client.unload_model("tiny")
        while "takes no traces" not in service.errors.read_text():
            await client.clear_kv_cache()  # what only looks something up begins no trace
        health = await client.health_check()
        (traces,) = [each for each in health.breakers if each.name == "traces"]
        assert (traces.kind, health.status) == ("otlp", "HEALTHY")
        assert f"127.0.0.1:{port}" in traces.reason
        with collector(port) as received:
            while not received:
                await client.clear_kv_cache()
                await anyio.sleep(0.05)
            while (told := facts(await history(client, "breaker.*.otlp.traces.>")))[-1:] != [
                "breaker.closed"
            ]:
                await anyio.sleep(0.05)
            states = {each.name: each.state for each in (await client.get_stats()).breakers}
            assert states["traces"] == "closed"
        assert told[:2] == ["breaker.opened", "breaker.half_opened"]
        assert await service.stop() == 0
    words = ("suite.telemetry", "opentelemetry.", "retrying")
    told = [line for line in service.errors.read_text().splitlines() if any(word in line for word in words)]
    assert "takes no traces" in told[0]
    assert "takes traces again" in told[1]  # and nothing between
