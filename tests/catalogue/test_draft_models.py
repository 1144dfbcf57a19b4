"""The draft model of a model: found by its id, counted with it, and refused with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from suite.catalogue import Catalogue, Model
from suite.config import ModelSettings
from suite.domain.footprint import Footprint
from suite.errors import DraftModelUnfit
from support.encoder import tiny_bert
from support.models import smollm2, tiny_model

LIMIT = Footprint(8 << 30)


async def scanned(directory: Path, data_dir: Path, settings: Mapping[str, ModelSettings]) -> Catalogue:
    catalogue = Catalogue.open([directory], settings, data_dir, limits=LIMIT)
    await catalogue.scan()
    return catalogue


@pytest.fixture
def models(tmp_path: Path) -> Path:
    directory = tmp_path / "models"
    directory.mkdir()
    tiny_model(directory / "main.gguf", layers=3)
    tiny_model(directory / "small.gguf", layers=1)
    (directory / "other.gguf").hardlink_to(smollm2())
    return directory


async def test_it_is_loaded_with_the_model_and_its_memory_counts(models: Path, tmp_path: Path) -> None:
    alone = await scanned(models, tmp_path / "data", {})
    catalogue = await scanned(models, tmp_path / "data", {"main": ModelSettings(draft_model="small")})
    plain, model, small = alone.resolve("main"), catalogue.resolve("main"), catalogue.resolve("small")
    assert model.error is None and model.draft is not None and model.draft.file.path == small.path
    assert small.draft is None
    own, both = plain.footprint(LIMIT).ram, model.footprint(LIMIT).ram
    assert own < both < own + small.footprint(LIMIT).ram, "there is one process"
    assert both == model.need_bytes
    assert model.settings_key != plain.settings_key, "it is measured anew"


async def test_where_nothing_is_guessed_it_is_not_loaded(models: Path, tmp_path: Path) -> None:
    off = ModelSettings(draft_model="small", speculation="off")
    model = (await scanned(models, tmp_path / "data", {"main": off})).resolve("main")
    assert model.draft is None and model.error is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [("other", "another vocabulary"), ("encoder", "generates no text")],
)
async def test_one_that_does_not_fit_is_refused(models: Path, tmp_path: Path, name: str, reason: str) -> None:
    tiny_bert(models / "encoder.gguf")
    catalogue = await scanned(models, tmp_path / "data", {"main": ModelSettings(draft_model=name)})
    error = catalogue.resolve("main").error
    assert isinstance(error, DraftModelUnfit) and reason in error.message and f"'{name}'" in error.message
    assert error.message in catalogue.warnings


@pytest.mark.parametrize(
    ("name", "reason"), [("missing", "there is no such model"), ("broken", "cannot be loaded")]
)
async def test_without_one_that_is_not_there_it_is_served_and_health_says_so(
    models: Path, tmp_path: Path, name: str, reason: str
) -> None:
    (models / "broken.gguf").write_bytes(b"GGUF")
    catalogue = await scanned(models, tmp_path / "data", {"main": ModelSettings(draft_model=name)})
    main = catalogue.resolve("main")
    assert main.error is None and main.draft is None
    (problem,) = catalogue.problems
    assert reason in problem and "main is served without it" in problem


@pytest.mark.parametrize("name", ["small", "missing"])
async def test_a_scan_that_finds_nothing_new_leaves_the_model_as_it_is(
    models: Path, tmp_path: Path, name: str
) -> None:
    catalogue = await scanned(models, tmp_path / "data", {"main": ModelSettings(draft_model=name)})
    before = catalogue.resolve("main")
    await catalogue.scan()
    assert catalogue.resolve("main") is before


async def test_it_counts_as_soon_as_its_file_is_there(models: Path, tmp_path: Path) -> None:
    settings = {"main": ModelSettings(draft_model="late")}
    catalogue = await scanned(models, tmp_path / "data", settings)

    def main() -> Model:
        return catalogue.resolve("main")

    assert main().draft is None and catalogue.problems
    tiny_model(models / "late.gguf", layers=1)
    await catalogue.scan()
    assert main().draft is not None and not catalogue.problems
    (models / "late.gguf").unlink()
    await catalogue.scan()
    assert main().draft is None and main().error is None and catalogue.problems
