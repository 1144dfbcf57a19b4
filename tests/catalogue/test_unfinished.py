"""What is not whole yet is listed under the id that it will have, is not served, and is served once it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from suite.catalogue import Catalogue, Changes
from suite.errors import ModelFileIncomplete, ModelFileInvalid
from support.raw_gguf import Tensor, gguf_bytes

GOOD = gguf_bytes()
SUFFIXES = ("part", "partial", "incomplete", "crdownload", "tmp", "x7Ka.part")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def models(tmp_path: Path) -> Path:
    directory = tmp_path / "models"
    directory.mkdir()
    return directory


async def opened(directory: Path, clock: Clock | None = None) -> Catalogue:
    catalogue = Catalogue.open([directory], {}, directory.parent, clock=clock or Clock())
    await catalogue.scan()
    return catalogue


def put(path: Path, content: bytes = GOOD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def part(number: int, *, of: int = 3, tensor: str = "", width: int = 32, total: int = 3) -> bytes:
    return gguf_bytes(
        {"split.no": number - 1, "split.count": of, "split.tensors.count": total},
        tensors=(Tensor(tensor or f"blk.{number}.attn_q.weight", dimensions=(width, 2)),),
    )


def states(catalogue: Catalogue) -> dict[str, str]:
    return {model_id: model.file_state for model_id, model in catalogue.models.items()}


async def test_downloads_under_way_are_listed_by_the_ids_that_they_will_have(models: Path) -> None:
    for number, suffix in enumerate(SUFFIXES):
        put(models / f"m{number}.gguf.{suffix}", b"G")
    put(models / "safari.gguf.download" / "safari.gguf")  # a directory with the file in it
    put(models / "aria.gguf", GOOD)
    put(models / "aria.gguf.aria2", b"control")
    put(models / "here.gguf")
    put(models / "here.gguf.part", b"left behind")
    put(models / "Unconfirmed 123.crdownload")
    put(models / ".hidden.gguf.part")
    catalogue = await opened(models)
    ids = {f"m{number}" for number in range(len(SUFFIXES))} | {"safari", "aria"}
    assert states(catalogue) == dict.fromkeys(ids, "incomplete") | {"here": "present"}
    assert not await catalogue.scan()
    put(models / "m0.gguf.part", b"GGUF")
    assert not await catalogue.scan()  # progress is no news
    with pytest.raises(ModelFileIncomplete, match=r"m0.gguf is not whole yet, as m0.gguf.part shows"):
        catalogue.check_present(catalogue.resolve("m0"))
    put(models / "m0.gguf.part").rename(models / "m0.gguf")
    (models / "aria.gguf.aria2").unlink()
    changes = await catalogue.scan()
    assert changes == Changes(changed=("aria", "m0"))
    assert states(catalogue)["m0"] == states(catalogue)["aria"] == "present"


async def test_a_new_file_is_told_of_at_once_as_still_being_copied(models: Path) -> None:
    clock = Clock()
    catalogue = await opened(models, clock)
    path = put(models / "m.gguf", GOOD[:100])
    assert not await catalogue.scan(settle_seconds=10)
    model = catalogue.resolve("m")
    assert (model.file_state, model.file.parts) == ("arriving", (path,))
    with pytest.raises(ModelFileIncomplete, match=r"m\.gguf is still being copied"):
        catalogue.check_present(model)
    clock.now = 10
    put(path)
    assert not await catalogue.scan(settle_seconds=10)
    clock.now = 20
    assert await catalogue.scan(settle_seconds=10) == Changes(added=("m",))
    assert states(catalogue) == {"m": "present"}
    put(models / "n.gguf", GOOD[:100])
    assert not await catalogue.scan(settle_seconds=10)
    (models / "n.gguf").unlink()
    assert not await catalogue.scan(settle_seconds=10)  # what never counted is not removed
    assert states(catalogue) == {"m": "present"}


async def test_a_split_model_is_whole_with_its_last_part(models: Path) -> None:
    put(models / "big-00002-of-00003.gguf", part(2))
    catalogue = await opened(models)
    assert states(catalogue) == {"big": "incomplete"}
    put(models / "big-00001-of-00003.gguf", part(1))
    put(models / "big-00003-of-00003.gguf.part", part(3)[:50])
    await catalogue.scan()
    assert states(catalogue) == {"big": "incomplete"}
    assert "its part big-00003-of-00003.gguf is missing" in str(catalogue.resolve("big").error)
    put(models / "big-00003-of-00003.gguf", part(3))
    assert await catalogue.scan() == Changes(changed=("big",))
    assert states(catalogue) == {"big": "present"}


@pytest.mark.parametrize(
    "other",
    [
        part(3, of=4),
        part(2, tensor="blk.9.attn_q.weight"),
        part(3, total=9),
        part(3, tensor="blk.2.attn_norm.weight", width=64),
        part(3, tensor="blk.1.attn_q.weight"),
    ],
)
async def test_a_part_of_another_model_is_refused(other: bytes, models: Path) -> None:
    for number in (1, 2):
        put(models / f"big-{number:05}-of-00003.gguf", part(number))
    put(models / "big-00003-of-00003.gguf", other)
    model = (await opened(models)).resolve("big")
    assert isinstance(model.error, ModelFileInvalid)
    assert "its part 3" in model.error.message
    assert model.file_state == "present"
