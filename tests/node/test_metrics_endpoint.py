"""Where Prometheus fetches the metrics of a node."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from suite.config import Settings
from suite.errors import InvalidConfiguration, PortTaken
from suite.listening import listening, url_of
from suite.node.metrics_endpoint import measured
from support.gateway import RunningGateway


def settings(directory: Path, listen: str | None) -> Settings:
    return Settings(data_dir=directory, metrics_listen=listen)


async def test_it_serves_metrics_and_nothing_else(tmp_path: Path) -> None:
    with measured(settings(tmp_path, "127.0.0.1:0")) as scrape:
        assert scrape is not None
        host, port = scrape.opened.getsockname()
        place = RunningGateway(host, port, tmp_path)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(scrape.serve)
            found = await anyio.to_thread.run_sync(place.get, "/metrics")
            missing = await anyio.to_thread.run_sync(place.get, "/")
            posted = await anyio.to_thread.run_sync(place.post, "/metrics", {})
            tasks.cancel_scope.cancel()
    assert (found.status, missing.status) == (200, 404)
    assert posted.status in (405, 413)
    assert b"process_resident_memory_bytes" in found.body


async def test_the_text_is_made_beside_the_event_loop_for_one_at_a_time(tmp_path: Path) -> None:
    with measured(settings(tmp_path, "127.0.0.1:0")) as scrape:
        assert scrape is not None
        watching = Watching()
        scrape.exposition.registry.register(watching)
        watching.threads.clear()
        host, port = scrape.opened.getsockname()
        place = RunningGateway(host, port, tmp_path)

        async def ask() -> None:
            await anyio.to_thread.run_sync(place.get, "/metrics")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(scrape.serve)
            async with anyio.create_task_group() as asking:
                for _ in range(4):
                    asking.start_soon(ask)
            tasks.cancel_scope.cancel()
    assert len(watching.threads) == 4
    assert threading.get_ident() not in watching.threads
    assert watching.most == 1


class Watching(Collector):
    """Notes by which threads the text is made, and how many do at once."""

    def __init__(self) -> None:
        self.threads: list[int] = []
        self.most = 0
        self._now = 0

    def collect(self) -> Iterator[Metric]:
        self.threads.append(threading.get_ident())
        self._now += 1
        self.most = max(self.most, self._now)
        time.sleep(0.02)  # enough for the others to come
        self._now -= 1
        yield from ()


def test_a_port_that_is_taken_and_an_address_that_is_none_are_refused(tmp_path: Path) -> None:
    with listening("127.0.0.1", 0) as taken:
        address = url_of(taken).removeprefix("http://")
        with pytest.raises(PortTaken, match="not free for metrics"), measured(settings(tmp_path, address)):
            pass
    with pytest.raises(InvalidConfiguration, match="write it as 127"):
        with measured(settings(tmp_path, "everywhere")):
            pass


def test_nothing_is_measured_by_default(tmp_path: Path) -> None:
    with measured(settings(tmp_path, None)) as scrape:
        assert scrape is None
