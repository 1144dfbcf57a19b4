"""GGUF files byte by byte, so that a test can say anything in them."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

UINT32, FLOAT32, BOOL, STRING, ARRAY, UINT64 = 4, 6, 7, 8, 9, 10
_FORMATS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    UINT32: "I",
    5: "i",
    FLOAT32: "f",
    BOOL: "?",
    10: "Q",
    11: "q",
    12: "d",
}


class Raw(NamedTuple):
    """A value as it is to stand in the file, type number first."""

    data: bytes


Scalar: TypeAlias = str | int | float | bool
Value: TypeAlias = Scalar | list[str] | list[int] | Raw


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def array(kind: int, count: int, data: bytes = b"") -> Raw:
    return Raw(struct.pack("<IIQ", ARRAY, kind, count) + data)


def scalar(kind: int, value: float) -> Raw:
    return Raw(struct.pack("<I" + _FORMATS[kind], kind, value))


def _value(value: Value) -> bytes:
    match value:
        case Raw(data):
            return data
        case bool():
            return scalar(BOOL, value).data
        case int():
            return scalar(UINT32, value).data
        case float():
            return scalar(FLOAT32, value).data
        case str():
            return struct.pack("<I", STRING) + text(value)
        case list():
            texts = [text(item) for item in value if isinstance(item, str)]
            numbers = [struct.pack("<I", item) for item in value if isinstance(item, int)]
            return array(STRING if texts else UINT32, len(value), b"".join(texts or numbers)).data


class Tensor(NamedTuple):
    """A tensor's entry; its data are zeros."""

    name: str = "token_embd.weight"
    dimensions: tuple[int, ...] = (32, 4)
    type: int = 0
    offset: int = 0


KEYS: dict[str, Value] = {
    "general.architecture": "llama",
    "general.file_type": 0,
    "llama.block_count": 2,
    "llama.context_length": 128,
    "llama.embedding_length": 32,
    "llama.feed_forward_length": 64,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "a"],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
}
"""What inspection asks for."""


def gguf_bytes(
    changes: Mapping[str, Value | None] | None = None,
    *,
    tensors: Iterable[Tensor] = (Tensor(),),
    magic: bytes = b"GGUF",
    version: int = 3,
    keys: int | None = None,
    tensor_count: int | None = None,
    more: bytes = b"",
    data: int | None = None,
) -> bytes:
    """A file with KEYS; `changes` of None are left out, `keys` and `tensor_count` may lie."""
    values = {key: value for key, value in (KEYS | dict(changes or {})).items() if value is not None}
    tensors = list(tensors)
    header = magic + struct.pack("<I", version)
    header += struct.pack("<Q", len(tensors) if tensor_count is None else tensor_count)
    header += struct.pack("<Q", len(values) if keys is None else keys)
    header += b"".join(text(key) + _value(value) for key, value in values.items()) + more
    for tensor in tensors:
        header += text(tensor.name) + struct.pack("<I", len(tensor.dimensions))
        header += b"".join(struct.pack("<Q", size) for size in tensor.dimensions)
        header += struct.pack("<IQ", tensor.type, tensor.offset)
    header += bytes(-len(header) % 32)
    return header + bytes(512 if data is None else data)
