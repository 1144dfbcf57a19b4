"""Guesses of next tokens through the real service: in usage, events and metrics, and off where told so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from suite.client import Client
from suite.errors import DraftModelUnfit
from suite.messages.events import Generated
from support.models import tiny_model
from support.nodes import client_of_node
from support.service import history

CONFIGURATION = """
[models.main]
draft_model = "twin"
[models.silent]
speculation = "off"
draft_model = "twin"
[models.foreign]
draft_model = "stranger"
"""
PROMPT, TOKENS = "Once upon a time", 24


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Client]:
    """`twin` has the weights of `main`; `stranger` has another text for its last token than `foreign`."""
    models, config = directory / "models", directory / "suite.toml"
    models.mkdir()
    for name in ("main", "twin", "silent"):
        tiny_model(models / f"{name}.gguf", name=name)
    for name in ("foreign", "stranger"):
        tiny_model(models / f"{name}.gguf", name=name, added=[name])
    config.write_text(CONFIGURATION)
    async with client_of_node(models, directory / "data", config=config) as client:
        yield client


async def test_what_is_guessed_and_right_is_counted_and_can_be_switched_off(tmp_path: Path) -> None:
    async with running(tmp_path) as client:
        guessed = await client.generate_text("main", PROMPT, max_tokens=TOKENS, temperature=0)
        usage = guessed.usage
        assert 0 < usage.accepted_tokens <= usage.drafted_tokens
        assert usage.accepted_tokens < usage.completion_tokens == TOKENS
        status = (await client.get_model_status("main")).model
        assert status is not None and status.draft_model == "twin"
        for plain in (
            await client.generate_text("main", PROMPT, max_tokens=TOKENS, speculation=False),
            await client.generate_text("main", PROMPT, max_tokens=TOKENS, reuse=False),
            await client.generate_text("silent", PROMPT, max_tokens=TOKENS),
        ):
            assert plain.usage.drafted_tokens == plain.usage.accepted_tokens == 0
        first, *others = [event.data for event in await history(client, "usage")]
        assert isinstance(first, Generated) and len(others) == 3
        assert (first.drafted_tokens, first.accepted_tokens) == (usage.drafted_tokens, usage.accepted_tokens)
        with pytest.raises(DraftModelUnfit, match="'stranger', and 'foreign' in the model"):
            await client.generate_text("foreign", PROMPT)
