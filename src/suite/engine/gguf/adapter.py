"""What the header of a LoRA adapter says, and whether a model is one that it can change.

A LoRA adapter has two small matrices, A and B, for each matrix of a model that it changes: the model then
computes with W + scale * B A (Hu et al., 2021). It fits every model that has these matrices in these sizes.
llama.cpp refuses others with the name of a tensor; here it is found out before anything is loaded, and told
in words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, TypeAlias

import msgspec

from suite.engine.gguf.header import Header, Malformed
from suite.engine.gguf.keys import Keys

Size: TypeAlias = tuple[int, int]
"""Inputs and outputs of a matrix."""
Matrices: TypeAlias = dict[str, tuple[Size, ...]]
"""The sizes of matrices by their names without the layer, such as ``attn_q.weight``."""

_LAYER: Final = re.compile(r"\Ablk\.(\d{1,5})\.(.+)\Z", re.DOTALL)
_HALVES: Final = (".lora_a", ".lora_b")
_EMBEDS_TOKENS: Final = "token_embd.weight"
_INVOKED: Final = "adapter.alora.invocation_tokens"


class AdapterInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A LoRA adapter as described by its file."""

    architecture: str
    name: str | None
    base_name: str | None
    """The model that it was trained on, as its author calls it."""
    rank: int
    """The most columns that a matrix A has: how much it can change."""
    matrices: Matrices
    """Those that it changes."""
    layers: int
    """How many layers a model must have at least."""
    file_bytes: int


def describe_adapter(header: Header, file_bytes: int) -> AdapterInfo:
    """Describe an adapter. Raises Malformed for one that is not whole, or of a kind that is not supported."""
    keys = Keys(header)
    kind = keys.text("adapter.type", "lora")
    if kind != "lora":
        raise Malformed(f"it is an adapter of the kind {kind!r}, and only LoRA adapters can be applied")
    if _INVOKED in header.values:
        raise Malformed("it is a LoRA adapter that certain tokens switch on, which is not supported")
    keys.check_finite("adapter.")
    sizes, rank = _changed(header)
    layers = [int(found[1]) + 1 for name in sizes if (found := _LAYER.match(name)) is not None]
    return AdapterInfo(
        architecture=keys.text("general.architecture"),
        name=keys.optional_text("general.name"),
        base_name=keys.optional_text("general.base_model.0.name"),
        rank=rank,
        matrices=by_name(sizes),
        layers=max(layers, default=0),
        file_bytes=file_bytes,
    )


def _changed(header: Header) -> tuple[dict[str, Size], int]:
    """The sizes of the matrices that are changed, by the names of tensors, and the rank."""
    found = {tensor.name: tensor.dimensions for tensor in header.tensors}
    names = {name.removesuffix(half) for half in _HALVES for name in found if name.endswith(half)}
    if not names:
        raise Malformed("it has no matrices")
    sizes: dict[str, Size] = {}
    rank = 0
    for name in names:
        first, second = (found.get(f"{name}{half}", ()) for half in _HALVES)
        if len(first) < 2 or len(second) < 2:
            raise Malformed(f"it has only a part of what it changes in {name!r}")
        if name == _EMBEDS_TOKENS:  # llama.cpp has these two as they are, not transposed
            sizes[name], ranks = (second[1], first[1]), (first[0], second[0])
        else:
            sizes[name], ranks = (first[0], second[1]), (first[1], second[0])
        if ranks[0] != ranks[1]:
            raise Malformed(f"its matrices for {name!r} have the ranks {ranks[0]} and {ranks[1]}")
        rank = max(rank, *ranks)
    return sizes, rank


def by_name(sizes: Mapping[str, Size]) -> Matrices:
    """Sizes by the names of tensors, as `Matrices`."""
    found: dict[str, dict[Size, None]] = {}
    for name, size in sorted(sizes.items()):
        layer = _LAYER.match(name)
        found.setdefault(name if layer is None else layer[2], {})[size] = None
    return {name: tuple(each) for name, each in found.items()}


def misfit(adapter: AdapterInfo, architecture: str, layers: int, matrices: Matrices) -> str:
    """Why an adapter cannot change a model with these, for messages: it ...; empty if it can."""
    if adapter.architecture != architecture:
        return f"is for the architecture {adapter.architecture}, not for {architecture}"
    if adapter.layers > layers:
        return f"changes {adapter.layers} layers, of which the model has {layers}"
    for name, sizes in adapter.matrices.items():
        known = matrices.get(name, ())
        if not known:
            return f"changes {name}, which the model does not have"
        for size in sizes:
            if size not in known:
                return f"changes {name} of {_told(size)}, where the model has {_told(known[0])}"
    return ""


def _told(size: Size) -> str:
    return f"{size[0]} x {size[1]}"
