"""In which memories the parts of a model are, by its header and settings."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import pytest

from suite.catalogue import Catalogue
from suite.catalogue.kv_cache import budget
from suite.config import ModelSettings
from suite.domain.footprint import Footprint
from suite.engine.gguf.estimate import PROCESS_BYTES, estimate
from suite.engine.gguf.file import GgufInfo, inspect
from suite.engine.gguf.placement import DRIVER_BYTES, devices_of_layers, place
from support.models import gemma, smollm2, tiny_model

ONE = {"gpu0": 24}
THREE_TO_ONE = {"gpu0": 3, "gpu1": 1}


def placed(info: GgufInfo, gpu_layers: int, gpus: dict[str, int]) -> dict[str, int]:
    whole = estimate(info, cache_tokens=4096, batch_tokens=512)
    return place(info, whole, cache_tokens=4096, batch_tokens=512, gpu_layers=gpu_layers, gpus=gpus)


def test_every_tensor_is_counted_where_it_belongs(tmp_path: Path) -> None:
    info = inspect(tiny_model(tmp_path / "tiny.gguf", layers=3))
    assert len(info.layer_bytes) == 3
    assert len(set(info.layer_bytes)) == 1
    assert sum(info.layer_bytes) + info.input_bytes + info.output_bytes == info.tensor_bytes


def test_embeddings_that_are_the_output_too_are_in_both_places() -> None:
    info = inspect(gemma())
    assert sum(info.layer_bytes) + info.input_bytes + info.output_bytes > info.tensor_bytes
    assert info.output_bytes > info.input_bytes


@pytest.mark.parametrize("gpu_layers", [0, 5, -1, 999])
def test_without_gpus_all_is_in_ram(gpu_layers: int) -> None:
    info = inspect(smollm2())
    whole = estimate(info, cache_tokens=4096, batch_tokens=512)
    assert placed(info, gpu_layers, {}) == {"ram": whole.total_bytes}
    assert placed(info, 0, ONE) == {"ram": whole.total_bytes}


def test_a_model_that_is_wholly_on_a_gpu_takes_its_weights_and_its_cache_there_and_not_in_ram_too() -> None:
    info = inspect(smollm2())
    whole = estimate(info, cache_tokens=4096, batch_tokens=512)
    found = placed(info, -1, ONE)
    assert placed(info, info.block_count + 1, ONE) == placed(info, 999, ONE) == found
    assert found["gpu0"] == (
        sum(info.layer_bytes)
        + info.output_bytes
        + whole.kv_bytes
        + whole.compute_bytes
        - PROCESS_BYTES
        + DRIVER_BYTES
    )
    assert found["ram"] - DRIVER_BYTES - PROCESS_BYTES < whole.weights_bytes / 2


def test_the_last_layers_are_the_first_to_be_on_a_gpu() -> None:
    info = inspect(smollm2())
    layers = info.block_count
    assert devices_of_layers(info, gpu_layers=3, gpus=ONE) == [*[None] * (layers - 2), *["gpu0"] * 3]
    few, more = placed(info, 3, ONE), placed(info, 10, ONE)
    assert few["gpu0"] < more["gpu0"]
    assert few["ram"] > more["ram"]
    whole = estimate(info, cache_tokens=4096, batch_tokens=512)
    kv = whole.kv_bytes // layers
    assert more["gpu0"] - few["gpu0"] == 7 * kv + sum(info.layer_bytes[-9:-2])


def test_several_gpus_have_layers_by_their_shares() -> None:
    """By `load_tensors` of llama.cpp: the first end of a share above the layer's place among those on
    GPUs."""
    info = inspect(smollm2())
    devices = devices_of_layers(info, gpu_layers=-1, gpus=THREE_TO_ONE)
    assert devices.count("gpu0") == math.ceil((info.block_count + 1) * 0.75)
    assert list(devices) == sorted(devices, key=str)
    assert devices_of_layers(info, gpu_layers=4, gpus=THREE_TO_ONE)[-4:] == ["gpu0"] * 3 + ["gpu1"]
    assert set(placed(info, -1, THREE_TO_ONE)) == {"ram", "gpu0", "gpu1"}


async def test_a_model_that_is_too_large_for_a_gpu_is_told_with_how_many_layers_it_fits(
    tmp_path: Path,
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "m.gguf").symlink_to(smollm2())
    room = Footprint(8 << 30, {"gpu0": DRIVER_BYTES + (200 << 20)})
    catalogue = Catalogue.open([tmp_path / "models"], {}, tmp_path, limits=room, follow_links="anywhere")
    await catalogue.scan_first()
    model = catalogue.models["m"]
    assert not model.footprint(room).is_within(room)
    (told,) = [way for way in model.smaller(room).split(" or ") if way.startswith("n_gpu_layers")]
    layers = int(told.removeprefix("n_gpu_layers = "))

    def fits(gpu_layers: int) -> bool:
        settings = msgspec.structs.replace(model.settings, n_gpu_layers=gpu_layers)
        return msgspec.structs.replace(model, settings=settings).footprint(room).is_within(room)

    assert layers > 0 and fits(layers) and not fits(layers + 1)
    assert model.smaller(Footprint(8 << 30)) == ""


@pytest.mark.parametrize(("gpu_layers", "expected"), [(0, 100), (-1, 60), (5, 160)])
def test_a_cache_may_be_as_large_as_the_memory_that_the_model_is_in(gpu_layers: int, expected: int) -> None:
    limits = Footprint(100, {"gpu0": 40, "gpu1": 20})
    assert budget(ModelSettings(n_gpu_layers=gpu_layers), limits) == expected
    assert budget(ModelSettings(n_gpu_layers=gpu_layers), Footprint(100)) == 100
