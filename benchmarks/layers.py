"""Copies of a model with other layers: pairs of a large model and a small one of the same vocabulary.

A layer whose outputs are nothing but zeros changes nothing of what passes it. So a copy with such layers says
what the model says, and takes longer; the model itself, or a copy that lacks layers, guesses for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import gguf
import numpy as np

_OUTPUTS = ("attn_output.weight", "ffn_down.weight")
"""What a layer adds to what passes it, it adds through these."""


def copy_with_layers(source: Path, target: Path, layers: Sequence[int | None]) -> None:
    """Write a copy with these layers of the model; None: one that changes nothing."""
    reader = gguf.GGUFReader(source)
    architecture = str(reader.fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(target, architecture)
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        value = len(layers) if key == f"{architecture}.block_count" else field.contents()
        is_array = field.types[0] == gguf.GGUFValueType.ARRAY
        writer.add_key_value(key, value, field.types[0], sub_type=field.types[-1] if is_array else None)
    written = [*_tensors(reader, layers)]
    for name, tensor, _ in written:
        data = tensor.data
        writer.add_tensor_info(name, data.shape, data.dtype, data.nbytes, tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, tensor, is_zero in written:
        writer.write_tensor_data(np.zeros_like(tensor.data) if is_zero else tensor.data)
    writer.close()


def _tensors(
    reader: gguf.GGUFReader, layers: Sequence[int | None]
) -> Iterator[tuple[str, gguf.ReaderTensor, bool]]:
    """The name of each tensor of the copy, what it is a copy of, and whether it is to be zero instead."""
    for tensor in reader.tensors:
        if not tensor.name.startswith("blk."):
            yield tensor.name, tensor, False
    for number, layer in enumerate(layers):
        prefix = f"blk.{layer or 0}."
        for tensor in reader.tensors:
            if tensor.name.startswith(prefix):
                name = tensor.name.removeprefix(prefix)
                yield f"blk.{number}.{name}", tensor, layer is None and name in _OUTPUTS
