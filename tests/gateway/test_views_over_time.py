"""The views over time before a real node whose log has a day: told by the actions, and shown by the page."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import psutil
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from suite.client import Client
from suite.errors import InvalidRequest
from suite.identity import utc_now
from suite.messages.actions.replay import ReplayHistoryReply
from suite.messages.signals import Replaying
from support.a_day import MODELS, write_a_day
from support.browser import Browser, Page, running_browser
from support.fleet import Fleet
from support.gateway import RunningGateway, gateway_for
from support.models import tiny_model
from support.nats import gateway_environment, mirrored_nats, operator_of

pytestmark = pytest.mark.timeout(180)  # with the time of the fixtures

SECONDS: Final = 30.0
T = TypeVar("T")
SCREENS = Path(__file__).parents[2] / "docs" / "screens"


class Place(NamedTuple):
    """A node, a gateway before it, and a browser."""

    portal: BlockingPortal
    client: Client
    gateway: RunningGateway
    browser: Browser

    def ask(self, action: str, **fields: object) -> Any:
        """What the page gets for a look-up."""
        answer = self.gateway.post(f"/ui/ask/{action}", fields)
        assert answer.status == 200, answer.body
        return answer.document


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("over_time")
    (directory / "models").mkdir()
    tiny_model(directory / "models" / "tiny.gguf")
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(node_with_a_day(directory)) as found,
        gateway_for(directory, gateway_environment(found.server)) as gateway,
        running_browser() as browser,
    ):
        story = partial(found.client.generate_text, "tiny", "Once upon a time", max_tokens=2)
        for _ in range(3):
            portal.call(story)
        yield Place(portal, found.client, gateway, browser)


@asynccontextmanager
async def node_with_a_day(directory: Path) -> AsyncIterator[Fleet]:
    async with mirrored_nats(directory, is_shared=True) as server:
        await write_a_day(server, utc_now())
        async with operator_of(server) as client:
            found = Fleet(server, client, directory)
            async with found.node("box1", directory / "models"):
                yield found


# --- the actions ------------------------------------------------------------------------------------------


def test_requests_and_the_models_that_served_them_are_told(place: Place) -> None:
    total = place.ask("get_request_statistics")["total"]
    assert total["requests"] >= 900
    assert (total["refused"], total["refusals"]) == (12, {"not_enough_memory": 12})
    assert 0 < total["first_token"]["p50_ms"] < total["total"]["p99_ms"]
    own = place.ask("get_request_statistics", model_id="tiny")["total"]
    assert (own["requests"], own["cold_starts"]) == (3, 1)


def test_a_stay_leads_to_what_decided_it(place: Place) -> None:
    lanes = {each["model_id"]: each for each in place.ask("get_residency_timeline")["lanes"]}
    assert set(lanes) == {*MODELS, "tiny"}
    stay = lanes["tiny"]["stays"][-1]
    assert stay["ready_at"] is not None
    explained = place.ask("explain", seq=stay["begun_seq"])
    assert "began to load" in explained["events"][0]["sentences"][0]


def test_bets_are_told_with_their_calibration(place: Place) -> None:
    reply = place.ask("get_bet_statistics", since=0)
    assert reply["total"]["made"] == 70
    assert reply["total"]["hits"] + reply["total"]["wastes"] == 70
    assert reply["calibration"]["brier"] < reply["calibration"]["brier_of_base_rate"]
    assert len(place.ask("get_bets", limit=30)["bets"]) == 30


def test_evaluations_and_metrics_are_told_over_time(place: Place) -> None:
    (model,) = place.ask("get_model_quality", model_names=[MODELS[0]])["models"]
    assert len(model["evaluations"]) == 24
    assert model["trust"] == pytest.approx(model["trust_points"][-1]["trust"])
    series = place.ask("get_metric_series", metric_name="answer_seconds")
    assert [each["agent_name"] for each in series["agents"]] == ["coder", "planner", "reviewer"]
    assert place.ask("list_metrics")["metrics"][0]["metric_name"] == "answer_seconds"


def test_the_log_is_replayed_in_a_process_of_its_own(place: Place) -> None:
    progress: list[Replaying] = []

    async def replay(*memory_gb: float) -> ReplayHistoryReply:
        return await place.client.replay_history(
            memory_gb=memory_gb, requests=200, on_progress=progress.append
        )

    reply = place.portal.call(replay, 4.0, 8.0)
    assert reply.requests == 200
    assert {each.memory_gb for each in reply.outcomes} == {4.0, 8.0}
    assert any(each.knows_future for each in reply.outcomes)
    assert reply.advice.sentences[0].startswith("recommended: ")
    done = [each.fraction for each in progress if each.phase == "replaying"]
    assert len(done) > 5
    assert done == sorted(done)
    assert done[-1] >= 0.85
    assert {each.phase for each in progress} == {"reading", "replaying"}
    with pytest.raises(InvalidRequest, match="has room for none"):
        place.portal.call(replay, 1e-6)
    told = place.gateway.post("/ui/replay", {"memory_gb": [4], "requests": 50}).body.decode()
    assert re.findall(r"^event: (\w+)", told, re.MULTILINE)[-2:] == ["progress", "end"]
    assert place.gateway.post("/ui/replay", {"requests": 0}).error["code"] == "invalid_request"
    assert place.gateway.post("/ui/replay", b"{").error["code"] == "invalid_json"


@pytest.mark.parametrize("requester", ["page", "client"])
def test_a_replay_ends_when_nobody_waits_for_it_any_more(place: Place, requester: str) -> None:
    # Far more than is done by the time at which its process is stopped, which then cannot end by itself.
    asked: Any = {
        "policies": ["best_lately", "relaxed_belady", "greedy_dual", "decayed_frequency", "lru"],
        "memory_gb": [2, 3, 4, 5, 6, 8],
    }
    with ExitStack() as leaving:
        if requester == "page":
            page = place.gateway.connect()
            leaving.callback(page.close)
            page.request("POST", "/ui/replay", json.dumps(asked))
        else:
            waiting = place.portal.start_task_soon(partial(place.client.replay_history, **asked))
            leaving.callback(waiting.cancel)
        process = eventually(replaying)
        process.suspend()
    try:
        process.wait(SECONDS)
    finally:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def replaying() -> psutil.Process | None:
    """The process that replays for the node of this process; None: there is none."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if "suite.prediction.replay.job" in child.cmdline():
                return child
    return None


