"""Which id means which file: two of one name are both reachable, and no id ever means another file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from suite.catalogue import Catalogue, Changes
from suite.config import ModelSettings
from suite.errors import ModelNotFound
from support.raw_gguf import Tensor, gguf_bytes

GOOD = gguf_bytes()
OTHER = gguf_bytes(tensors=(Tensor(dimensions=(32, 8)),), data=1024)
THIRD = gguf_bytes(tensors=(Tensor(dimensions=(32, 16)),), data=2048)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    directory = tmp_path / "models"
    directory.mkdir()
    return directory


def put(path: Path, content: bytes = GOOD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


async def opened(
    *directories: Path, data_dir: Path | None = None, settings: dict[str, ModelSettings] | None = None
) -> Catalogue:
    catalogue = Catalogue.open(directories, settings or {}, data_dir or directories[0].parent)
    await catalogue.scan()
    return catalogue


def where(catalogue: Catalogue) -> dict[str, Path]:
    return {model_id: model.path for model_id, model in catalogue.models.items()}


async def test_two_files_of_one_name_are_both_reachable_and_keep_their_ids(models: Path) -> None:
    alice = put(models / "alice" / "m.Q4_K_M.gguf")
    bob = put(models / "bob" / "m.Q4_K_M.gguf", OTHER)
    catalogue = await opened(models)
    assert where(catalogue) == {"m.Q4_K_M": alice, "bob/m.Q4_K_M": bob}
    assert catalogue.warnings == ()
    alice.unlink()
    assert await catalogue.scan() == Changes(removed=("m.Q4_K_M",))
    with pytest.raises(ModelNotFound, match=r"did you mean 'bob/m.Q4_K_M'"):
        catalogue.resolve("m.Q4_K_M")
    assert where(await opened(models)) == {"bob/m.Q4_K_M": bob}  # after a restart, too
    carol = put(models / "carol" / "m.Q4_K_M.gguf", THIRD)
    await catalogue.scan()
    assert where(catalogue) == {"m.Q4_K_M": carol, "bob/m.Q4_K_M": bob}


async def test_the_one_that_had_the_name_first_keeps_it(models: Path) -> None:
    zoe = put(models / "zoe" / "m.gguf")
    await opened(models)
    alice = put(models / "alice" / "m.gguf", OTHER)
    assert where(await opened(models)) == {"m": zoe, "alice/m": alice}


async def test_ids_tell_directories_of_the_same_name_apart(tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("a/models/m.gguf", "b/models/m.gguf", "c/models/m.gguf")]
    for place in places:
        put(place)
    catalogue = await opened(*(place.parent for place in places), data_dir=tmp_path)
    assert where(catalogue) == dict(zip(("m", "models/m", "c/models/m"), places, strict=True))


async def test_a_moved_file_keeps_its_id(models: Path) -> None:
    alice, bob = put(models / "alice" / "m.gguf"), put(models / "bob" / "m.gguf", OTHER)
    catalogue = await opened(models)
    digests = {model_id: await catalogue.digest(model_id) for model_id in ("m", "bob/m")}
    moved = models / "carol" / "m.gguf"
    moved.parent.mkdir()
    bob.rename(moved)
    assert not (await catalogue.scan()).removed
    assert where(catalogue) == {"m": alice, "bob/m": moved}
    moved.rename(bob)
    alice.rename(moved)
    catalogue = await opened(models)  # moved while nobody watched
    assert where(catalogue) == {"m": moved, "bob/m": bob}
    assert {model_id: await catalogue.digest(model_id) for model_id in ("m", "bob/m")} == digests


async def test_a_file_of_other_content_does_not_get_the_id_of_one_that_went(models: Path) -> None:
    alice, bob = put(models / "alice" / "m.gguf"), put(models / "bob" / "m.gguf", OTHER)
    catalogue = await opened(models)
    times = alice.stat()
    alice.unlink()
    bob.rename(models / "bob" / "n.gguf")
    look_alike = put(models / "carol" / "m.gguf", GOOD[:-1] + b"x")
    os.utime(look_alike, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert set((await catalogue.scan()).added) >= {"n"}
    assert where(catalogue) == {"m": look_alike, "n": models / "bob" / "n.gguf"}
    assert "bob/m" not in catalogue.models


async def test_what_settings_say_an_id_means_it_means(models: Path) -> None:
    alice, bob = put(models / "alice" / "m.gguf"), put(models / "bob" / "m.gguf", OTHER)
    await opened(models)
    catalogue = await opened(models, settings={"m": ModelSettings(model_path="bob/m.gguf")})
    assert where(catalogue) == {"m": bob, "alice/m": alice}
    off = await opened(models, settings={"alice/m": ModelSettings(enabled=False)})
    assert where(off) == {"m": bob}


async def test_ids_that_are_too_long_are_told_of(models: Path) -> None:
    name = "n" * 245 + ".gguf"
    put(models / "alice" / name)
    put(models / "bobs folder" / name)
    catalogue = await opened(models)
    assert list(catalogue.models) == ["n" * 245]
    assert "too long" in catalogue.warnings[0]


async def test_without_the_file_of_ids_all_get_their_ids_anew(models: Path) -> None:
    bob = put(models / "bob" / "m.gguf")
    put(models / "alice" / "m.gguf").unlink()
    ids = models.parent / "ids.json"
    for garbage in (b"", b"[]", b'{"m": 1}'):
        ids.write_bytes(garbage)
        assert where(await opened(models)) == {"m": bob}
    assert ids.stat().st_mode & 0o777 == 0o600
    (binding,) = json.loads(ids.read_bytes()).values()
    ids.write_text(json.dumps({"m": binding, "twice": binding}))
    assert set(where(await opened(models)).values()) == {bob}
