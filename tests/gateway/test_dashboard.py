"""The dashboard in a real browser, before a fleet of two nodes that it may only look at with a key."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple, get_args

import anyio
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from suite.client import Client
from suite.errors import ModelNotFound, VersionNotFound
from suite.messages.events import KeyEndpoint
from support.browser import BROWSER, Browser, Page, Theme, running_browser
from support.fleet import Fleet, fleet
from support.gateway import gateway_for
from support.live import stream
from support.models import CHAT_TEMPLATE, gemma, smollm2, tiny_model
from support.nats import gateway_environment
from support.wire import MortalWire

pytestmark = pytest.mark.timeout(180)  # with the time of the fixtures

WRITES_SCREENS = bool(os.environ.get("WRITE_SCREENS"))
"""Whether the pictures go into the documentation; else they show models of random weights."""
SCREENS = Path(__file__).parents[2] / "docs" / "screens"
SHOWN = ("SmolLM2-135M-Instruct.Q4_1", "gemma-3-270m-it-Q4_K_M") if WRITES_SCREENS else ("tiny", "other")
VIEWS = ("Now", "Why", "Log", "Trace", "Try")
NOTE_STATES = """
    const status = document.querySelector(".status");
    document.body.dataset.states = "";
    const note = () => (document.body.dataset.states += ` ${status.dataset.state}`);
    new MutationObserver(note).observe(status, {attributes: true});
