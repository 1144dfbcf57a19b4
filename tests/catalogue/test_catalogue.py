"""Which files become models, under which ids, with what settings, and what is refused."""

from __future__ import annotations

import difflib
import os
import shutil
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest

from suite.catalogue import Catalogue, Changes
from suite.catalogue.watch import ticks
from suite.config import ModelSettings
from suite.errors import ModelFileGone, ModelFileInvalid, ModelNotFound
from support.models import CHAT_TEMPLATE, smollm2, tiny_model
from support.raw_gguf import Tensor, gguf_bytes

GOOD = gguf_bytes()
OTHER = gguf_bytes(tensors=(Tensor(dimensions=(32, 8)),), data=1024)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    directory = tmp_path / "models"
    directory.mkdir()
    return directory


def put(directory: Path, name: str, content: bytes = GOOD) -> Path:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


async def scanned(*directories: Path, settings: Mapping[str, ModelSettings] | None = None) -> Catalogue:
    catalogue = Catalogue.open(directories, settings or {}, directories[0].parent)
    await catalogue.scan()
    return catalogue


async def test_a_model_is_found_under_the_name_of_its_file(models: Path) -> None:
    put(models, "Llama 3.2 1B.Q4_K_M.gguf")
    put(models, "below/deeper/other.gguf")
    put(models, "read-me.txt", b"not a model")
    put(models, ".hidden.gguf")
    put(models, ".cache/hidden.gguf")
    catalogue = await scanned(models)
    assert list(catalogue.models) == ["Llama 3.2 1B.Q4_K_M", "other"]
    model = catalogue.resolve("other")
    assert model.path == models / "below/deeper/other.gguf"
    assert (model.file_name, model.display_name, model.error) == ("other.gguf", "other", None)
    assert catalogue.warnings == ()
    catalogue.check_present(model)


async def test_a_real_model_is_described_and_estimated(models: Path) -> None:
    os.link(smollm2(), models / "smollm2.gguf")
    model = (await scanned(models)).resolve("smollm2")
    assert model.info is not None
    assert model.info.parameters == 134_515_008
    assert (model.capabilities, model.context_tokens) == (("chat",), 4096)  # trained for 8192
    assert model.estimate is not None
    assert model.need_bytes == model.estimate.total_bytes > 96_576_768


async def test_settings_apply(models: Path) -> None:
    tiny_model(models / "tiny.gguf", chat_template=CHAT_TEMPLATE, context=512)
    settings = {
        "tiny": ModelSettings(
            display_name="Tiny", context_length=1024, capabilities=("code",), aliases=("t", "small"), slots=1
        )
    }
    model = (await scanned(models, settings=settings)).resolve("small")
    assert (model.model_id, model.display_name, model.context_tokens) == ("tiny", "Tiny", 1024)
    assert model.capabilities == ("code",)
    assert (await scanned(models)).resolve("tiny").context_tokens == 512


async def test_versions_are_told_apart_by_what_a_template_says_not_by_where_it_is(
    models: Path, tmp_path: Path
) -> None:
    tiny_model(models / "tiny.gguf")
    file, copy = tmp_path / "chat.jinja", tmp_path / "copy.jinja"
    for each in (file, copy):
        each.write_text(CHAT_TEMPLATE)

    async def told(template: str) -> object:
        catalogue = await scanned(models, settings={"tiny": ModelSettings(chat_template=template)})
        return catalogue.resolve("tiny").version_settings["chat_template"]

    before = await told(str(file))
    assert before == await told(str(copy)) == await told(CHAT_TEMPLATE)
    file.write_text(CHAT_TEMPLATE + "!")
    assert before != await told(str(file))


async def test_a_context_of_its_own_is_estimated(models: Path) -> None:
    put(models, "m.gguf")
    needs = [
        (await scanned(models, settings={"m": ModelSettings(context_length=length)})).resolve("m").need_bytes
        for length in (256, 65_536)
    ]
    assert needs[0] < needs[1]


async def test_what_is_not_there_gets_the_nearest_names(models: Path) -> None:
    catalogue = await scanned(models)
    with pytest.raises(ModelNotFound, match=r"there are none; put a \.gguf file into .*/models"):
        catalogue.resolve("smollm2")
    put(models, "SmolLM2-135M.gguf")
    await catalogue.scan()
    with pytest.raises(ModelNotFound, match="no model 'smollm2-135': did you mean 'SmolLM2-135M'"):
        catalogue.resolve("smollm2-135")
    with pytest.raises(ModelNotFound, match=r"`suite models`\); the first is"):
        catalogue.resolve("zzz")


async def test_a_directory_that_is_not_there_is_told_of(tmp_path: Path, models: Path) -> None:
    put(models, "m.gguf")
    catalogue = await scanned(models, tmp_path / "missing")
    assert list(catalogue.models) == ["m"]
    assert "missing cannot be read: No such file or directory" in catalogue.warnings[0]


