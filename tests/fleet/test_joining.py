"""Nodes whose own NATS servers are one cluster: `suite serve --join`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import psutil
import pytest

import suite
from suite.client import Client
from suite.config import load_settings
from suite.errors import ClusterFileUnusable, InvalidConfiguration, SuiteError
from suite.node.nats_server import part_in_cluster
from support.cluster import cluster_file
from support.models import tiny_model
from support.ports import free_ports
from support.service import Serving, serving

NAMES = ("box1", "box2", "box3")
PATIENCE_SECONDS = 40.0
END_SECONDS = 60.0


class Joined:
    """Three nodes, each with a nats-server of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.models = directory / "models"
        self.models.mkdir()
        tiny_model(self.models / "small.gguf")
        self.file = directory / "fleet.cluster"
        cluster_file().write(self.file)
        self.ports = dict(zip(NAMES, free_ports(len(NAMES)), strict=True))

    @asynccontextmanager
    async def node(self, name: str) -> AsyncIterator[Serving]:
        options = ["--node", name, "--cluster-file", str(self.file)]
        for port in self.ports.values():  # its own too: the same line serves all machines
            options += ["--join", f"127.0.0.1:{port}"]
        environ = {"SUITE_NATS_CLUSTER_LISTEN": f"127.0.0.1:{self.ports[name]}"}
        async with serving(self.models, self.directory / name, *options, environ=environ) as service:
            yield service


@asynccontextmanager
async def joined(directory: Path) -> AsyncIterator[tuple[dict[str, Serving], dict[str, Client]]]:
    """The three nodes and a client of each, when the log is on all of them."""
    machines = Joined(directory)
    services: dict[str, Serving] = {}
    async with AsyncExitStack() as stack:

        async def start(name: str) -> None:
            services[name] = await stack.enter_async_context(machines.node(name))

        async with anyio.create_task_group() as tasks:
            for name in NAMES:
                tasks.start_soon(start, name)
        clients = {
            name: await stack.enter_async_context(suite.connect(data_dir=directory / name)) for name in NAMES
        }
        await survives(clients["box1"])
        yield services, clients


async def survives(client: Client, names: Sequence[str] = NAMES) -> None:
    """Wait until each node says that the log would survive the loss of a server."""
    with anyio.fail_after(PATIENCE_SECONDS):
        for name in names:
            while True:
                try:
                    health = await client.on_node(name).health_check()
                except SuiteError:
                    health = None
                if health is not None and health.log_servers and health.log_servers.survives_loss:
                    break
                await anyio.sleep(0.1)


def nats_server_of(service: Serving) -> psutil.Process:
    (found,) = (each for each in psutil.Process(service.pid).children() if "nats-server" in each.name())
    return found


@pytest.mark.timeout(120)
async def test_three_joined_nodes_are_one_fleet_that_outlives_any_server(tmp_path: Path) -> None:
    async with joined(tmp_path) as (services, clients):
        health = await clients["box1"].health_check()
        assert set(health.nodes) == set(NAMES)
        assert health.log_servers is not None and set(health.log_servers.current) == set(NAMES)
        leader = health.log_servers.leader
        assert leader is not None
        # The users are the same on all of them, and so is the log.
        seen = {name: [each.id async for each in client.events()] for name, client in clients.items()}
        shared = min(map(len, seen.values()))  # it may have grown between two looks
        assert shared >= len(NAMES)
        assert seen["box1"][:shared] == seen["box2"][:shared] == seen["box3"][:shared]

        done: dict[str, int] = {}
        others = [name for name in NAMES if name != leader]
        async with anyio.create_task_group() as tasks:
            for name in others:
                tasks.start_soon(use, clients[name], name, done)
            nats_server_of(services[leader]).kill()
        await survives(clients[others[0]])
        again = {name: (await client.health_check()).log_servers for name, client in clients.items()}
        assert all(found is not None and found.survives_loss for found in again.values())
        page = await clients[leader].get_performance_metrics(min_seq=max(done.values()))
        assert sorted(each.metric_id for each in page.metrics) == sorted(done)


async def use(client: Client, name: str, done: dict[str, int]) -> None:
    """Requests while a server dies: each ends, and one that failed is made again with the same id."""
    for number in range(20):
        id = f"{name}-{number}"
        with anyio.fail_after(END_SECONDS):
            while id not in done:
                try:
                    done[id] = (await client.log_performance_metric(name, "latency", 1.0, metric_id=id)).seq
                except SuiteError:
                    await anyio.sleep(0.05)
        await anyio.sleep(0.02)


@pytest.mark.parametrize(
    ("nats", "said"),
    [
        ({"join": ("box2",)}, "--join needs --cluster-file"),
        ({"join": ("box2",), "cluster_file": "none"}, "the cluster file none cannot be read"),
        ({"join": ("nats://box2",), "cluster_file": "{file}"}, "is no address"),
        ({"join": ("box2",), "cluster_file": "{file}", "cluster_listen": "a b"}, "is no address"),
        ({"cluster_file": "{file}"}, "without nats.join"),
        ({"listen": "0.0.0.0"}, "passwords would cross the network in the clear"),
    ],
)
def test_what_does_not_go_together_is_said_in_one_line(
    tmp_path: Path, nats: dict[str, object], said: str
) -> None:
    file = tmp_path / "fleet.cluster"
    cluster_file().write(file)
    given = {key: value.format(file=file) if isinstance(value, str) else value for key, value in nats.items()}
    settings = load_settings(environ={}, flags={"nats": given})
    with pytest.raises((InvalidConfiguration, ClusterFileUnusable)) as raised:
        part_in_cluster(settings)
    assert said in raised.value.message and "\n" not in raised.value.message


def test_this_machine_may_be_among_those_to_join_and_ports_are_the_usual_ones(tmp_path: Path) -> None:
    file = tmp_path / "fleet.cluster"
    cluster_file().write(file)
    environ = {"SUITE_NATS_JOIN": "box1,box2:7000,[fd00::3]", "SUITE_NATS_CLUSTER_FILE": str(file)}
    settings = load_settings(environ=environ, flags={"node": "box 1.local"})
    part = part_in_cluster(settings)
    assert part is not None
    assert part.join == ("box1:6222", "box2:7000", "[fd00::3]:6222")
    assert part.server == "box%201%2Elocal" and settings.nats.wanted_replicas == 3
