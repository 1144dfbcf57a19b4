"""What tracing costs at 100 %, and all that watches and guards together: beside a service without it.

    .venv/bin/python benchmarks/tracing.py [--quick]

Sides: `local` keeps spans on the disk, `otlp` sends them over HTTP to a collector on this machine as well,
which takes its part of the processor. The reference is the same service with `trace = "off"`, and so is
`control`: what it differs by is chance, or which service was started first.

- `streams`: 1 and 8 clients at once, each with a prompt of its own: tokens a second of all.
- `one_token`: a request for one token of a prompt that is in memory, in milliseconds.
- `requests`: `health_check`, the smallest of all, of a caller with a trace (without one it is not traced):
  milliseconds of one, and how many a second with 64 at once.
- `cpu`: the processor time that the service's processes take for a streamed answer, in milliseconds, which
  depends less on what else the machine does.
- `together`: the same four of a service with tracing and metrics (`otlp` both) and confined models, beside
  one with none of these.

Prints a line of JSON for each. Parts can be named, and the turns of each side given.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from subprocess import DEVNULL, PIPE
from typing import Final

import anyio
import psutil

from answers import ours
from gateway import read_all
from harness import Better, Choice, choice, in_rotation, report
from models import MODEL_IDS
from prompts import openings
from service import running_service
from suite import telemetry
from suite.client import Client

OFF: Final = "off"
SIDES: Final = {
    OFF: 'trace = "off"',
    "control": 'trace = "off"',
    "local": 'trace = "local"',
    "otlp": 'trace = "otlp"',
}
TOGETHER: Final = {
    OFF: 'trace = "off"\nmetrics = "off"\nconfinement = false',
    "all": 'trace = "otlp"\nmetrics = "otlp"\nconfinement = true',
}
PARTS: Final = ("streams", "one_token", "cpu", "requests")
CLIENTS: Final = (1, 8)
TOKENS, QUICK_TOKENS = 96, 16
REQUESTS, QUICK_REQUESTS = 60, 10
CHECKS, QUICK_CHECKS = 2000, 200
AT_ONCE: Final = 64
CALLER: Final = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
CPU_TOKENS: Final = 32
EXPORT_MILLISECONDS: Final = 1000
"""How long spans wait for their export: shorter than by default, so that each side pays for its own turn."""
EXPORT_SECONDS: Final = 2.0
"""The last spans are exported by then."""

COLLECTOR: Final = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


@asynccontextmanager
async def collector() -> AsyncIterator[None]:
    """A collector that reads what comes and keeps nothing, for the processes that are started meanwhile."""
    command = [sys.executable, "-c", COLLECTOR]
    async with await anyio.open_process(command, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL) as process:
        assert process.stdout is not None
        port = (await process.stdout.receive()).decode().strip()
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{port}"
        os.environ["OTEL_BSP_SCHEDULE_DELAY"] = str(EXPORT_MILLISECONDS)
        try:
            yield
        finally:
            process.kill()


async def tokens_per_second(client: Client, model_id: str, clients: int, tokens: int, turn: int) -> float:
    """Clients that ask at the same moment. Each prompt is new."""
    server = ours(client, model_id)
    answers = [server(prompt, tokens) for prompt in openings(f"tracing {clients} {turn}", clients)]
    await read_all(answers)
    seconds = max(answer.ended for answer in answers) - min(answer.asked for answer in answers)
    return sum(answer.tokens for answer in answers) / seconds


async def one_token_ms(client: Client, model_id: str, requests: int, _: int) -> float:
    (prompt,) = openings("one token", 1)
    server, took = ours(client, model_id), []
    for _ in range(requests):
        answer = await server(prompt, 1).read()
        took.append((answer.ended - answer.asked) * 1000)
    return statistics.median(took)


async def cpu_ms(client: Client, model_id: str, service: psutil.Process, requests: int, turn: int) -> float:
    server, before = ours(client, model_id), _cpu_seconds(service)
    for number in range(requests):
        await server(f"{turn}.{number} is a number.", CPU_TOKENS).read()
    await anyio.sleep(EXPORT_SECONDS)
    return (_cpu_seconds(service) - before) / requests * 1000


def _cpu_seconds(service: psutil.Process) -> float:
    """Of a service with its processes."""
    times = [each.cpu_times() for each in (service, *service.children(recursive=True))]
    return sum(each.user + each.system for each in times)


async def check_ms(client: Client, checks: int, _: int) -> float:
    took = []
    with telemetry.continuing(CALLER):
        for _ in range(checks // 4):
            began = time.perf_counter()
            await client.health_check()
            took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)


async def checks_per_second(client: Client, checks: int, _: int) -> float:
    async def ask() -> None:
        for _ in range(checks // AT_ONCE):
            await client.health_check()

    began = time.perf_counter()
    with telemetry.continuing(CALLER):
        async with anyio.create_task_group() as tasks:
            for _ in range(AT_ONCE):
                tasks.start_soon(ask)
    return checks // AT_ONCE * AT_ONCE / (time.perf_counter() - began)


def report_sides(name: str, figures: Mapping[str, Sequence[float]], *, unit: str, better: Better) -> None:
    """Print a line for each side beside the reference."""
    reference = statistics.median(figures[OFF])
    for side, values in figures.items():
        if side != OFF:
            report(f"{name}.{side}", statistics.median(values), reference, unit=unit, better=better)


@asynccontextmanager
async def running(
    sides: Mapping[str, str], model_id: str
) -> AsyncIterator[tuple[dict[str, Client], dict[str, psutil.Process]]]:
    """A client and the service of each side, whose settings are given, with the model in memory."""
    clients: dict[str, Client] = {}
    processes: dict[str, psutil.Process] = {}
    async with collector(), AsyncExitStack() as services:
        for side, settings in sides.items():
            before = set(psutil.Process().children())
            service = running_service(settings, model_ids=[model_id])
            clients[side], _ = await services.enter_async_context(service)
            (processes[side],) = set(psutil.Process().children()) - before
            await clients[side].load_model(model_id)
            await read_all([ours(clients[side], model_id)("warm", 4)])
        yield clients, processes


async def measure(
    name: str,
    parts: Sequence[str],
    chosen: Choice,
    model_id: str,
    clients: Mapping[str, Client],
    services: Mapping[str, psutil.Process],
) -> None:
    """Measure some parts of all sides. `name`: what the names of their figures begin with."""
    turns = chosen.turns or (1 if chosen.quick else 7)
    if "streams" in parts:
        for count in CLIENTS:
            tokens = QUICK_TOKENS if chosen.quick else TOKENS
            sides = {
                side: partial(tokens_per_second, client, model_id, count, tokens)
                for side, client in clients.items()
            }
            figures = await in_rotation(sides, turns)
            report_sides(f"{name}.streams.{count}", figures, unit="tokens/s", better="higher")
    if "one_token" in parts:
        requests = QUICK_REQUESTS if chosen.quick else REQUESTS
        asking = {side: partial(one_token_ms, client, model_id, requests) for side, client in clients.items()}
        report_sides(f"{name}.one_token", await in_rotation(asking, turns), unit="ms", better="lower")
    if "cpu" in parts:
        requests = QUICK_REQUESTS if chosen.quick else REQUESTS
        taking = {
            side: partial(cpu_ms, client, model_id, services[side], requests)
            for side, client in clients.items()
        }
        report_sides(f"{name}.cpu", await in_rotation(taking, turns), unit="ms", better="lower")
    if "requests" in parts:
        checks = QUICK_CHECKS if chosen.quick else CHECKS
        single = {side: partial(check_ms, client, checks) for side, client in clients.items()}
        report_sides(f"{name}.requests.1", await in_rotation(single, turns), unit="ms", better="lower")
        many = {side: partial(checks_per_second, client, checks) for side, client in clients.items()}
        report_sides(
            f"{name}.requests.{AT_ONCE}", await in_rotation(many, turns), unit="requests/s", better="higher"
        )


async def main(chosen: Choice) -> None:
    for model in chosen.models[:1]:
        model_id = MODEL_IDS[model]
        if parts := [part for part in chosen.parts if part in PARTS]:
            async with running(SIDES, model_id) as (clients, services):
                await measure("tracing", parts, chosen, model_id, clients, services)
        if "together" in chosen.parts:
            async with running(TOGETHER, model_id) as (clients, services):
                await measure("together", PARTS, chosen, model_id, clients, services)


if __name__ == "__main__":
    parts = (*PARTS, "together")
    anyio.run(main, choice(__doc__, parts=parts, models=MODEL_IDS), backend_options={"use_uvloop": True})
