"""What the page of the dashboard gets from a real gateway, without a browser."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, cast

import anyio
import anyio.lowlevel
import msgspec
import pytest

import suite
from suite.client import Client
from suite.errors import ModelNotFound, Unavailable
from suite.explanation.sentences import FACTS
from suite.gateway.access import Rights
from suite.gateway.dashboard import endpoints, history
from suite.gateway.dashboard.files import static_files
from suite.gateway.dashboard.history import EventsWanted, events_page
from suite.gateway.dashboard.live import Live, piece
from suite.gateway.dashboard.told import Events, event_document
from suite.gateway.dashboard.traces import TraceWanted
from suite.identity import utc_now
from suite.messages.envelope import Recorded
from suite.messages.events import UnknownEvent
from suite.tasks import background
from support.gateway import RunningGateway
from support.nats import eventually


def connected(gateway: RunningGateway) -> AbstractAsyncContextManager[Client]:
    return suite.connect(data_dir=gateway.data_dir)


def test_the_page_may_ask_nobody_else_and_is_sent_once(gateway: RunningGateway) -> None:
    page = gateway.get("/ui")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    again = gateway.get("/ui", {"If-None-Match": page.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    assert gateway.get("/ui/static/app.js").headers["content-type"].startswith("text/javascript")
    assert gateway.get("/ui/static/../app.py").error["code"] == "unknown_path"


def test_the_page_names_all_its_modules_so_that_they_come_at_once(gateway: RunningGateway) -> None:
    page = gateway.get("/ui").body.decode()
    modules = {path for path in static_files() if path.endswith(".js")}
    assert set(re.findall(r'"/ui/static/([^"]+\.js)"', page)) == modules


def test_only_what_looks_up_is_asked_and_only_what_changes_is_done(gateway: RunningGateway) -> None:
    assert gateway.post("/ui/ask/health_check", {}).document["nodes"] == ["test"]
    assert gateway.post("/ui/ask/explain", {"model_id": "tine"}).error["code"] == "model_not_found"
    assert gateway.post("/ui/ask/explain", b"{").error["code"] == "invalid_json"
    for path in ("/ui/ask/load_model", "/ui/do/create_key", "/ui/do/health_check"):
        assert gateway.post(path, {}).error["code"] == "unknown_path"
    elsewhere = {"Origin": "http://elsewhere.example"}
    assert gateway.post("/ui/do/load_model", {}, elsewhere).error["code"] == "origin_not_allowed"


@pytest.mark.parametrize("query", ["limit=0", "before=x", "fliter=usage", "filter=usgae", "after=-1"])
def test_a_page_of_the_log_that_makes_no_sense_is_refused(gateway: RunningGateway, query: str) -> None:
    answer = gateway.get(f"/ui/events?{query}")
    assert (answer.status, answer.error["code"]) == (400, "invalid_request")


def test_the_page_links_what_can_be_explained() -> None:
    source = static_files()["events.js"].body.decode()
    named = re.search(r"EXPLAINED = new Set\(\[(.*?)\]\)", source, re.DOTALL)
    assert named is not None
    assert set(re.findall(r'"([a-z_.]+)"', named[1])) == {f"{each.aggregate}.{each.fact}" for each in FACTS}


def test_a_name_in_an_address_means_what_the_command_line_takes(gateway: RunningGateway) -> None:
    for name in ("tiny", "TINY", "ti"):
        assert gateway.get(f"/ui/model?name={name}").document == {"model_id": "tiny"}
    assert gateway.get("/ui/model?name=nosuch").error["code"] == "model_not_found"
    assert gateway.get("/ui/model").error["code"] == "invalid_request"


def test_a_trace_that_nobody_keeps_is_refused_with_what_to_do(gateway: RunningGateway) -> None:
    assert gateway.get(f"/ui/trace?id={'f' * 32}").error["code"] == "trace_not_found"
    untraced = gateway.get("/ui/trace?id=1").error
    assert untraced["code"] == "trace_not_found"
    assert "tracing was off" in untraced["message"]
    for query in ("id=abc", "id=1&seq=x", "seq=1"):
        assert gateway.get(f"/ui/trace?{query}").error["code"] == "invalid_request"
    assert gateway.post("/ui/ask/list_traces", {}).document["traces"] == []


async def test_pages_of_the_log_are_the_whole_log(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rare events far back, and many: the window at the end of the log is widened and narrowed."""
    monkeypatch.setattr(history, "MOST_READ", 5)
    async with connected(gateway) as client:
        for number in range(60):
            agent = "rare" if number < 3 else "often"
            await client.log_performance_metric(agent, "speed", number)
        for filter in ("metric.rare", "metric.often", "metric", None):
            whole = [event.seq async for event in client.events(filter)]
            for limit in (1, 7, 200):
                assert await seqs(client, filter, limit) == whole[::-1], (filter, limit)


