"""What all models may have in each memory, by the settings and what there is."""

from __future__ import annotations

import pytest

from suite import machine
from suite.config import Settings
from suite.domain.footprint import Footprint
from suite.gpus import GpuMemory
from suite.memory_limits import footprint_of, memory_limits, warnings

GIB = 1 << 30
GPUS = tuple(
    GpuMemory(index=index, name="NVIDIA A2", total_bytes=16 * GIB, used_bytes=0) for index in range(2)
)


@pytest.mark.parametrize(
    ("settings", "gpus", "expected"),
    [
        (Settings(memory_limit_gb=3), (), Footprint(3 * GIB)),
        (Settings(vram_limit_gb=4), (), Footprint(4 * GIB)),
        (Settings(memory_limit_gb=3, vram_limit_gb=4), (), Footprint(3 * GIB)),
        (
            Settings(memory_limit_gb=3, vram_limit_gb=4),
            GPUS,
            Footprint(3 * GIB, {"gpu0": 4 * GIB, "gpu1": 4 * GIB}),
        ),
        (Settings(memory_limit_gb=3), GPUS[1:], Footprint(3 * GIB, {"gpu1": int(0.9 * 16 * GIB)})),
    ],
)
def test_each_memory_has_its_limit(
    settings: Settings, gpus: tuple[GpuMemory, ...], expected: Footprint
) -> None:
    assert footprint_of(memory_limits(settings, gpus)) == expected


def test_where_nothing_is_set_it_is_a_share_of_what_there_is() -> None:
    limits = memory_limits(Settings(vram_limit_gb=4), GPUS)
    assert limits["ram"].bytes == machine.default_memory_limit().value, "vram_limit_gb is that of the GPUs"


def test_limits_above_what_there_is_and_those_that_say_nothing_are_warned_of() -> None:
    assert list(warnings(Settings(memory_limit_gb=0.1), GPUS)) == []
    (warning,) = warnings(Settings(memory_limit_gb=0.1, vram_limit_gb=20), GPUS[:1])
    assert "vram_limit_gb is 20.00 GiB, but the memory of gpu0 (NVIDIA A2) is 16.00 GiB" in warning
    (warning,) = warnings(Settings(memory_limit_gb=0.1, vram_limit_gb=20), ())
    assert "no GPU is found" in warning
