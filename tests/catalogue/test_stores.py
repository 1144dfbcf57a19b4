"""Folders of other programs: what they have, under which names, and that they stay as they are."""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from suite.catalogue import Catalogue, Model
from suite.config import ModelSettings
from suite.config.settings import FollowLinks
from suite.errors import ModelFileInvalid
from support.raw_gguf import Tensor, gguf_bytes
from support.stores import OLLAMA_LAYER, HuggingFaceHub, Ollama, sha256, tree, unwritable

GOOD = gguf_bytes()
OTHER = gguf_bytes(tensors=(Tensor(dimensions=(32, 8)),), data=1024)
OLD, NEW = "0123456789abcdef" * 2 + "01234567", "fedcba9876543210" * 2 + "fedcba98"


@pytest.fixture(autouse=True)
def data_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have data directories go where everything of a test goes."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


async def scanned(
    *directories: Path, settings: dict[str, ModelSettings] | None = None, links: FollowLinks = "inside"
) -> Catalogue:
    """What a node finds at its first start."""
    data_dir = Path(tempfile.mkdtemp())
    catalogue = Catalogue.open(directories, settings or {}, data_dir, follow_links=links)
    await catalogue.scan()
    return catalogue


def origins(catalogue: Catalogue) -> dict[str, tuple[str, str | None]]:
    entries = {model_id: model.file.entry for model_id, model in catalogue.models.items()}
    return {model_id: (entry.source, entry.repository) for model_id, entry in entries.items()}


def refusal(model: Model) -> str:
    assert model.error is not None
    return model.error.message


# --- Hugging Face -------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path) -> HuggingFaceHub:
    return HuggingFaceHub(tmp_path / "huggingface" / "hub")


@pytest.mark.parametrize("given", ["huggingface", "hub", "repository", "snapshot"])
async def test_a_cache_is_recognised_from_any_of_its_folders(given: str, hub: HuggingFaceHub) -> None:
    snapshot = hub.add("org/tiny-GGUF", NEW, "tiny-Q4_0.gguf", GOOD).parent
    hub.add("org/tiny-GGUF", NEW, "mmproj-tiny-f16.gguf", OTHER)
    hub.add("org/tiny-GGUF", NEW, "tiny-imatrix.gguf", OTHER)
    hub.add("org/tiny-GGUF", NEW, "README.md", b"# tiny")
    (hub.directory / "datasets--org--texts" / "snapshots" / NEW).mkdir(parents=True)
    directory = {
        "huggingface": hub.directory.parent,
        "hub": hub.directory,
        "repository": hub.repository("org/tiny-GGUF"),
        "snapshot": snapshot,
    }[given]
    catalogue = await scanned(directory)
    assert origins(catalogue) == {"tiny-Q4_0": ("huggingface", "org/tiny-GGUF")}
    model = catalogue.resolve("tiny-Q4_0")
    assert model.error is None
    assert await catalogue.digest("tiny-Q4_0") == sha256(GOOD)
    catalogue.check_present(model)


async def test_the_current_revision_has_the_plain_id_and_an_older_one_only_what_it_has_else(
    hub: HuggingFaceHub,
) -> None:
    hub.add("org/tiny", NEW, "tiny.gguf", GOOD)
    hub.add("org/tiny", NEW, "same.gguf", GOOD)
    hub.add("org/tiny", OLD, "tiny.gguf", OTHER, current=False)
    hub.add("org/tiny", OLD, "same.gguf", GOOD, current=False)
    hub.add("org/tiny", OLD, "dropped.gguf", OTHER, current=False)
    catalogue = await scanned(hub.directory)
    assert list(catalogue.models) == ["dropped", "same", "tiny", "tiny@0123456"]
    assert catalogue.resolve("tiny").path.parent.name == NEW
    (hub.repository("org/tiny") / "refs" / "main").write_text(OLD)  # gone back to, as `hf download` does
    await catalogue.scan()
    assert catalogue.resolve("tiny").path.parent.name == OLD
    assert list(catalogue.models) == ["dropped", "same", "tiny", "tiny@fedcba9"]


