"""What is copied for a name, and what it still lacks on the node that has got it all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from suite.catalogue import Catalogue
from suite.config import ModelSettings
from suite.messages.actions.base import AdapterChoice
from suite.messages.actions.transfers import PushedModel, PushState
from suite.node.transfers.lacks import lacks_of
from suite.node.transfers.needs import needs_of_model
from suite.node.transfers.pushes import outcome_of_all
from support.adapters import adapter
from support.models import tiny_model

HERE: Mapping[str, ModelSettings] = {
    "base": ModelSettings(draft_model="draft"),
    "pirate": ModelSettings(adapters=("pirate", AdapterChoice(id="poet", scale=0.5))),
    "captain": ModelSettings(base="base", adapters=("poet",)),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("copied") / "models"
    directory.mkdir()
    base = tiny_model(directory / "base.gguf", embedding=128)
    tiny_model(directory / "draft.gguf")
    for number, name in enumerate(("pirate", "poet")):
        adapter(directory / f"{name}.gguf", base, seed=number)
    return directory


async def scanned(directory: Path, settings: Mapping[str, ModelSettings]) -> Catalogue:
    catalogue = Catalogue.open([directory], settings, directory.parent)
    await catalogue.scan()
    return catalogue


async def test_what_has_the_name_is_copied_last_and_a_draft_model_first(models: Path) -> None:
    catalogue = await scanned(models, HERE)
    base, pirate, poet = (catalogue.models[id] for id in ("base", "pirate", "poet"))
    for name, adapters, own, ids in (
        ("base", [], "base", ["draft", "base"]),
        ("captain", [poet], "base", ["draft", "base", "poet"]),
        ("pirate", [pirate, poet], "pirate", ["draft", "base", "poet", "pirate"]),
    ):
        needs = needs_of_model(name, base, adapters, catalogue.models)
        assert needs.own.model_id == own
        assert [each.model_id for each in needs.models] == ids
        assert needs.draft is needs.models[0]
    off = await scanned(models, {"base": ModelSettings(draft_model="draft", speculation="off")})
    assert needs_of_model("base", off.models["base"], [], off.models).draft is None


async def test_a_draft_model_that_a_node_cannot_take_is_told_and_all_else_is_there(models: Path) -> None:
    catalogue = await scanned(models, HERE)
    needs = needs_of_model("captain", catalogue.models["base"], [catalogue.models["poet"]], catalogue.models)

    def came(*states: PushState) -> PushedModel:
        several = [
            PushedModel(
                node="box2", state=each, model_id="x", message="no room" if each == "failed" else None
            )
            for each in states
        ]
        return outcome_of_all(needs, several)

    found = came("failed", "copied", "present")
    assert (found.state, found.model_id, found.copied) == ("copied", "captain", ("base",))
    assert found.message == "draft: no room"
    found = came("copied", "present", "failed")
    assert (found.state, found.copied, found.message) == ("failed", ("draft",), "poet: no room")
    found = came("present", "failed")
    assert (found.state, found.message) == ("failed", "no room"), "what has the name need not be named"
    assert came("present", "present", "present").state == "present"


async def test_settings_that_are_missing_are_told_with_what_to_do(models: Path, tmp_path: Path) -> None:
    async def lacks(
        name: str, last: str, settings: Mapping[str, ModelSettings], *, directory: Path = models
    ) -> str:
        there = await scanned(directory, settings)
        return "; ".join(filter(None, lacks_of(name, there.models[last], there, "box2", has_draft=True)))

    assert await lacks("captain", "poet", HERE) == ""
    assert await lacks("captain", "poet", {}) == (
        "captain is no name there, as settings are not copied: set base and adapters in "
        'models."captain" of box2'
    )
    off = {"base": ModelSettings(draft_model="draft", speculation="off")}
    alone = {"captain": ModelSettings(base="base")}
    assert await lacks("captain", "base", alone | off) == ""
    assert (await lacks("captain", "base", {})).startswith("captain is no name there")
    assert await lacks("pirate", "pirate", {}) == await lacks("base", "base", {})
    assert (await lacks("base", "base", {})).startswith("base has no draft model there, as settings are not")
    assert await lacks("base", "base", off) == "", "somebody wants it so"
    wrong = {"captain": ModelSettings(base="base", adapters=("sword",))}
    assert "captain needs the adapter 'sword'" in await lacks("captain", "poet", wrong)

    several = tmp_path / "models"
    several.mkdir()
    adapter(several / "pirate.gguf", models / "base.gguf")
    told = "pirate fits no model there: push one that it was made for"
    assert await lacks("pirate", "pirate", {}, directory=several) == told
    for name in ("one", "two"):
        tiny_model(several / f"{name}.gguf", embedding=128, name=name)
    told = 'pirate fits one and two there: set base in models."pirate" of box2'
    assert await lacks("pirate", "pirate", {}, directory=several) == told
