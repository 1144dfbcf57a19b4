"""What a node does by itself leaves alone what it could not load again."""

from __future__ import annotations

import math
from pathlib import Path

from suite.config import ModelSettings, Settings
from suite.node.preloader import Preloader
from suite.node.startup import running_node
from support.models import tiny_model


def move(place: Path, to: Path) -> None:
    place.rename(to)


async def test_an_idle_model_stays_loaded_while_its_file_is_out_of_reach(tmp_path: Path) -> None:
    models, away = tmp_path / "models", tmp_path / "away"
    models.mkdir()
    tiny_model(models / "tiny.gguf")
    settings = Settings(
        node="box",
        data_dir=tmp_path / "data",
        models_directories=(models,),
        models={"tiny": ModelSettings(idle_timeout_seconds=7.0)},
        standby=False,
    )
    async with running_node(settings) as node:
        kept, tiny = Preloader(node, 60.0).keep_alive, node.catalogue.resolve("tiny")
        assert kept(tiny) == 7.0
        move(models, away)
        await node.catalogue.scan()
        assert kept(tiny) == math.inf
        move(away, models)
        await node.catalogue.scan()
        assert kept(tiny) == 7.0