async def test_a_split_model_is_one_model(models: Path) -> None:
    for number in range(2):
        keys = {"split.no": number, "split.count": 2}
        content = gguf_bytes(keys, tensors=(Tensor(f"blk.{number}.attn_q.weight"),))
        put(models, f"big-{number + 1:05}-of-00002.gguf", content)
    catalogue = await scanned(models)
    model = catalogue.resolve("big")
    assert list(catalogue.models) == ["big"]
    assert (model.file_name, model.error) == ("big-00001-of-00002.gguf", None)
    second = models / "big-00002-of-00002.gguf"
    kept = second.read_bytes()
    second.unlink()
    assert await catalogue.scan() == Changes(changed=("big",))
    assert "big-00002-of-00002.gguf is missing" in str(catalogue.resolve("big").error)
    second.write_bytes(kept)
    assert await catalogue.scan() == Changes(changed=("big",))
    assert catalogue.resolve("big").error is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"just text", "does not begin with 'GGUF'"), (GOOD[:-1], "truncated"), (b"", "is empty")],
)
async def test_a_bad_file_is_listed_with_the_reason(content: bytes, reason: str, models: Path) -> None:
    put(models, "bad.gguf", content)
    model = (await scanned(models)).resolve("bad")
    assert isinstance(model.error, ModelFileInvalid)
    assert reason in model.error.message
    assert (model.info, model.estimate, model.need_bytes, model.context_tokens) == (None, None, 0, 0)


async def test_a_directory_named_like_a_model_is_invalid(models: Path) -> None:
    put(models, "directory.gguf/inside.gguf")
    catalogue = await scanned(models)
    assert list(catalogue.models) == ["directory"]
    assert "it is a directory" in str(catalogue.resolve("directory").error)
    with pytest.raises(ModelFileInvalid, match="it is a directory"):
        catalogue.check_present(catalogue.resolve("directory"))


async def test_links_out_are_refused_and_links_inside_are_not(tmp_path: Path, models: Path) -> None:
    outside = put(tmp_path / "outside", "secret.gguf")
    put(models, "inside.gguf")
    (models / "out.gguf").symlink_to(outside)
    (models / "alias.gguf").symlink_to("inside.gguf")
    (models / "nowhere.gguf").symlink_to("nothing.gguf")
    (models / "loop.gguf").symlink_to("loop.gguf")
    (models / "linked").symlink_to(outside.parent, target_is_directory=True)
    catalogue = await scanned(models)
    errors = {model_id: model.error and model.error.message for model_id, model in catalogue.models.items()}
    assert errors.keys() == {"alias", "inside", "loop", "nowhere", "out"}
    assert errors["alias"] is errors["inside"] is None
    assert "a link out of the model directories" in str(errors["out"])
    assert "cannot be read (No such file" in str(errors["nowhere"])
    assert "cannot be read (Too many levels" in str(errors["loop"])
    assert "linked is left out" in catalogue.warnings[0]
    assert catalogue.resolve("out").info is None
    with pytest.raises(ModelFileInvalid, match="link out"):
        catalogue.check_present(catalogue.resolve("out"))


async def test_a_refusal_does_not_keep_the_requests_that_it_refused(models: Path) -> None:
    put(models, "bad.gguf", b"GGUF")
    refused = ModelSettings(model_path="../m.gguf")
    catalogue = await scanned(models, settings={"refused": refused})
    errors: list[ModelFileInvalid] = []
    for _ in range(2):
        with pytest.raises(ModelFileInvalid, match="in it; give a path below") as refusal:
            catalogue.check_present(catalogue.resolve("refused"))
        errors.append(refusal.value)
    assert errors[0] is not errors[1]
    kept = [model.error for model in catalogue.models.values()]
    assert len(kept) == 2
    for error in kept:
        assert error is not None
        assert error.__traceback__ is None


async def test_a_file_swapped_for_a_link_out_is_noticed_before_the_load(tmp_path: Path, models: Path) -> None:
    path = put(models, "m.gguf")
    catalogue = await scanned(models)
    path.unlink()
    path.symlink_to(put(tmp_path / "outside", "secret.gguf"))
    with pytest.raises(ModelFileInvalid, match="link out"):
        catalogue.check_present(catalogue.resolve("m"))


async def test_model_directories_may_themselves_be_links(tmp_path: Path, models: Path) -> None:
    put(models, "m.gguf")
    link = tmp_path / "link"
    link.symlink_to(models, target_is_directory=True)
    assert (await scanned(link)).resolve("m").error is None


async def test_a_model_path_names_the_file(tmp_path: Path, models: Path) -> None:
    put(models, "below/long-name.Q4.gguf")
    put(tmp_path, "outside.gguf")
    settings = {
        "short": ModelSettings(model_path="below/long-name.Q4.gguf"),
        "whole": ModelSettings(model_path=str(models / "below/long-name.Q4.gguf")),
        "up": ModelSettings(model_path="../outside.gguf"),
        "up and down": ModelSettings(model_path="below/../below/long-name.Q4.gguf"),
        "out": ModelSettings(model_path=str(tmp_path / "outside.gguf")),
        "gone": ModelSettings(model_path="not-there.gguf"),
    }
    catalogue = await scanned(models, settings=settings)
    assert list(catalogue.models) == ["out", "short", "up", "up and down", "whole"]  # and not as long-name.Q4
    assert catalogue.resolve("short").error is catalogue.resolve("whole").error is None
    assert "has '..' in it" in str(catalogue.resolve("up").error)
    assert "has '..' in it" in str(catalogue.resolve("up and down").error)
    assert "leads out of the model directories" in str(catalogue.resolve("out").error)
    with pytest.raises(ModelFileInvalid, match="leads out"):
        catalogue.check_present(catalogue.resolve("out"))
    with pytest.raises(ModelNotFound, match="no model directory has the file 'not-there"):
        catalogue.resolve("gone")