async def seqs(client: Client, filter: str | None, limit: int) -> list[int]:
    """All events under a filter, read page by page."""
    found: list[int] = []
    wanted = EventsWanted(filter=filter, limit=limit)
    while True:
        page = await events_page(client, wanted)
        found += [event["seq"] for event in page.events]
        if not page.has_more:
            return found
        wanted = EventsWanted(filter=filter, limit=limit, before=found[-1])


async def test_few_pages_of_the_log_and_traces_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a key that may only look does not hold up those who chat."""
    reading = most = 0
    found: list[object] = []

    async def read(_client: Client, wanted: EventsWanted | TraceWanted) -> object:
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        for _ in range(20):  # until all that may be read at once are being read
            await anyio.lowlevel.checkpoint()
        reading -= 1
        found.append(wanted)
        return wanted

    monkeypatch.setattr(endpoints, "events_page", read)
    monkeypatch.setattr(endpoints, "trace_found", read)
    client = cast(Client, None)
    page = endpoints._Dashboard(cast(Any, None))
    async with anyio.create_task_group() as tasks:
        for number in range(1, 5):
            tasks.start_soon(page._page_of_log, client, EventsWanted(limit=number))
            tasks.start_soon(page._trace_of_log, client, TraceWanted(id=str(number)))
    assert (most, len(found)) == (endpoints.PAGES_AT_ONCE, 8)


async def test_a_page_goes_on_behind_an_event(gateway: RunningGateway) -> None:
    async with connected(gateway) as client:
        for number in range(4):
            await client.log_performance_metric("next", "speed", number)
        whole = [event.seq async for event in client.events("metric.next")]
        page = await events_page(client, EventsWanted(filter="metric.next", after=whole[0], limit=2))
        assert ([event["seq"] for event in page.events], page.has_more) == ([whole[2], whole[1]], True)


async def test_active_models_are_those_that_something_is_done_with(gateway: RunningGateway) -> None:
    async with connected(gateway) as client:
        await client.load_model("tiny")
        active = (await client.get_model_status(active=True)).models or {}
        assert "tiny" in active
        assert all(info.instance is not None or info.waiting for info in active.values())
        await client.unload_model("tiny")
        assert "tiny" not in ((await client.get_model_status(active=True)).models or {})


async def test_what_is_forwarded_comes_back_as_it_is_or_as_its_error(gateway: RunningGateway) -> None:
    async with connected(gateway) as client:
        assert b'"fleet_models"' in bytes(await client.forward("health_check", {}))
        with pytest.raises(ModelNotFound):
            await client.forward("get_model_status", {"model_id": "none"})


async def test_events_are_told_once_the_log_can_be_read_again(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(gateway) as client:
        monkeypatch.setattr(client, "last_seq", failing_once(client.last_seq))
        live, told = Live(client, now=utc_now, clock=time.monotonic), list[bytes]()
        async with background() as tasks:
            tasks.start_soon(live.run)
            tasks.start_soon(live.tell, told.append, Rights(endpoints=frozenset()))
            await eventually(lambda: any(b'"about":"log"' in each for each in told))
            await eventually(lambda: any(each.startswith(b"event: events") for each in told))
            await client.log_performance_metric("back", "speed", 1)
            await eventually(lambda: any(b"metric.back" in each for each in told))


@pytest.mark.parametrize(
    ("body", "told"),
    [(b'{\n\n"a": 1}', {"a": 1}), (b'{"a"\n\nevent: refused', '{"a"\n\nevent: refused'), (b"\xff", "\ufffd")],
)
def test_an_event_that_nobody_can_read_breaks_no_stream(body: bytes, told: object) -> None:
    event = Recorded(
        seq=1,
        subject="suite.event.later.happened",
        id="id",
        type="suite.later.happened.v9",
        source="/node/box1",
        time=utc_now(),
        data=UnknownEvent(body=body),
    )
    sent = piece("events", Events(events=(event_document(event),), skipped=0))
    name, data, *rest = sent.split(b"\n")
    assert (name, rest) == (b"event: events", [b"", b""])
    assert msgspec.json.decode(data.removeprefix(b"data: "))["events"][0]["data"] == told


def failing_once(work: Callable[[], Awaitable[int]]) -> Callable[[], Awaitable[int]]:
    """The same, away for a moment when it is asked first."""
    failures = [Unavailable("no connection to NATS")]

    async def fail_or_work() -> int:
        if failures:
            raise failures.pop()
        return await work()

    return fail_or_work
