"""Which projector a model gets: one that is named like it and fits, in whatever kind of folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from suite.catalogue import Catalogue, Model
from suite.catalogue.projectors import name_beside
from suite.config import ModelSettings
from suite.engine.gguf.projector import inspect_projector
from suite.engine.pictures import availability
from suite.errors import ModelFileInvalid
from support.models import tiny_model
from support.projector import tiny_projector
from support.stores import HuggingFaceHub, Ollama


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


async def scanned(models: Path, settings: dict[str, ModelSettings] | None = None) -> Catalogue:
    catalogue = Catalogue.open([models], settings or {}, models.parent)
    await catalogue.scan()
    return catalogue


async def only_model(models: Path, settings: dict[str, ModelSettings] | None = None) -> Model:
    found = [each for each in (await scanned(models, settings)).models.values() if each.info is not None]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(
    ("model", "projector"),
    [
        ("gemma-3-4b-it-Q4_K_M.gguf", "mmproj-gemma-3-4b-it-f16.gguf"),
        ("gemma-3-4b-it-UD-Q4_K_XL.gguf", "gemma-3-4b-it.mmproj-Q8_0.gguf"),
        ("Qwen2.5-VL-7B-Instruct-IQ3_XXS.gguf", "Qwen2.5-VL-7B-Instruct-mmproj-BF16.gguf"),
        ("llava.gguf", "mmproj-llava.gguf"),
        ("anything-Q8_0.gguf", "mmproj-model-f16.gguf"),
        ("anything.gguf", "mmproj-F32.gguf"),
    ],
)
async def test_a_projector_is_paired_by_its_name(models: Path, model: str, projector: str) -> None:
    tiny_model(models / model)
    path = tiny_projector(models / projector)
    found = await only_model(models)
    assert found.projector is not None and found.projector.path == path
    assert found.capabilities == ("vision",)
    assert found.estimate is not None
    alone = await only_model(models, {found.model_id: ModelSettings(projector="none")})
    assert alone.projector is None and alone.reads_no_pictures == "it is switched off"
    assert alone.estimate is not None
    more = found.estimate.total_bytes - alone.estimate.total_bytes
    assert more == found.projector.tensor_bytes and found.settings_key != alone.settings_key


@pytest.mark.parametrize(
    ("model", "projector", "name"),
    [
        ("gemma-3-4b-it-Q4_K_M.gguf", "mmproj-gemma-3-4b-it-f16.gguf", "mmproj-gemma-3-4b-it-f16.gguf"),
        ("gemma-3-4b-it-Q4_K_M.gguf", "mmproj-model-f16.gguf", "mmproj-gemma-3-4b-it-Q4_K_M.gguf"),
        ("big-00001-of-00002.gguf", "mmproj-F16.gguf", "mmproj-big.gguf"),
        ("llava:7b.gguf", "sha256-0123", "mmproj-llava:7b.gguf"),
        ("other.gguf", "mmproj-llava.gguf", "mmproj-other.gguf"),
    ],
)
async def test_beside_others_a_projector_has_a_name_by_which_it_is_paired(
    models: Path, model: str, projector: str, name: str
) -> None:
    assert name_beside(model, projector) == name
    tiny_model(models / model.replace("-00001-of-00002", ""))
    tiny_model(models / "unlike.gguf", seed=1)
    path = tiny_projector(models / name)
    found = {each.file_name: each.projector for each in (await scanned(models)).models.values()}
    own = found[model.replace("-00001-of-00002", "")]
    assert own is not None and own.path == path and found["unlike.gguf"] is None


@pytest.mark.parametrize("projector", ["mmproj-other-f16.gguf", "mmproj-big-model-2-f16.gguf"])
async def test_one_with_another_name_is_not_taken(models: Path, projector: str) -> None:
    tiny_model(models / "big-model.gguf")
    path = tiny_projector(models / projector)
    found = await only_model(models)
    assert found.projector is None and "it has no projector; put its mmproj file" in found.reads_no_pictures
    told = await only_model(models, {"big-model": ModelSettings(projector=projector)})
    assert told.projector is not None and told.projector.path == path


async def test_one_that_does_not_fit_is_named(models: Path) -> None:
    tiny_model(models / "model.gguf")
    tiny_projector(models / "mmproj.gguf", embedding=32)
    found = await only_model(models)
    assert "mmproj.gguf is for models with an embedding of 32, and this one has 64" in found.reads_no_pictures
    (models / "mmproj.gguf").write_bytes(b"GGUF")
    assert "mmproj.gguf is not a projector that can be used" in (await only_model(models)).reads_no_pictures


async def test_the_better_of_two_is_taken(models: Path) -> None:
    tiny_model(models / "model.gguf")
    for precision in ("Q8_0", "BF16", "F32", "F16"):
        tiny_projector(models / f"mmproj-{precision}.gguf")
    found = await only_model(models)
    assert found.projector is not None and found.projector.path.name == "mmproj-F16.gguf"


async def test_one_that_comes_later_is_found_and_is_no_model(models: Path) -> None:
    tiny_model(models / "model.gguf")
    catalogue = await scanned(models)
    assert catalogue.models["model"].projector is None
    tiny_projector(models / "mmproj-model.gguf")
    await catalogue.scan()
    assert catalogue.models["model"].projector is not None
    error = catalogue.models["mmproj-model"].error
    assert error is not None
    assert error.message == (
        "mmproj-model.gguf is not a model that can be loaded: it is a multimodal projector, not a model; "
        "choose the model that it is for"
    )


async def test_a_link_out_of_the_directories_is_not_followed(models: Path, tmp_path: Path) -> None:
    tiny_model(models / "model.gguf")
    (models / "mmproj.gguf").symlink_to(tiny_projector(tmp_path / "elsewhere.gguf"))
    assert (await only_model(models)).projector is None


async def test_without_the_multimodal_library_the_reason_is_told(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_model(models / "model.gguf")
    tiny_projector(models / "mmproj.gguf")
    monkeypatch.setattr(availability, "_LIBRARY", "libnone.so")
    availability.why_missing.cache_clear()
    try:
        found = await only_model(models)
    finally:
        availability.why_missing.cache_clear()
    assert found.error is None and found.capabilities == ()
    assert "was compiled without llama.cpp's multimodal library" in found.reads_no_pictures


async def test_hugging_faces_cache_has_projectors_beside_models(tmp_path: Path) -> None:
    hub = HuggingFaceHub(tmp_path / "hub")
    revision = "0123456789abcdef" * 2 + "01234567"
    for name, make in (("tiny-Q4_0.gguf", tiny_model), ("mmproj-tiny-F16.gguf", tiny_projector)):
        content = make(tmp_path / name).read_bytes()
        hub.add("org/tiny-GGUF", revision, name, content)
    (tmp_path / "data").mkdir()
    catalogue = Catalogue.open([tmp_path / "hub"], {}, tmp_path / "data")
    await catalogue.scan()
    (found,) = catalogue.models.values()
    assert found.projector is not None and found.projector.path.name == "mmproj-tiny-F16.gguf"


async def test_ollamas_store_says_which_projector_a_model_has(tmp_path: Path) -> None:
    store = Ollama(tmp_path / "ollama")
    projector = tiny_projector(tmp_path / "projector.gguf").read_bytes()
    model = tiny_model(tmp_path / "tiny.gguf").read_bytes()
    store.add("registry.ollama.ai/library/tiny/latest", model, others={"projector": projector})
    (tmp_path / "data").mkdir()
    catalogue = Catalogue.open([tmp_path / "ollama"], {}, tmp_path / "data")
    await catalogue.scan()
    (found,) = catalogue.models.values()
    assert found.projector is not None and found.projector.kind == "gemma3"


def test_a_model_is_no_projector(tmp_path: Path) -> None:
    with pytest.raises(ModelFileInvalid, match="it is a model, not a projector"):
        inspect_projector(tiny_model(tmp_path / "mmproj.gguf"))
    with pytest.raises(ModelFileInvalid, match="No such file"):
        inspect_projector(tmp_path / "none.gguf")
