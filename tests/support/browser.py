"""A real Chromium without a window, driven through Playwright's core for Node."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

import pytest

BROWSER = Path(__file__).resolve().parents[1] / "browser"
END_SECONDS = 20.0
NAMES = ("chromium", "chromium-browser", "google-chrome")

Theme = Literal["light", "dark"]


def node_program() -> str:
    """The Node of the machine, else the one that came as a wheel."""
    return shutil.which("node") or str(Path(sys.executable).with_name("node"))


class Browser:
    """A browser that runs until it is closed."""

    def __init__(self, commands: IO[str], answers: IO[str]) -> None:
        self._commands, self._answers = commands, answers
        self._opened = 0

    def ask(self, command: str, **given: object) -> Any:
        """Have something done, and return what came of it. Fails as the test if it cannot be done."""
        self._commands.write(json.dumps({"command": command, **given}) + "\n")
        self._commands.flush()
        answer = json.loads(self._answers.readline())
        if "error" in answer:
            pytest.fail(f"{command} {given}: {answer['error']}")
        return answer["result"]

    @contextmanager
    def page(
        self,
        url: str,
        *,
        key: str | None = None,
        theme: Theme = "light",
        size: tuple[int, int] = (1280, 860),
        is_live: bool = True,
        sleeps: bool = False,
    ) -> Iterator[Page]:
        """A page with nothing of other pages. One that is not live gets its streams by `Page.stream`.

        ``sleeps``: it has a clock of its own, for `Page.sleep`.
        """
        self._opened += 1
        page = Page(self, f"page{self._opened}")
        width, height = size
        page.ask(
            "open",
            url=url,
            key=key,
            theme=theme,
            width=width,
            height=height,
            live=not is_live,
            clock=sleeps,
        )
        try:
            yield page
        finally:
            page.ask("close")


class Page:
    """One page. ``what`` is a selector as Playwright has them: ``role=button[name="Load tiny"]``."""

    def __init__(self, browser: Browser, name: str) -> None:
        self._browser = browser
        self._name = name

    def ask(self, command: str, **given: object) -> Any:
        return self._browser.ask(command, page=self._name, **given)

    def stream(self, body: str) -> None:
        """Have the page get this as the next stream, in place of the gateway's."""
        self.ask("stream", body=body)

    def sleep(self, seconds: float) -> None:
        """Have it wake as after a sleep: its timers are due, and it has heard nothing meanwhile."""
        self.ask("sleep", seconds=seconds)

    def refresh(self, *, seconds: float, times: int) -> None:
        """Have so much time pass so many times, and the view look again each time. Needs ``sleeps``."""
        self.ask("refresh", seconds=seconds, times=times)

    def goto(self, url: str) -> None:
        self.ask("goto", url=url)

    def click(self, what: str) -> None:
        self.ask("click", what=what)

    def fill(self, what: str, text: str) -> None:
        self.ask("fill", what=what, text=text)

    def choose(self, what: str, value: str) -> None:
        self.ask("choose", what=what, value=value)

    def press(self, *keys: str) -> None:
        self.ask("press", keys=keys)

    def type(self, text: str) -> None:
        self.ask("type", text=text)

    def wait(self, what: str, state: Literal["visible", "hidden", "attached"] = "visible") -> None:
        """Wait until something can be seen, or no more."""
        self.ask("wait", what=what, state=state)

    def text(self, what: str) -> str:
        self.wait(what)
        found: str = self.ask("text", what=what)
        return found

    def count(self, what: str) -> int:
        found: int = self.ask("count", what=what)
        return found

    def evaluate(self, script: str) -> Any:
        return self.ask("evaluate", script=script)

    @property
    def focused(self) -> str:
        """What has the focus: its name as it is read aloud, or its text."""
        found: str = self.ask("focused")
        return found

    def tab_to(self, name: str, *, most: int = 80) -> None:
        """Press Tab until what has this name has the focus."""
        seen = []
        for _ in range(most):
            self.press("Tab")
            seen.append(self.focused)
            if seen[-1] == name:
                return
        pytest.fail(f"Tab never comes to {name!r}, only to {seen}")

    def serious_findings(self, rule: str | None = None) -> list[str]:
        """What axe finds that is serious or critical, by all rules or by one of them."""
        found: list[str] = self.ask("axe", rule=rule)
        return found

    @contextmanager
    def dark(self) -> Iterator[None]:
        """Have it dark until the block ends. Of axe's rules, only "color-contrast" sees that."""
        self.ask("theme", theme="dark")
        yield
        self.ask("theme", theme="light")

    def held(self) -> Mapping[str, float]:
        """What it holds, by Chromium's names, after all garbage was collected."""
        found: dict[str, float] = self.ask("held")
        return found

    def screenshot(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.ask("screenshot", path=str(path))

    @property
    def problems(self) -> list[str]:
        """What it complained of: errors of scripts, and what its content security policy refused."""
        found: list[str] = self.ask("state")["problems"]
        return found

    @property
    def hosts(self) -> list[str]:
        """The hosts that it has asked for anything."""
        found: list[str] = self.ask("state")["hosts"]
        return found


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Chromium, until the block ends."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None or not (BROWSER / "node_modules" / "playwright-core").is_dir():
        pytest.fail("Chromium or Playwright's core is not there: `make test` fetches them, or says why not")
    process = subprocess.Popen(
        [node_program(), str(BROWSER / "driver.mjs"), program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Browser(process.stdin, process.stdout)
        process.stdin.close()
        process.wait(END_SECONDS)
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
