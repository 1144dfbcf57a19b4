"""Says in which memories llama.cpp puts the parts of a model, from its header and settings alone.

llama.cpp counts the output as one more layer, and puts so many of the last layers on GPUs as it is told. With
several GPUs they are divided in the order of the layers, by the share of each (`load_tensors` in
llama-model.cpp). The embeddings of tokens stay in RAM, and the KV cache of a layer is where the layer is.
Weights that are on a GPU are mapped only while they are copied there, so that they take no RAM.

What the driver takes for a process is no more than a guess, which the first load replaces by a measurement.
No machine with a GPU was at hand.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Final

from suite.engine.gguf.estimate import PROCESS_BYTES, host_bytes, weights_bytes
from suite.engine.gguf.file import GgufInfo
from suite.messages.actions.status import MemoryEstimate
from suite.messages.decisions import RAM

DRIVER_BYTES: Final = 384 << 20
"""What a GPU's driver takes for a process, on each GPU that it uses and in RAM. Those who have measured
NVIDIA's tell of 200 to 500 MB."""


def place(
    info: GgufInfo,
    estimate: MemoryEstimate,
    *,
    cache_tokens: int,
    batch_tokens: int,
    gpu_layers: int,
    gpus: Mapping[str, int],
) -> dict[str, int]:
    """The bytes of a model in each memory: in ``ram``, and on GPUs by the names of their memories.

    `estimate` is of the whole model on a CPU, with this cache (of one stream) and batch size. `gpu_layers`:
    how many layers are to be on GPUs; -1: all. `gpus` has the share of each GPU, in any unit, in the order in
    which llama.cpp knows them; empty: there are none.
    """
    devices = devices_of_layers(info, gpu_layers=gpu_layers, gpus=gpus)
    used = {device for device in devices if device is not None}
    if not used:
        return {RAM: estimate.total_bytes}
    graph = estimate.compute_bytes - PROCESS_BYTES
    placed = dict.fromkeys((RAM, *sorted(used)), DRIVER_BYTES)
    on_cpu = info.input_bytes
    for part, kv, device in zip(_weights(info), _kv(info, estimate.kv_bytes), devices, strict=True):
        on_cpu += part if device is None else 0
        placed[device or RAM] += kv + (0 if device is None else part)
    for device in used:
        placed[device] += graph
    placed[RAM] += weights_bytes(info, on_cpu) + PROCESS_BYTES
    if None in devices:
        placed[RAM] += graph
    else:
        placed[RAM] += host_bytes(info, cache_tokens=cache_tokens, batch_tokens=batch_tokens)
    return placed


def devices_of_layers(info: GgufInfo, *, gpu_layers: int, gpus: Mapping[str, int]) -> Sequence[str | None]:
    """The name of the GPU's memory that each layer is in, the output as the last; None: in RAM."""
    layers = info.block_count + 1
    on_gpus = layers if gpu_layers < 0 else min(gpu_layers, layers)
    whole = sum(gpus.values())
    if not on_gpus or not whole:
        return [None] * layers
    ends = [end / whole for end in accumulate(gpus.values())]
    names = list(gpus)
    return [
        *[None] * (layers - on_gpus),
        *(names[min(bisect_right(ends, place / on_gpus), len(names) - 1)] for place in range(on_gpus)),
    ]


def _weights(info: GgufInfo) -> Sequence[int]:
    """The bytes of each layer's weights, with the output as the last."""
    return [*info.layer_bytes, info.output_bytes]


def _kv(info: GgufInfo, kv_bytes: int) -> Sequence[int]:
    """The bytes of each layer's KV cache; the output has none."""
    heads = sum(info.kv_head_counts)
    return [*(kv_bytes * each // heads if heads else 0 for each in info.kv_head_counts), 0]
