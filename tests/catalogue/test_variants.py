"""Names that stand for a model with adapters: which model an adapter is for, and what settings make of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from suite.catalogue import Catalogue
from suite.catalogue.variants import Variant, applied, content_of, names_of
from suite.config import ModelSettings
from suite.errors import AdapterMismatch, AdapterNotFound, InvalidRequest, ModelNotFound
from suite.messages.actions.base import AdapterChoice
from support.adapters import adapter
from support.models import tiny_model


@pytest.fixture
def models(tmp_path: Path) -> Path:
    directory = tmp_path / "models"
    directory.mkdir()
    adapter(directory / "pirate.gguf", tiny_model(directory / "one.gguf", name="One"), trained_on="Two")
    adapter(directory / "poet.gguf", directory / "one.gguf", seed=1)
    return directory


async def scanned(directory: Path, settings: Mapping[str, ModelSettings] = {}) -> Catalogue:
    catalogue = Catalogue.open([directory], settings, directory.parent)
    await catalogue.scan()
    return catalogue


async def test_an_adapter_is_for_the_only_model_that_it_fits(models: Path) -> None:
    catalogue = await scanned(models)
    assert catalogue.variants == {
        name: Variant(base="one", adapters=(AdapterChoice(id=name),)) for name in ("pirate", "poet")
    }
    assert catalogue.canonical("pirate") == catalogue.resolve("pirate").model_id == "one"
    assert catalogue.variant("one") is None and catalogue.variant("nobody") is None
    digest = await catalogue.digest("pirate")
    assert digest != await catalogue.digest("one"), "its own"
    assert catalogue.models["pirate"].sha256 == digest
    with pytest.raises(ModelNotFound, match="did you mean 'pirate'"):
        catalogue.resolve("pirat")


async def test_of_several_it_is_for_the_one_that_it_was_trained_on_or_that_settings_name(
    models: Path,
) -> None:
    tiny_model(models / "two.gguf", name="two", seed=2)
    tiny_model(models / "wide.gguf", embedding=128)
    catalogue = await scanned(models)
    assert {name: each.base for name, each in catalogue.variants.items()} == {"pirate": "two"}
    assert catalogue.resolve("poet").model_id == "poet"
    error = catalogue.resolve("poet").error
    assert isinstance(error, AdapterMismatch) and "there is no one model that it is for" in error.message
    catalogue = await scanned(models, {"poet": ModelSettings(base="two", aliases=("bard",))})
    assert catalogue.resolve("bard").model_id == "two"
    catalogue = await scanned(models, {"poet": ModelSettings(base="wide")})
    assert any("poet: the adapter poet does not fit wide" in each for each in catalogue.warnings)


async def test_settings_make_names_for_several(models: Path) -> None:
    both = ModelSettings(
        base="one", adapters=("pirate", AdapterChoice(id="poet", scale=0.5)), aliases=("jack",)
    )
    settings = {
        "captain": both,
        "nowhere": ModelSettings(base="nobody", adapters="pirate"),
        "unarmed": ModelSettings(base="one", adapters="sword"),
        "off": ModelSettings(base="one", enabled=False),
    }
    catalogue = await scanned(models, settings)
    assert catalogue.resolve("jack").model_id == "one"
    found = catalogue.variant("jack")
    assert found is not None and found.adapters == (
        AdapterChoice(id="pirate"),
        AdapterChoice(id="poet", scale=0.5),
    )
    assert {*catalogue.variants} == {"captain", "unarmed", "pirate", "poet"}
    assert [each for each in catalogue.warnings if "nowhere" in each or "unarmed" in each] == [
        "nowhere has the base 'nobody' in its settings, and there is no such model",
        "unarmed needs the adapter 'sword', and there is none of this id",
    ]


async def test_a_node_tells_others_only_of_names_whose_adapters_it_has(models: Path) -> None:
    settings = {
        "captain": ModelSettings(base="one", adapters=("pirate", "poet")),
        "unarmed": ModelSettings(base="one", adapters=("pirate", "sword")),
    }
    catalogue = await scanned(models, settings)
    assert "unarmed" in catalogue.variants
    assert names_of(catalogue.models["one"], catalogue.models, catalogue.variants) == (
        "captain",
        "pirate",
        "poet",
    )


async def test_what_cannot_be_applied_is_refused_by_name(models: Path) -> None:
    tiny_model(models / "wide.gguf", embedding=128)
    catalogue = await scanned(models)
    one, wide = catalogue.resolve("one"), catalogue.resolve("wide")

    def apply(*ids: str, model: object = one) -> list[str]:
        chosen = [AdapterChoice(id=id) for id in ids]
        return [each.model_id for each, _ in applied(model, chosen, catalogue.models)]  # type: ignore[arg-type]

    assert apply("poet", "pirate") == ["poet", "pirate"]
    for ids, model, refusal, reason in (
        (("pirate",), wide, AdapterMismatch, "pirate does not fit wide: .* which is Two as its file says"),
        (("wide",), one, AdapterMismatch, "wide is no adapter"),
        (("sword",), one, AdapterNotFound, "those that fit one are pirate, poet"),
        (("sword",), wide, AdapterNotFound, "none fits this model"),
        (("poet", "poet"), one, InvalidRequest, "'poet' twice"),
        (tuple("abcdefghi"), one, InvalidRequest, "at most 8"),
    ):
        with pytest.raises(refusal, match=reason):
            apply(*ids, model=model)


def test_settings_take_what_requests_take() -> None:
    text = {"base": "one", "adapters": ["pirate", {"id": "poet", "scale": 0.5}]}
    settings = msgspec.convert(text, ModelSettings)
    assert settings.adapters == ("pirate", AdapterChoice(id="poet", scale=0.5))
    for wrong in (
        [{"scale": 1}],
        [{"id": "poet", "scal": 1}],
        [{"id": "poet", "scale": 1000}],
        [""],
        ["a"] * 9,
    ):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"adapters": wrong}, ModelSettings)


async def test_what_it_is_made_of_has_a_digest_that_no_names_change(models: Path) -> None:
    quiet, silent = (AdapterChoice(id="poet", scale=scale) for scale in (0.5, 0.0))
    settings = {
        "captain": ModelSettings(base="one", adapters=("pirate", quiet)),
        "mate": ModelSettings(base="one", adapters=(quiet, "pirate")),
        "louder": ModelSettings(base="one", adapters=("pirate", "poet")),
        "alone": ModelSettings(base="one", adapters=("pirate", silent)),
    }
    catalogue = await scanned(models, settings)
    made = catalogue.variants
    assert content_of(made["captain"], catalogue.models) is None, "nothing was read yet"
    for name in ("one", "pirate", "poet"):
        await catalogue.digest(name)
    digests = {name: content_of(each, catalogue.models) for name, each in made.items()}
    assert digests["captain"] == digests["mate"] and digests["alone"] == digests["pirate"]
    assert len(set(digests.values()) | {catalogue.models["one"].sha256}) == 5
    assert catalogue.meant("captain@2") == "captain" and catalogue.canonical("captain@2") == "one"