async def test_a_model_can_be_switched_off(models: Path) -> None:
    put(models, "m.gguf")
    catalogue = await scanned(models, settings={"m": ModelSettings(enabled=False)})
    assert catalogue.models == {}
    with pytest.raises(ModelNotFound, match="switched off"):
        catalogue.resolve("m")


async def test_an_alias_never_hides_a_model(models: Path) -> None:
    for name in ("a", "b", "c"):
        put(models, f"{name}.gguf")
    settings = {
        "a": ModelSettings(aliases=("b", "small")),
        "c": ModelSettings(aliases=("small",)),
        "d": ModelSettings(),
    }
    catalogue = await scanned(models, settings=settings)
    assert catalogue.resolve("b").model_id == "b"
    assert catalogue.resolve("small").model_id == "a"
    assert catalogue.warnings == (
        "d is configured, but no model directory has its file",
        "the alias 'b' of a is ignored: it means b already",
        "the alias 'small' of c is ignored: it means a already",
    )


async def test_names_that_are_far_from_what_was_asked_for_are_not_compared_at_length(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aliases = tuple(f"gemma-{number}" for number in range(300))
    put(models, "smollm2.gguf")
    catalogue = await scanned(models, settings={"smollm2": ModelSettings(aliases=aliases)})
    compared: list[float] = []
    ratio = difflib.SequenceMatcher[str].ratio

    def counted(matcher: difflib.SequenceMatcher[str]) -> float:
        compared.append(likeness := ratio(matcher))
        return likeness

    monkeypatch.setattr(difflib.SequenceMatcher, "ratio", counted)
    with pytest.raises(ModelNotFound, match="did you mean 'smollm2'"):
        catalogue.resolve("smolm2")
    assert len(compared) == 2  # the whole name, and as much of it as was typed
    with pytest.raises(ModelNotFound):
        catalogue.resolve("smollm2" * 10_000)
    assert len(compared) < 10


async def test_a_configured_model_without_a_file_is_told_with_the_nearest_id(models: Path) -> None:
    put(models, "smollm2.gguf")
    catalogue = await scanned(models, settings={"smolm2": ModelSettings(context_length=64)})
    assert catalogue.warnings == (
        "smolm2 is configured, but no model directory has its file; did you mean smollm2?",
    )


async def test_names_that_are_not_utf_8_are_left_out_and_told_with_escapes(models: Path) -> None:
    other = os.fsdecode(b"caf\xe9")
    try:
        put(models, f"{other}.gguf")
    except OSError:
        pytest.skip("this file system takes Unicode only")
    put(models, "good.gguf")
    for folder in (models / other, models / "models--org--tiny" / "snapshots" / other):
        folder.mkdir(parents=True)
        put(folder, "below.gguf")
    (models / f"link-{other}").symlink_to(models / other)
    put(models, f"n.gguf.{other}.part")
    catalogue = await scanned(models)
    assert list(catalogue.models) == ["good"]
    for name in ("caf\\xe9.gguf", "caf\\xe9/below.gguf", "link-caf\\xe9", "tiny/below.gguf", "n.gguf"):
        assert any(f"{name} is left out: " in warning for warning in catalogue.warnings)
    assert msgspec.json.encode(catalogue.warnings)


async def test_a_model_directory_whose_name_is_not_utf_8_is_told_of(tmp_path: Path) -> None:
    directory = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        directory.mkdir()
    except OSError:
        pytest.skip("this file system takes Unicode only")
    put(directory, "m.gguf")
    catalogue = await scanned(directory)
    assert catalogue.models == {}
    assert "is left out: its name, or that of a folder, is not UTF-8" in catalogue.warnings[0]
    with pytest.raises(ModelNotFound, match=r"put a \.gguf file into .*caf\\xe9"):
        catalogue.resolve("m")
    async with aclosing(ticks([directory])) as told:
        assert not await anext(told)


async def test_a_file_that_goes_or_changes_is_noticed_before_the_load(models: Path) -> None:
    path = put(models, "m.gguf")
    catalogue = await scanned(models)
    model = catalogue.resolve("m")
    path.write_bytes(OTHER)
    with pytest.raises(ModelFileInvalid, match="just been changed"):
        catalogue.check_present(model)
    path.unlink()
    with pytest.raises(ModelFileGone):
        catalogue.check_present(model)
    path.mkdir()
    with pytest.raises(ModelFileInvalid, match="it is a directory"):
        catalogue.check_present(model)
    path.rmdir()
    shutil.rmtree(models)
    with pytest.raises(ModelFileGone):
        catalogue.check_present(model)