async def test_a_split_model_in_a_folder_of_the_repository_is_one_model(hub: HuggingFaceHub) -> None:
    for number in (0, 1):
        keys = {"split.no": number, "split.count": 2}
        content = gguf_bytes(keys, tensors=[Tensor(name=f"part{number}")])
        hub.add("org/big", NEW, f"Q4_0/big-0000{number + 1}-of-00002.gguf", content)
    catalogue = await scanned(hub.directory)
    assert list(catalogue.models) == ["big"]
    assert catalogue.resolve("big").error is None


async def test_a_download_that_has_not_ended_is_told_of_and_not_served(hub: HuggingFaceHub) -> None:
    hub.add("org/tiny", NEW, "tiny.gguf", GOOD)
    blobs = hub.repository("org/tiny") / "blobs"
    (blobs / f"{'a' * 64}.1234abcd.incomplete").write_bytes(OTHER[:100])
    (blobs / f"{'b' * 64}.incomplete").write_bytes(b"safetensors, which are none of ours")
    catalogue = await scanned(hub.directory)
    assert list(catalogue.models) == ["tiny"]
    (warning,) = catalogue.warnings
    assert warning.startswith("'org/tiny' has a download that has not ended: aaaa")


async def test_a_link_whose_blob_is_gone_is_said_to_be_unreadable(hub: HuggingFaceHub) -> None:
    link = hub.add("org/tiny", NEW, "tiny.gguf", GOOD)
    link.resolve().unlink()
    assert "it cannot be read (No such file" in refusal((await scanned(hub.directory)).resolve("tiny"))


async def test_a_blob_whose_content_is_not_its_name_is_damaged(hub: HuggingFaceHub) -> None:
    link = hub.add("org/tiny", NEW, "tiny.gguf", GOOD)
    data_dir = Path(tempfile.mkdtemp())
    link.resolve().write_bytes(GOOD[:-1] + b"x")
    for _ in range(2):  # and after a restart, when the digest is known
        catalogue = Catalogue.open([hub.directory], {}, data_dir)
        await catalogue.scan()
        with suppress(ModelFileInvalid):
            await catalogue.digest("tiny")
        damaged = catalogue.resolve("tiny")
        assert "tiny is damaged: its file has another SHA-256" in refusal(damaged)
        assert damaged.kv_cache is None
        assert damaged.context_tokens == 0


# --- LM Studio ----------------------------------------------------------------------------------------------


async def test_lm_studios_tree_is_recognised_and_projectors_are_no_models(tmp_path: Path) -> None:
    models = tmp_path / ".lmstudio" / "models"
    folder = models / "publisher" / "tiny-GGUF"
    folder.mkdir(parents=True)
    (folder / "tiny-Q4_0.gguf").write_bytes(GOOD)
    (folder / "mmproj-tiny.gguf").write_bytes(OTHER)
    expected = {"tiny-Q4_0": ("lmstudio", "publisher/tiny-GGUF")}
    for given in (models, models.parent):
        assert origins(await scanned(given)) == expected


# --- Ollama -------------------------------------------------------------------------------------------------


@pytest.fixture
def ollama(tmp_path: Path) -> Ollama:
    return Ollama(tmp_path / ".ollama" / "models")


async def test_models_have_the_names_that_people_type_there(ollama: Ollama) -> None:
    ollama.add("registry.ollama.ai/library/llama3.2/1b", GOOD)
    ollama.add("registry.ollama.ai/library/llama3.2/latest", GOOD)
    ollama.add("registry.ollama.ai/alice/tiny/latest", OTHER)
    ollama.add("hf.co/org/tiny-GGUF/Q4_K_M", OTHER)
    for given in (ollama.directory, ollama.directory.parent):
        catalogue = await scanned(given)
        assert origins(catalogue) == {
            "alice/tiny:latest": ("ollama", "alice/tiny"),
            "hf.co/org/tiny-GGUF:Q4_K_M": ("ollama", "hf.co/org/tiny-GGUF"),
            "llama3.2:1b": ("ollama", "llama3.2"),
            "llama3.2:latest": ("ollama", "llama3.2"),
        }
        assert (catalogue.warnings, catalogue.resolve("llama3.2").model_id) == ((), "llama3.2:latest")
    assert await catalogue.digest("llama3.2:1b") == await catalogue.digest("llama3.2") == sha256(GOOD)


