"""What all models of a node may have in each of its memories: as configured, or a share of what there is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from suite import machine
from suite.config import Settings
from suite.domain.footprint import Footprint
from suite.gpus import GpuMemory
from suite.machine import Bound
from suite.messages.decisions import RAM

GPU_SHARE: Final = 0.9
"""The part of a GPU's memory that models may have by default: what they take there is less known than of
RAM."""
_GIB: Final = 2**30


class Limit(NamedTuple):
    """The limit of one memory, in bytes."""

    bytes: int
    setting: str
    """The setting that says so; empty: it is the default."""
    whole: Bound
    """All of that memory, of which the limit should be a part."""

    @property
    def warning(self) -> str | None:
        """What is wrong with it if it is more than there is."""
        return machine.warning_about_limit(self.bytes, self.whole, self.setting) if self.setting else None


def memory_limits(settings: Settings, gpus: Sequence[GpuMemory]) -> Mapping[str, Limit]:
    """The limit of each memory by its name, RAM first."""
    return {
        RAM: _of_ram(settings, has_gpus=bool(gpus)),
        **{each.memory: _of(each, settings) for each in gpus},
    }


def footprint_of(limits: Mapping[str, Limit]) -> Footprint:
    """The limits as what the decider of turns takes."""
    return Footprint(limits[RAM].bytes, {name: each.bytes for name, each in limits.items() if name != RAM})


def warnings(settings: Settings, gpus: Sequence[GpuMemory]) -> Iterator[str]:
    """What this machine cannot fulfil of the configured limits."""
    if settings.vram_limit_gb is not None and settings.memory_limit_gb is not None and not gpus:
        yield (
            "vram_limit_gb says nothing here, as no GPU is found that llama.cpp can use: take it out, or "
            "install the extra [gpu], which finds NVIDIA's, and build llama-cpp-python for them"
        )
    for limit in memory_limits(settings, gpus).values():
        if limit.warning is not None:
            yield limit.warning


def _of_ram(settings: Settings, *, has_gpus: bool) -> Limit:
    whole = machine.memory()
    if settings.memory_limit_gb is not None:
        return Limit(int(settings.memory_limit_gb * _GIB), "memory_limit_gb", whole)
    if settings.vram_limit_gb is not None and not has_gpus:  # all that old installations have
        return Limit(int(settings.vram_limit_gb * _GIB), "vram_limit_gb", whole)
    return Limit(machine.default_memory_limit().value, "", whole)


def _of(gpu: GpuMemory, settings: Settings) -> Limit:
    whole = Bound(gpu.total_bytes, f"the memory of {gpu.memory} ({gpu.name})")
    if settings.vram_limit_gb is not None:
        return Limit(int(settings.vram_limit_gb * _GIB), "vram_limit_gb", whole)
    return Limit(int(gpu.total_bytes * GPU_SHARE), "", whole)
