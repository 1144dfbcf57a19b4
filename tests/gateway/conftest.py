"""One real gateway, node and model for a module of tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.gateway import RunningGateway, running_gateway
from support.models import CHAT_TEMPLATE, slow_model, smollm2, tiny_model


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """Before a node with SmolLM2 as `smollm2`, and models of random weights: `tiny` and `slow`."""
    directory = tmp_path_factory.mktemp("gateway")
    models = directory / "models"
    models.mkdir()
    (models / "smollm2.gguf").hardlink_to(smollm2())
    tiny_model(models / "tiny.gguf", chat_template=CHAT_TEMPLATE)
    slow_model(models / "slow.gguf")
    with running_gateway(models, directory / "data") as running:
        yield running