async def test_parameters_come_with_a_model_and_settings_go_first(ollama: Ollama) -> None:
    parameters = {
        "stop": ["<|end|>", "User:"],
        "temperature": 0,
        "num_predict": 32,
        "num_ctx": 96,
        "num_gpu": 99,
        "mirostat": 1,
        "top_p": 7,
    }
    others = {"template": b"{{ .Prompt }}", "license": b"MIT", "messages": b"[]"}
    name = "registry.ollama.ai/library/tiny/latest"
    ollama.add(name, GOOD, parameters=parameters, system="Be brief.", others=others)
    catalogue = await scanned(ollama.directory)
    model = catalogue.resolve("tiny")
    assert model.file.entry.parameters == {
        "max_tokens": 32,
        "stop": ("<|end|>", "User:"),
        "system_prompt": "Be brief.",
        "temperature": 0.0,
    }
    assert model.context_tokens == 96
    assert catalogue.warnings == (
        "'tiny:latest': these of its parameters are not used: mirostat, top_p",
        "'tiny:latest': the messages of its Modelfile are not used",
    )
    configured = {"tiny:latest": ModelSettings(context_length=64, aliases=("t",))}
    model = (await scanned(ollama.directory, settings=configured)).resolve("t")
    assert (model.context_tokens, model.settings.aliases) == (64, ("t", "tiny"))


async def test_new_parameters_of_the_same_weights_are_a_change(ollama: Ollama) -> None:
    name = "registry.ollama.ai/library/tiny/latest"
    ollama.add(name, GOOD, parameters={"temperature": 1})
    catalogue = await scanned(ollama.directory)
    ollama.add(name, GOOD, parameters={"temperature": 2})
    assert (await catalogue.scan()).changed == ("tiny:latest",)
    assert catalogue.resolve("tiny").file.entry.parameters == {"temperature": 2.0}


async def test_a_name_stays_with_its_manifest_and_not_with_its_blob(ollama: Ollama) -> None:
    library = "registry.ollama.ai/library"
    before = ollama.add(f"{library}/before/latest", GOOD)
    catalogue = await scanned(ollama.directory)
    ollama.add(f"{library}/after/latest", GOOD)  # what `ollama cp` does, and then `ollama rm`
    before.unlink()
    assert (await catalogue.scan()).removed == ("before:latest",)
    assert list(catalogue.models) == ["after:latest"]
    ollama.add(f"{library}/after/latest", OTHER)  # and `ollama pull` of a newer one
    assert (await catalogue.scan()).changed == ("after:latest",)
    assert await catalogue.digest("after") == sha256(OTHER)


async def test_what_cannot_be_served_says_why(ollama: Ollama) -> None:
    library = "registry.ollama.ai/library"
    ollama.add(f"{library}/cloud/latest", None)
    ollama.add(f"{library}/adapted/latest", GOOD, others={"adapter": b"GGUF"})
    ollama.add(f"{library}/text/latest", b"these are no weights")
    ollama.add(f"{library}/parametric/latest", GOOD, others={"params": b"[1, 2]"})
    ollama.add(f"{library}/wordy/latest", GOOD, system="I" * (64 << 10) + "!")
    ollama.add(f"{library}/linked/latest", GOOD, system="I am a secret")
    secret = ollama.blob(b"I am a secret")
    secret.rename(ollama.directory.parent / "secret")
    secret.symlink_to(ollama.directory.parent / "secret")
    broken = ollama.add(f"{library}/broken/latest", GOOD)
    broken.write_text("{")
    escaping = ollama.add(f"{library}/escaping/latest", GOOD)
    layer = {"mediaType": f"{OLLAMA_LAYER}model", "digest": "sha256:../../../secret", "size": 1}
    escaping.write_text(json.dumps({"layers": [layer]}))
    ollama.add(f"{library}/cut/latest", OTHER)
    blob = ollama.blob(OTHER)
    blob.write_bytes(OTHER[:-1])
    ollama.add(f"{library}/lost/latest", GOOD + b"\0")
    ollama.blob(GOOD + b"\0").unlink()
    catalogue = await scanned(ollama.directory)
    reasons = {model_id: refusal(model) for model_id, model in catalogue.models.items()}
    for name, reason in {
        "adapted": "it needs an adapter (LoRA)",
        "broken": "its manifest is not the JSON that Ollama writes",
        "cloud": "its manifest has no GGUF file",
        "cut": f"its blob has {len(OTHER) - 1} of {len(OTHER)} bytes: `ollama pull cut:latest` completes it",
        "escaping": "its manifest names a blob by something that is not a SHA-256",
        "linked": "its system prompt cannot be read (it is not a regular file)",
        "lost": "is missing: `ollama pull lost:latest` brings it back",
        "parametric": "the file of its parameters is not the JSON that Ollama writes",
        "text": "is not a model that can be loaded",
        "wordy": "its system prompt has over 64 KiB: make it shorter with `ollama create`",
    }.items():
        assert reason in reasons.pop(f"{name}:latest")
    assert reasons == {}


