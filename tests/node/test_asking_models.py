"""What is asked of a model's process that ends just then: there is nobody, and nothing is left in it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest

from suite.errors import NoService
from suite.messages.actor import Cleared
from suite.messages.subjects import Subjects
from suite.node.actor_client import ActorClient


class Deaf:
    """A connection on which nobody hears, and a model that is in this phase from then on."""

    def __init__(self, instance: SimpleNamespace, phase: str) -> None:
        self._instance = instance
        self._phase = phase

    async def request(self, subject: str, *_data: object, **_options: object) -> object:
        await anyio.lowlevel.checkpoint()
        self._instance.phase = self._phase
        raise NoService(f"nobody serves {subject}")


async def clear(phase: str) -> Cleared:
    """Clear a model whose process has ended, before the node has noticed."""
    instance = SimpleNamespace(
        phase="loaded",
        model=SimpleNamespace(model_id="m"),
        instance_id="i",
        wait_change=anyio.Event().wait,
    )
    times = iter(range(0, 10**6, 100))
    actors = ActorClient(cast(Any, Deaf(instance, phase)), Subjects(), "box1", lambda: float(next(times)))
    return await actors.clear([cast(Any, instance)], None)


@pytest.mark.parametrize("phase", ["unloading", "crashed"])
async def test_a_model_that_ends_while_it_is_cleared_has_nothing_left(phase: str) -> None:
    assert await clear(phase) == Cleared()


async def test_a_loaded_model_that_does_not_hear_is_an_error() -> None:
    with pytest.raises(NoService):
        await clear("loaded")
