"""Lists of all models are made one at a time, so that whoever asks for many holds up nobody else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest

from suite.actions import catalogue
from suite.messages.actions.status import ListModelsRequest, ModelInfo


async def most_at_once(request: ListModelsRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    running = most = 0

    async def read(*_: object) -> tuple[tuple[ModelInfo, ...], str | None]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.lowlevel.checkpoint()
        running -= 1
        return (), None

    monkeypatch.setattr(catalogue, "_read_page", read)
    node = cast(Any, SimpleNamespace(listing=anyio.Lock()))
    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(catalogue._page, node, request)
    return most


async def test_lists_of_all_models_are_made_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await most_at_once(ListModelsRequest(), monkeypatch) == 1
    assert await most_at_once(ListModelsRequest(active=True), monkeypatch) == 4, "of few models"