def eventually(found: Callable[[], T | None]) -> T:
    """What is found, once it is there."""
    end = time.monotonic() + SECONDS
    while (there := found()) is None:
        assert time.monotonic() < end
        time.sleep(0.02)
    return there


def test_bad_windows_are_refused(place: Place) -> None:
    for action in ("get_request_statistics", "get_residency_timeline", "get_bet_statistics"):
        for fields in ({"since": "yesterday"}, {"since": 2, "until": 1}, {"since": 1e300}):
            refused = place.gateway.post(f"/ui/ask/{action}", fields)
            assert refused.error["code"] == "invalid_request", (action, fields)


# --- the page ---------------------------------------------------------------------------------------------


def shown(page: Page, title: str) -> None:
    """Wait until a view shows what it has looked up."""
    page.wait(f'nav a[aria-current]:text-is("{title}")')
    page.wait('.view[aria-busy="false"]')


@pytest.mark.parametrize(
    ("title", "part"),
    [("Time", ".timeline .stay"), ("Bets", ".bets .rows > .row"), ("Quality", ".compared .rows > .row")],
)
def test_each_view_shows_what_there_is_and_axe_finds_nothing_serious(
    place: Place, title: str, part: str
) -> None:
    url = f"{place.gateway.url}/ui#/{title.lower()}?span=24h"
    with place.browser.page(url, size=(1440, 1000)) as page:
        shown(page, title)
        page.wait(part)
        assert page.count(".notice.bad") == 0
        assert page.serious_findings() == []
        assert page.problems == []
        assert set(page.hosts) == {f"{place.gateway.host}:{place.gateway.port}"}
        take_picture(page, f"{title.lower()}-light")
        with page.dark():
            assert page.serious_findings("color-contrast") == []
            take_picture(page, f"{title.lower()}-dark")


def take_picture(page: Page, name: str) -> None:
    """For the documentation, if it is wanted."""
    if os.environ.get("WRITE_SCREENS"):
        page.screenshot(SCREENS / f"{name}.png")


def test_a_stay_is_read_and_explained_by_keyboard_alone(place: Place) -> None:
    with place.browser.page(f"{place.gateway.url}/ui#/time?span=24h&model=tiny") as page:
        shown(page, "Time")
        page.evaluate("document.querySelector('.timeline .stay').focus()")
        page.wait('.tip:has-text("Load begun")')
        page.wait('.tip:has-text("on box1")')
        page.press("Enter")
        page.wait('nav a[aria-current]:text-is("Why")')
        page.wait('.sentences:has-text("tiny")')


def test_a_chart_is_read_with_the_arrows_and_a_span_is_chosen(place: Place) -> None:
    with place.browser.page(f"{place.gateway.url}/ui#/time") as page:
        shown(page, "Time")
        page.wait('section[aria-label="Refused requests"] td:has-text("no memory in time")')
        page.click('role=button[name="6 hours"]')
        page.wait('role=button[name="6 hours"][pressed]')
        shown(page, "Time")
        page.evaluate("document.querySelector('.charted .chart').focus()")
        page.press("ArrowRight")
        page.wait('.charted .reading:has-text("served")')