# --- links --------------------------------------------------------------------------------------------------


async def test_links_out_of_the_directories_are_refused_until_a_setting_allows_them(tmp_path: Path) -> None:
    models, elsewhere = tmp_path / "models", tmp_path / "elsewhere"
    models.mkdir()
    (elsewhere / "deeper").mkdir(parents=True)
    (elsewhere / "out.gguf").write_bytes(GOOD)
    (elsewhere / "deeper" / "far.gguf").write_bytes(OTHER)
    (models / "out.gguf").symlink_to(elsewhere / "out.gguf")
    (models / "folder").symlink_to(elsewhere / "deeper")
    (elsewhere / "deeper" / "circle").symlink_to(elsewhere / "deeper")
    catalogue = await scanned(models)
    assert list(catalogue.models) == ["out"]
    assert 'or set follow_links = "anywhere"' in refusal(catalogue.resolve("out"))
    (warning,) = catalogue.warnings
    assert warning.endswith('follow_links = "anywhere" allows it')
    catalogue = await scanned(models, links="anywhere")
    assert {name: model.error for name, model in catalogue.models.items()} == {"far": None, "out": None}
    assert catalogue.warnings == ()
    catalogue.check_present(catalogue.resolve("far"))


async def test_a_store_that_is_linked_into_a_model_directory_is_one(tmp_path: Path, ollama: Ollama) -> None:
    ollama.add("registry.ollama.ai/library/tiny/1b", GOOD)
    models = tmp_path / "models"
    models.mkdir()
    (models / "ollama").symlink_to(ollama.directory)
    catalogue = await scanned(models, links="anywhere")
    assert origins(catalogue) == {"tiny:1b": ("ollama", "tiny")}


# --- beside them --------------------------------------------------------------------------------------------


async def test_what_lies_beside_a_store_is_served_too(tmp_path: Path) -> None:
    models = tmp_path / "models"
    HuggingFaceHub(models).add("org/tiny", NEW, "tiny.gguf", GOOD)
    Ollama(models).add("registry.ollama.ai/library/tiny/1b", GOOD)
    (models / "below").mkdir()
    for path in ("plain.gguf", "below/deep.gguf", "models--org--tiny/stray.gguf"):
        (models / path).write_bytes(OTHER)
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    for _ in range(2):
        catalogue = Catalogue.open([models], {}, data_dir)
        await catalogue.scan()
        assert {id: model.file.entry.source for id, model in catalogue.models.items()} == {
            "deep": "directory",
            "plain": "directory",
            "stray": "directory",
            "tiny": "huggingface",
            "tiny:1b": "ollama",
        }
        assert (catalogue.problems, catalogue.warnings) == ((), ())


# --- as they are --------------------------------------------------------------------------------------------


async def test_nothing_is_ever_written_into_a_store(
    tmp_path: Path, hub: HuggingFaceHub, ollama: Ollama
) -> None:
    hub.add("org/tiny", NEW, "hugging.gguf", GOOD)
    ollama.add("registry.ollama.ai/library/tiny/1b", OTHER, parameters={"temperature": 0})
    (tmp_path / "data").mkdir()
    with unwritable(hub.directory), unwritable(ollama.directory):
        before = tree(hub.directory) | tree(ollama.directory)
        catalogue = Catalogue.open([hub.directory.parent, ollama.directory], {}, tmp_path / "data")
        await catalogue.scan()
        for model_id in ("hugging", "tiny:1b"):
            assert catalogue.resolve(model_id).error is None
            await catalogue.digest(model_id)
        assert tree(hub.directory) | tree(ollama.directory) == before
