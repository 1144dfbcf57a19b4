"""LoRA adapters of random weights for any model, which llama.cpp really loads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np

from suite.engine.gguf.header import read_header

TARGETS = ("attn_q", "attn_v", "ffn_down")


def adapter(
    path: Path,
    base: Path,
    *,
    rank: int = 4,
    strength: float = 1.0,
    targets: Sequence[str] = TARGETS,
    name: str | None = None,
    trained_on: str | None = None,
    seed: int = 0,
    surplus: str | None = None,
) -> Path:
    """Write a LoRA adapter for the model in `base` to `path` and return the path.

    It is the same file for the same arguments. With a `strength` of 1 what it adds to a layer's output is
    about as large as that. A tensor of the name in `surplus` is none that llama.cpp knows.
    """
    with base.open("rb") as file:
        header = read_header(file, base.stat().st_size)
    writer = gguf.GGUFWriter(path, str(header.values["general.architecture"]))
    writer.add_type(gguf.GGUFType.ADAPTER)
    if name is not None:
        writer.add_name(name)
    if trained_on is not None:
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, trained_on)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(rank))
    random = np.random.default_rng(seed)
    for tensor in header.tensors:
        if tensor.name.removesuffix(".weight").rpartition(".")[2] in targets:
            inputs, outputs = tensor.dimensions[:2]
            for half, shape, scale in (
                ("lora_a", (rank, inputs), inputs**-0.5),
                ("lora_b", (outputs, rank), strength * rank**-0.5),
            ):
                values = random.standard_normal(shape, dtype=np.float32) * np.float32(scale)
                writer.add_tensor(f"{tensor.name}.{half}", values)
    if surplus is not None:
        writer.add_tensor(surplus, np.zeros(8, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
