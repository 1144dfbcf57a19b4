"""A real gateway before a real node, each in its process, and a raw HTTP client."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any, NamedTuple

from suite.config import ConnectionFile
from support.ports import free_port
from support.service import WITHOUT_STANDBY

START_SECONDS = 40.0
ANSWER_SECONDS = 60.0
END_SECONDS = 30.0


class Answered(NamedTuple):
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """OpenAI's error object."""
        error: dict[str, Any] = self.document["error"]
        return error

    @property
    def events(self) -> list[Any]:
        """The data of its events, read as JSON where they are; comments are left out."""
        lines = [
            line.removeprefix("data: ")
            for line in self.body.decode().splitlines()
            if line.startswith("data: ")
        ]
        return [json.loads(line) if line.startswith("{") else line for line in lines]


class RunningGateway(NamedTuple):
    """A gateway that listens, and the data directory of its node."""

    host: str
    port: int
    data_dir: Path

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def connect(self) -> HTTPConnection:
        return HTTPConnection(self.host, self.port, timeout=ANSWER_SECONDS)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answered:
        return self.send("GET", path, None, headers)

    def post(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> Answered:
        """Post a document, or bytes as they are."""
        return self.send(
            "POST", path, body if isinstance(body, bytes) else json.dumps(body).encode(), headers
        )

    def send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str] | None = None
    ) -> Answered:
        connection = self.connect()
        try:
            connection.request(method, path, body, dict(headers or {}))
            return answered(connection.getresponse())
        finally:
            connection.close()


def answered(response: HTTPResponse) -> Answered:
    """The whole of an answer."""
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answered(response.status, headers, response.read())


@contextmanager
def running_gateway(
    models: Path, data_dir: Path, *options: str, gateway: tuple[str, ...] = ()
) -> Iterator[RunningGateway]:
    """`suite serve` on a directory of models, and `suite gateway` before it."""
    with running_node(models, data_dir, *options), gateway_of(data_dir, *gateway) as running:
        yield running


@contextmanager
def running_node(models: Path, data_dir: Path, *options: str) -> Iterator[None]:
    """`suite serve` on a directory of models, without a gateway."""
    data_dir.mkdir(parents=True, exist_ok=True)
    serve = ["serve", "--data-dir", str(data_dir), "--models-dir", str(models), "--node", "test", *options]
    with _process(serve, data_dir / "serve.log", WITHOUT_STANDBY) as node:
        _wait_for_node(node, data_dir)
        yield


@contextmanager
def beside_a_node(
    models: Path, data_dir: Path, *options: str, environ: Mapping[str, str] | None = None
) -> Iterator[RunningGateway]:
    """`suite serve --http` on a directory of models."""
    data_dir.mkdir(parents=True, exist_ok=True)
    serve = ["serve", "--data-dir", str(data_dir), "--models-dir", str(models), "--http", "127.0.0.1:0"]
    with _process([*serve, *options], data_dir / "serve.log", {**WITHOUT_STANDBY, **(environ or {})}) as node:
        _wait_for_node(node, data_dir)
        url = ConnectionFile.read(data_dir).http
        assert url is not None
        yield RunningGateway("127.0.0.1", int(url.rpartition(":")[2]), data_dir)


@contextmanager
def gateway_of(data_dir: Path, *options: str) -> Iterator[RunningGateway]:
    """`suite gateway` for the node of a data directory, on a free port."""
    port = free_port()
    command = ["gateway", "--data-dir", str(data_dir), "--listen", f"127.0.0.1:{port}", *options]
    log = data_dir / f"gateway-{port}.log"
    with _process(command, log) as process:
        wait_for_port(port, process, log)
        yield RunningGateway("127.0.0.1", port, data_dir)


@contextmanager
def gateway_for(directory: Path, environ: Mapping[str, str], *options: str) -> Iterator[RunningGateway]:
    """`suite gateway` for the service that the environment says, on a free port."""
    port = free_port()
    log = directory / f"gateway-{port}.log"
    with _process(["gateway", "--listen", f"127.0.0.1:{port}", *options], log, environ) as process:
        wait_for_port(port, process, log)
        yield RunningGateway("127.0.0.1", port, directory)


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.02)


def _wait_for_node(process: subprocess.Popen[bytes], data_dir: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while not ConnectionFile.path(data_dir).exists():
        assert process.poll() is None, (data_dir / "serve.log").read_text()
        assert time.monotonic() < end
        time.sleep(0.02)


@contextmanager
def _process(
    arguments: list[str], log: Path, environ: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SUITE_")}
    environment |= environ or {}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "suite", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(END_SECONDS)
        finally:
            process.kill()
            process.wait()
