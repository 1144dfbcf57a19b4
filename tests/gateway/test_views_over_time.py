"""The views over time before a real node: what happened is told by the actions, and shown by the page."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import suite
from suite.errors import InvalidRequest
from support.browser import Browser, Page, Theme, running_browser
from support.gateway import RunningGateway

pytestmark = pytest.mark.timeout(180)  # with the time of the fixtures

SCREENS = Path(__file__).parents[2] / "docs" / "screens"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as running:
        yield running


@pytest.fixture(scope="module")
def used(gateway: RunningGateway) -> RunningGateway:
    """A gateway before a node where something has happened."""
    for _ in range(3):
        completion = {"model": "tiny", "prompt": "Once upon a time", "max_tokens": 4}
        assert gateway.post("/v1/completions", completion).status == 200
    return gateway


def asked(gateway: RunningGateway, action: str, **fields: object) -> Any:
    answer = gateway.post(f"/ui/ask/{action}", fields)
    assert answer.status == 200, answer.body
    return answer.document


# --- the actions ------------------------------------------------------------------------------------------


def test_requests_and_the_model_that_served_them_are_told(used: RunningGateway) -> None:
    reply = asked(used, "get_request_statistics", model_id="tiny")
    assert reply["total"]["requests"] >= 3
    assert reply["total"]["completion_tokens"] >= 3
    assert 0 < reply["total"]["first_token"]["p50_ms"] <= reply["total"]["total"]["p99_ms"]
    assert "tiny" in [each["model_id"] for each in asked(used, "get_request_statistics")["models"]]
    lanes = {each["model_id"]: each for each in asked(used, "get_residency_timeline")["lanes"]}
    stay = lanes["tiny"]["stays"][-1]
    assert stay["ready_at"] is not None
    explained = asked(used, "explain", seq=stay["begun_seq"])
    assert "began to load" in explained["events"][0]["sentences"][0]


async def test_evaluations_and_metrics_are_told_over_time(used: RunningGateway) -> None:
    async with suite.connect(data_dir=used.data_dir) as client:
        for number in range(3):
            await client.log_performance_metric("over-time", "score", float(number))
            logged = await client.log_model_evaluation("rated", f"cycle-{number}", 0.9, accuracy=0.8)
        (model,) = (await client.get_model_quality(["rated"], min_seq=logged.seq)).models
        series = await client.get_metric_series("score", "over-time", min_seq=logged.seq)
        known = await client.list_metrics(min_seq=logged.seq)
    assert [point.accuracy for point in model.evaluations] == [0.8] * 3
    assert model.trust == model.trust_points[-1].trust
    assert sum(point.count for each in series.agents for point in each.points) == 3
    assert "score" in [each.metric_name for each in known.metrics]


async def test_the_log_is_replayed_in_a_process_of_its_own(used: RunningGateway) -> None:
    async with suite.connect(data_dir=used.data_dir) as client:
        reply = await client.replay_history(memory_gb=[1.0, 8.0], requests=100)
        with pytest.raises(InvalidRequest, match="has room for none"):
            await client.replay_history(memory_gb=[1e-6])
    assert reply.requests >= 3
    assert {each.memory_gb for each in reply.outcomes} == {1.0, 8.0}
    assert any(each.knows_future for each in reply.outcomes)
    assert reply.advice.sentences[0].startswith("recommended: ")
    assert used.post("/ui/ask/replay_history", {}).error["code"] == "unknown_path"


def test_bad_windows_are_refused(used: RunningGateway) -> None:
    for action in ("get_request_statistics", "get_residency_timeline", "get_bet_statistics"):
        for fields in ({"since": "yesterday"}, {"since": 2, "until": 1}, {"since": 1e300}):
            assert used.post(f"/ui/ask/{action}", fields).error["code"] == "invalid_request", (action, fields)


# --- the page ---------------------------------------------------------------------------------------------


def shown(page: Page, title: str) -> None:
    """Wait until a view shows what it has looked up."""
    page.wait(f'nav a[aria-current]:text-is("{title}")')
    page.wait('.view[aria-busy="false"]')


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(
    ("title", "part"),
    [("Time", ".timeline .stay"), ("Bets", ".replay form"), ("Quality", ".compared .rows > .row")],
)
def test_each_view_shows_what_there_is_and_axe_finds_nothing_serious(
    used: RunningGateway, browser: Browser, title: str, part: str, theme: Theme
) -> None:
    with browser.page(f"{used.url}/ui#/{title.lower()}?span=1h", theme=theme, size=(1440, 1000)) as page:
        shown(page, title)
        page.wait(part)
        assert page.count(".notice.bad") == 0
        assert page.serious_findings() == []
        assert page.problems == []
        assert set(page.hosts) <= {f"{used.host}:{used.port}", used.host}
        if os.environ.get("WRITE_SCREENS"):
            page.screenshot(SCREENS / f"{title.lower()}-{theme}.png")


def test_a_stay_is_read_and_explained_by_keyboard_alone(used: RunningGateway, browser: Browser) -> None:
    with browser.page(f"{used.url}/ui#/time?span=1h&model=tiny") as page:
        shown(page, "Time")
        page.evaluate("document.querySelector('.timeline .stay').focus()")
        page.wait('.tip:has-text("Load begun")')
        page.wait('.tip:has-text("on test")')
        page.press("Enter")
        page.wait('nav a[aria-current]:text-is("Why")')
        page.wait('.sentences:has-text("tiny")')


def test_a_chart_is_read_with_the_arrows_and_a_span_is_chosen(used: RunningGateway, browser: Browser) -> None:
    with browser.page(f"{used.url}/ui#/time") as page:
        shown(page, "Time")
        page.click('role=button[name="1 hour"]')
        page.wait('role=button[name="1 hour"][pressed]')
        shown(page, "Time")
        page.evaluate("document.querySelector('.charted .chart').focus()")
        page.press("ArrowRight")
        page.wait('.charted .reading:has-text("served")')


def test_a_replay_is_begun_by_click_and_says_what_would_have_been_best(
    used: RunningGateway, browser: Browser
) -> None:
    with browser.page(f"{used.url}/ui#/bets") as page:
        shown(page, "Bets")
        page.fill("#replay-memory", "1, 8")
        page.click('role=button[name="Replay"]')
        page.wait('.replay .sentences:has-text("Recommended")')
        assert page.count(".replay table") == 2