"""
"""Has the page remember how its connection was."""


class Keys(NamedTuple):
    """The keys of the gateway."""

    portal: BlockingPortal
    client: Client

    def create(self, name: str, *endpoints: KeyEndpoint, seconds: float | None = None) -> str:
        """Make a key for these rights, good for so many seconds; its secret."""
        expires_at = None if seconds is None else time.time() + seconds
        create = partial(self.client.create_key, name, endpoints=endpoints, expires_at=expires_at)
        return self.portal.call(create).secret


class Place(NamedTuple):
    """A fleet, the gateway before it, keys for it, and a browser."""

    portal: BlockingPortal
    fleet: Fleet
    browser: Browser
    url: str
    keys: Keys
    admin: str
    viewer: str


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as running:
        yield running


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("dashboard")
    (directory / "models").mkdir()
    options = make_models(directory / "models")
    nodes = {"box1": directory / "models", "box2": directory / "models"}
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(fleet(nodes, directory, *options)) as found,
    ):
        keys = Keys(portal, found.client)
        admin, viewer = keys.create("admin", "chat", "admin"), keys.create("viewer", "view")
        with gateway_for(directory, gateway_environment(found.server), "--require-keys") as gateway:
            yield Place(portal, found, browser, f"{gateway.url}/ui", keys, admin, viewer)


def make_models(directory: Path) -> tuple[str, ...]:
    """The models of each node, and its options. Those in the pictures of the documentation are real ones."""
    for name in ("tiny", "other", "third"):
        tiny_model(directory / f"{name}.gguf", chat_template=CHAT_TEMPLATE, name=name)
    if not WRITES_SCREENS:
        return ()
    shutil.copyfile(smollm2(), directory / f"{SHOWN[0]}.gguf")
    shutil.copyfile(gemma(), directory / f"{SHOWN[1]}.gguf")
    return ("--memory-limit-gb", "1.05")  # room for one of them


def ready(page: Page, title: str) -> None:
    """Wait until a view shows what it is about."""
    page.wait(f'nav a[aria-current]:text-is("{title}")')
    page.wait('[aria-busy="true"]', "hidden")


# --- what a key may do ------------------------------------------------------------------------------------


def test_a_key_that_is_wrong_or_too_weak_is_told_so_and_a_right_one_opens_the_page(place: Place) -> None:
    weak = place.keys.create("weak", "chat")
    with place.browser.page(place.url) as page:
        assert "lets in only who has a key" in page.text(".entry .refusal")
        for secret, told in (
            ("sk-suite-wrong", "mistyped or was revoked"),
            (weak, "may not be used for view"),
            ("sk-suite-ключ", "letters that no key has"),
        ):
            page.fill("#secret", secret)
            page.press("Enter")
            page.wait(f'.entry .refusal:has-text("{told}")')
        page.fill("#secret", place.viewer)
        page.press("Enter")
        page.wait('article:has-text("box1")')
        page.wait('.models .row:has-text("tiny")')
        assert page.count('role=button[name="Load tiny"]') == 0, "it may only look"
        assert page.problems == []


def test_a_key_that_expires_ends_the_page_and_says_so(place: Place) -> None:
    with place.browser.page(place.url, key=place.keys.create("brief", "view", seconds=8)) as page:
        page.wait('article:has-text("box1")')
        assert "has expired" in page.text(".entry .refusal.bad")
        assert page.count(".node") == 0


def test_a_page_whose_connection_is_open_and_silent_connects_again(place: Place) -> None:
    port = int(place.url.split(":")[2].split("/")[0])
    with (
        place.portal.wrap_async_context_manager(MortalWire(port, mark=b"GET /ui/live").opened()) as wire,
        place.browser.page(f"http://127.0.0.1:{wire.port}/ui", key=place.viewer, sleeps=True) as page,
    ):
        page.wait('article:has-text("box1")')
        page.evaluate(NOTE_STATES)
        page.sleep(20)
        page.wait('.status[data-state="live"]')
        assert page.evaluate("document.body.dataset.states") == "", "one that tells something is kept"
        place.portal.call(wire.die)
        page.sleep(30)
        page.wait('body[data-states*="lost"]')
        page.wait('.status[data-state="live"]')


# --- each view --------------------------------------------------------------------------------------------


def test_a_model_is_loaded_and_explained_by_clicks(place: Place) -> None:
    with place.browser.page(place.url, key=place.admin) as page:
        page.click('role=button[name="Load tiny"]')
        page.wait('.models .row:has-text("tiny") .badge.good')
        page.wait('.owners:has-text("tiny")')
        page.click('role=link[name="Why tiny is as it is"]')
        assert "loaded" in page.text(".state .sentences")
        page.click('.happened a:has-text("began to load")')
        page.wait(".links")
        page.wait('[aria-label="What was weighed"]')
        page.click('role=link[name="The event"]')
        assert '"model_id": "tiny"' in page.text(".side .json")
        page.click('nav a:text-is("Now")')
        page.click('role=button[name="Unload tiny"]')
        page.wait('role=button[name="Load tiny"]')
        assert page.problems == []
        assert page.hosts == [place.url.split("/")[2]]


def test_a_chat_tells_what_each_answer_cost(place: Place, tmp_path: Path) -> None:
    tokens = "48" if WRITES_SCREENS else "8"
    with place.browser.page(f"{place.url}#/try?model={SHOWN[0]}", key=place.admin) as page:
        page.fill('role=spinbutton[name="Most tokens"]', tokens)
        page.fill('role=spinbutton[name="Temperature"]', "0")
        for turn, text in enumerate(("What is a llama?", "What do llamas eat?"), 1):
            page.fill('role=textbox[name="Message"]', text)
            page.press("Enter")
            page.wait(f'.turn.model:nth-of-type({2 * turn}) .cost:has-text("tokens/s")')
        told = page.text(".turn.model:nth-of-type(4) .cost")
        assert "reused 0 " not in told, "the second turn goes on with the first"
        page.screenshot((SCREENS if WRITES_SCREENS else tmp_path) / "try-light.png")


def test_the_log_is_live_and_filtered(place: Place) -> None:
    with place.browser.page(f"{place.url}#/log", key=place.viewer) as page:
        page.wait('.log .row:has-text("node started")')
        page.fill('role=combobox[name="Filter"]', "metric")
        page.wait('text="No event matches so far"')
        place.portal.call(place.fleet.client.log_performance_metric, "agent", "speed", 1.5)
        page.wait('.log .row:has-text("metric logged")')
        page.fill('role=combobox[name="Filter"]', "mertic")
        assert "did you mean 'metric'" in page.text(".notice.bad")


def test_a_promotion_is_shown_and_explained(place: Place) -> None:
    client, call = place.fleet.client, place.portal.call
    call(partial(client.set_alias, "chat", "tiny"))
    call(promoted, client)
    with place.browser.page(place.url, key=place.viewer) as page:
        page.wait('.aliases .row:has-text("tiny 75 %"):has-text("other@1"):has-text("canary, 25 %")')
        page.click('.aliases a:text-is("its steps")')
        page.wait('.log .row:has-text("alias canary_started chat"):has-text("other@1")')
        page.click('nav a:text-is("Why")')
        page.click('.happened a:has-text("Canary of chat")')
        assert "gets 25 % of the requests for chat" in page.text(".sentences")
        page.click('role=link[name="All that happened to chat"]')
        page.wait('.log .row:has-text("alias set chat"):has-text("tiny")')
        assert page.problems == []
        call(partial(client.set_alias, "chat", None))
        page.click('nav a:text-is("Now")')
        page.wait('role=table[name="Models"]')
        page.wait(".aliases", "hidden")
    call(client.unload_model, "other")


async def promoted(client: Client) -> None:
    """Have a version serve as a canary, once the log knows it."""
    with anyio.fail_after(30):
        while True:
            try:
                await client.promote_alias("chat", "other", canary_share=0.25)
                return
            except (ModelNotFound, VersionNotFound):
                await anyio.sleep(0.1)


def test_no_view_has_a_serious_finding_of_axe(place: Place) -> None:
    with place.browser.page(place.url, key=place.admin) as page:
        page.wait('.models .row:has-text("tiny")')
        for title in VIEWS:
            page.click(f'nav a:text-is("{title}")')
            ready(page, title)
            assert page.serious_findings() == [], title
            with page.dark():
                assert page.serious_findings("color-contrast") == [], title
        assert page.problems == []


def test_everything_can_be_done_with_the_keyboard(place: Place) -> None:
    with place.browser.page(place.url, key=place.admin) as page:
        page.wait('.models .row:has-text("third")')
        page.press("/")
        assert page.focused == "Find a model"
        page.type("third")
        page.wait('.models .row:has-text("tiny")', "hidden")
        page.tab_to("Load third")
        page.press("Enter")
        page.wait('role=button[name="Unload third"]')
        page.evaluate("document.activeElement.blur()")
        page.tab_to("Log")
        page.press("Enter")
        page.wait('.log .row:has-text("third")')
        page.press("Tab", "Tab")
        page.evaluate("document.querySelector('.log .rows a').focus()")
        page.press("ArrowDown", "Enter")
        page.wait(".side .json")
        page.press("Escape")
        page.wait(".side", "hidden")
        assert page.evaluate("document.activeElement.closest('.row') !== null"), "the focus is where it was"


# --- much of everything -----------------------------------------------------------------------------------


def test_a_thousand_models_are_listed_and_found(place: Place) -> None:
    with place.browser.page(place.url, key=place.viewer, is_live=False) as page:
        page.stream(stream(models=1000, updates=1, events=0))
        page.wait('text="1,000 of 1,000"')
        assert page.count(".models .rows > .row") < 100, "only those are there that can be seen"
        page.fill('role=searchbox[name="Find a model"]', "model-0777")
        page.wait('text="1 of 1,000"')


def test_the_log_goes_on_behind_events_that_came_too_fast(place: Place) -> None:
    """Where the page lets go of old events, what came too fast stands last: between two sequences."""
    with place.browser.page(f"{place.url}#/log", key=place.viewer, is_live=False) as page:
        page.stream(stream(models=1, updates=1, events=1, after=999_000))
        page.wait('.log .row:has-text("999001")')
        page.stream(stream(models=1, updates=51, events=99, after=1_000_000, skipped=7))
        page.wait('.log .row:has-text("1005406")')
        page.wait('text="5,000 newest shown"')
        page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
        page.wait('.log .muted:text-matches("^5,(?!000)[0-9]+ "), .message.error')
        assert page.count(".message.error") == 0
        assert page.problems == []


@pytest.mark.parametrize(
    ("view", "first", "hour", "events", "marks"),
    [
        ("now", 600, 3600, 1, ('.node:has-text("up 10 min")', '.node:has-text("up 1 h")')),
        ("log", 225, 900, 24, ('.log .row:has-text("1005400")', '.log .row:has-text("1027000")')),
    ],
)
def test_an_hour_of_updates_leaves_nothing_behind(
    place: Place, view: str, first: int, hour: int, events: int, marks: tuple[str, str]
) -> None:
    """``first`` are those before it, after which the log drops old events; it has six a second."""
    streams = (
        stream(models=100, updates=first, events=events, after=1_000_000),
        stream(models=100, updates=hour, events=events, after=1_000_000 + first * events),
    )
    with place.browser.page(f"{place.url}#/{view}", key=place.viewer, is_live=False) as page:
        held = []
        for told, mark in zip(streams, marks, strict=True):
            page.stream(told)
            page.wait(mark)
            held.append(page.held())
        before, after = held
        assert after["Nodes"] <= before["Nodes"] * 1.2
        assert after["JSEventListeners"] <= before["JSEventListeners"] * 1.2
        assert after["JSHeapUsedSize"] <= before["JSHeapUsedSize"] * 1.5


# --- what its files are -----------------------------------------------------------------------------------


def test_the_scripts_are_well_typed() -> None:
    tsc = BROWSER / "node_modules" / ".bin" / "tsc"
    done = subprocess.run([tsc, "-p", BROWSER], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


# --- pictures ---------------------------------------------------------------------------------------------


if WRITES_SCREENS:

    def test_pictures_of_a_fleet_are_taken(place: Place) -> None:
        chosen, evicting = SHOWN
        box1, box2 = place.fleet.client.on_node("box1"), place.fleet.client.on_node("box2")
        for client, model in ((box1, chosen), (box1, evicting), (box2, chosen)):
            place.portal.call(client.load_model, model)
        story = partial(box2.generate_text, chosen, "Once upon a time", max_tokens=1500)
        with ExitStack() as stack:
            for _ in range(2):
                stack.callback(place.portal.start_task_soon(story).cancel)
            for theme in get_args(Theme):
                with place.browser.page(place.url, key=place.admin, theme=theme, size=(1280, 900)) as page:
                    page.wait(f'.owners:has-text("{evicting}")')
                    page.wait(".generations .badge.busy")
                    page.wait('h2:has-text("Models") + .muted:has-text(" of ")')
                    page.screenshot(SCREENS / f"now-{theme}.png")
        with place.browser.page(f"{place.url}#/why?model={evicting}", key=place.admin) as page:
            page.click('.happened a:has-text("began to load")')
            page.wait(".candidates")
            page.screenshot(SCREENS / "why-light.png")
        with place.browser.page(f"{place.url}#/log", key=place.admin, theme="dark") as page:
            page.click('.log .row:has-text("instance loaded")')
            page.wait(".side .json")
            page.screenshot(SCREENS / "log-dark.png")


# --- the end: nothing behind this has a node of this name ---------------------------------------------------


def test_a_node_that_is_lost_is_shown_so(place: Place) -> None:
    with place.browser.page(place.url, key=place.viewer) as page:
        page.wait('article[aria-label="Node box2"]')
        place.portal.call(place.fleet.nodes["box2"].kill)
        assert "does not answer" in page.text('article[aria-label="Node box2, lost"]')
        page.wait('article[aria-label="Node box1"]')
        place.portal.call(place.fleet.nodes["box1"].kill)
        assert "The service does not answer" in page.text("#banner")