def test_a_replay_is_begun_by_click_and_says_what_would_have_been_best(place: Place) -> None:
    with place.browser.page(f"{place.gateway.url}/ui#/bets") as page:
        shown(page, "Bets")
        page.fill("#replay-memory", "4, 8")
        page.fill("#replay-requests", "200")
        page.click('role=button[name="Replay"]')
        page.wait('.replay .sentences:has-text("Recommended")')
        assert page.count(".replay table") == 2


# --- what an address says ---------------------------------------------------------------------------------


def test_what_an_address_says_and_nothing_has_is_said_on_the_page(place: Place) -> None:
    url = f"{place.gateway.url}/ui"
    with place.browser.page(url) as page:
        for address, told in (
            ("nosuch", "There is no view nosuch"),
            ("time?since=2026-11-29T12:00Z&until=2026-11-28T12:00Z", "The end must be after the beginning"),
            ("time?since=yesterday&until=2026-11-28T12:00Z", "yesterday is no time"),
            ("time?span=2y", "There is no span 2y"),
            ("time?model=nosuch", "What is shown is what the log knows of nosuch"),
            ("bets?outcome=luck", "There is no outcome luck"),
            ("quality?metric=nosuch", "No agent has logged nosuch"),
            ("quality?models=[%22nosuch%22]", "Nothing is known of nosuch"),
            ("why?model=nosuch", "no model 'nosuch'"),
            ("why?seq=first", "first is no sequence of an event"),
            ("why?at=noon", "noon is no time"),
            ("now?models=nice", "There is no list nice"),
            ("try?model=nosuch", "no model 'nosuch'"),
            ("trace?id=nosuch", "no trace 'nosuch'"),
            ("log?seq=first", "first is no sequence of an event"),
        ):
            page.goto(f"{url}#/{address}")
            page.wait(f':is(.notice, .message):has-text("{told}")')
        assert page.problems == []


def test_a_range_that_ends_before_it_begins_is_refused_where_it_is_typed(place: Place) -> None:
    with place.browser.page(f"{place.gateway.url}/ui#/time") as page:
        shown(page, "Time")
        page.fill('role=textbox[name="From"]', "2026-11-29T12:00")
        page.fill('role=textbox[name="To"]', "2026-11-28T12:00")
        page.click('.range button:text-is("Show")')
        page.wait('.range .notice:has-text("The end must be after the beginning")')


def test_an_address_takes_the_names_that_the_command_line_takes(place: Place) -> None:
    url = f"{place.gateway.url}/ui"
    with place.browser.page(f"{url}#/why?model=TIN") as page:
        page.wait('.state a:text-is("tiny")')
        page.goto(f"{url}#/time?model=tin")
        page.wait('.links b:text-is("tiny")')
        assert page.evaluate("location.hash") == "#/time?model=tiny"
        page.goto(f"{url}#/log?model=tin")
        page.wait('.log .row:has-text("tiny")')


# --- small screens, and a long time -----------------------------------------------------------------------


def test_a_telephone_has_room_for_each_view(place: Place) -> None:
    with place.browser.page(f"{place.gateway.url}/ui", size=(390, 844)) as page:
        page.wait('.models .row:has-text("tiny")')
        for title in ("Time", "Why", "Bets", "Quality", "Log", "Trace", "Try", "Now"):
            page.click(f'nav a:text-is("{title}")')
            page.wait(f'nav a[aria-current]:text-is("{title}")')
            page.wait('[aria-busy="true"]', "hidden")
            assert page.evaluate("document.documentElement.scrollWidth") == 390, title
            assert page.evaluate("document.querySelector('nav').clientWidth") > 300
        page.click('role=button[name="Unload tiny"]')
        page.wait('role=button[name="Load tiny"]')
        assert page.problems == []


@pytest.mark.parametrize("view", ["time", "bets", "quality"])
def test_many_looks_at_what_was_leave_nothing_behind(place: Place, view: str) -> None:
    """A view over time looks again each quarter of a minute: for two minutes, and then for four."""
    with place.browser.page(f"{place.gateway.url}/ui#/{view}?span=24h", sleeps=True) as page:
        shown(page, view.title())
        page.refresh(seconds=15, times=8)
        before = page.held()
        page.refresh(seconds=15, times=16)
        after = page.held()
        assert after["Nodes"] <= before["Nodes"] * 1.2
        assert after["JSEventListeners"] <= before["JSEventListeners"] * 1.2
        assert after["JSHeapUsedSize"] <= before["JSHeapUsedSize"] * 1.5
