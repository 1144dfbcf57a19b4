"""`suite top`: what it makes of replies, and how a person uses it on a terminal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal

import suite
from suite.cli.top import cells
from suite.cli.top.now import Memory, NodeNow, Now, Part
from support.models import tiny_model
from support.service import serving
from support.terminal import Terminal, terminal

GIB = 1 << 30
LINES = 24


def memory(*parts: Part, limit: int = 16 * GIB) -> Memory:
    return Memory("ram", limit, sum(part.all for part in parts), parts)


@pytest.mark.parametrize(
    ("held", "shown"),
    [
        pytest.param(memory(), "················", id="nothing"),
        pytest.param(memory(Part("a", 4 * GIB, 2 * GIB, GIB)), "████▓▓▒·········", id="one model"),
        pytest.param(
            memory(Part("a", 8 * GIB, 0, 0), Part("b", 4 * GIB, 4 * GIB, 0)), "████████████▓▓▓▓", id="full"
        ),
        pytest.param(memory(Part("a", 3 * GIB, 0, 0), limit=GIB), "████████████████", id="over its limit"),
        pytest.param(memory(limit=0), "················", id="no limit at all"),
    ],
)
def test_a_bar_has_a_shade_for_each_use(held: Memory, shown: str) -> None:
    assert cells.bar(held, {}).plain == shown


def test_a_bar_has_a_colour_for_each_model() -> None:
    text = cells.bar(memory(Part("a", 4 * GIB, 0, 0), Part("b", 4 * GIB, 0, 0)), {"a": "cyan", "b": "green"})
    assert [(span.start, span.end, span.style) for span in text.spans if span.end > span.start][:2] == [
        (0, 4, "cyan"),
        (4, 8, "green"),
    ]


def test_nodes_with_several_memories_and_lost_ones_have_rows_of_their_own() -> None:
    two = (memory(), Memory("gpu0", GIB, 0, ()))
    now = Now(
        nodes=(NodeNow("box1", "healthy", 2, 0, 0, 1.5, two), NodeNow("box2", "lost", 0, 0, 0, 0.0, ())),
        models={},
        generations=(),
        problems=(),
    )
    rows = cells.node_rows(now)
    assert [cells.node_of(key) for key in rows] == ["box1", "box1", "box2"]
    first, second, lost = ([cell.plain for cell in row] for row in rows.values())
    assert (first[0], second[0], lost[:2]) == ("box1", "", ["box2", "lost"])
    assert second[2].endswith("0 bytes of 1.00 GiB gpu0")
    assert cells.summary(now) == "2 nodes   0 of 0 models loaded   0 generating, 0 waiting   1.5 tokens/s"


@pytest.mark.timeout(120)
def test_a_person_loads_explains_pins_filters_and_drains(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    for name in ("llama.q4", "opossum.q4"):
        tiny_model(models / f"{name}.gguf", context=256)
    with start_blocking_portal() as portal:
        with portal.wrap_async_context_manager(
            serving(models, tmp_path / "data", "--node", "box1")
        ) as service:
            arguments = ("top", "--data-dir", str(tmp_path / "data"), "--interval", "0.3")
            with terminal(arguments, columns=80, lines=LINES) as screen:
                use(screen, lambda: portal.call(pinned, service.data_dir))
                assert screen.ended() == 0
    assert not screen.cursor_is_hidden


def use(screen: Terminal, pinned: Callable[[], list[str]]) -> None:
    screen.until("0 of 2 models loaded")
    assert len(screen.rows) <= LINES
    screen.type(b"l")
    screen.until("llama.q4 is loaded")
    screen.until("1 of 2 models loaded")
    screen.type(b"e")
    screen.until("began to load")
    screen.type(b"q")
    screen.until("Filter")
    screen.type(b"p")
    screen.until("llama.q4 is pinned")
    assert pinned() == ["llama.q4"]
    screen.type(b"/")
    screen.until("a part of a model's id")
    screen.type(b"zzz")
    screen.until("no id of 2 models has 'zzz' in it: Escape shows all")
    screen.type(b"\x7f\x7f\x7f")
    screen.until_gone("Escape shows all")
    screen.type(b"oposs")
    screen.until_gone("llama.q4  ")
    assert "llama.q4  " not in screen.text
    screen.type(b"\r")
    screen.until("Quit")  # the keys of the list again
    screen.type(b"u")
    screen.until("Unload opossum.q4?")
    screen.type(b"n")
    screen.until_gone("opossum.q4?")
    screen.type(b"\t\t\td")
    screen.until("Drain box1?")
    screen.type(b"y")
    screen.until("gets no new work")
    screen.until("draining")
    screen.type(b"q")


async def pinned(data_dir: Path) -> list[str]:
    async with suite.connect(data_dir=data_dir) as client:
        return [model.model_id for model in (await client.list_models()).models if model.pinned]
