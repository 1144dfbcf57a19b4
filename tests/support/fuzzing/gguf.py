"""GGUF files, changed where it matters: in the numbers and texts of their headers."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

from support.encoder import tiny_bert
from support.fuzzing.mutation import mutated_bytes
from support.models import CHAT_TEMPLATE, tiny_model
from support.raw_gguf import KEYS, Tensor, Value, gguf_bytes
from support.recurrent import tiny_mamba
from support.reranker import tiny_reranker

_SIZES: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_WHOLE: Final = (
    *(0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 31, 32, 33, 64, 100, 127, 128, 255, 256, 512, 1023, 65_535, 65_536),
    *(
        1 << 20,
        (1 << 24) + 1,
        (1 << 31) - 1,
        1 << 31,
        (1 << 32) - 1,
        1 << 40,
        1 << 62,
        (1 << 63) - 1,
        (1 << 64) - 1,
    ),
)
_FLOATS: Final = (0.0, -1.0, 1e-30, 1e30, 1e-5, 0.5, float("inf"), float("-inf"), float("nan"))
_NAMES: Final = (
    *(
        "llama",
        "gemma3",
        "qwen2",
        "qwen3",
        "bert",
        "t5",
        "mamba",
        "rwkv7",
        "gpt2",
        "phi3",
        "deepseek2",
        "mistral3",
    ),
    *(
        "spm",
        "bpe",
        "wpm",
        "gpt2",
        "none",
        "no_vocab",
        "replit",
        "mean",
        "model",
        "adapter",
        "",
        "\0",
        "é\udcff",
    ),
)


class Span(NamedTuple):
    """Where something of a header stands."""

    start: int
    size: int
    is_value: bool
    """Whether it is what a key or a tensor has; else it is a name, a type or a length."""
    is_float: bool = False


def spans(content: bytes) -> list[Span]:
    """The numbers, the texts and the first elements of arrays in the header of a valid file."""
    reader = _Reader(content)
    reader.number(4)  # the magic
    reader.number(4)
    tensors, keys = reader.number(8), reader.number(8)
    for _ in range(keys):
        reader.text()
        reader.value(reader.number(4))
    for _ in range(tensors):
        reader.text()
        for _ in range(reader.number(4)):
            reader.number(8, is_value=True)
        reader.number(4, is_value=True)
        reader.number(8)
    return reader.found


class _Reader:
    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0
        self.found: list[Span] = []

    def number(self, size: int, *, is_value: bool = False) -> int:
        self._note(size, is_value=is_value)
        return int.from_bytes(self._content[self._at - size : self._at], "little")

    def text(self, *, is_value: bool = False) -> None:
        self._note(self.number(8), is_value=is_value)

    def value(self, kind: int) -> None:
        if kind == _STRING:
            self.text(is_value=True)
        elif kind == _ARRAY:
            self._array(self.number(4), self.number(8))
        else:
            self._note(_SIZES[kind], is_value=True, is_float=kind in (6, 12))

    def _array(self, kind: int, count: int) -> None:
        kept = len(self.found)
        for _ in range(count):
            self.value(kind)
        del self.found[kept + 4 :]  # else a vocabulary would be most of what is changed

    def _note(self, size: int, *, is_value: bool, is_float: bool = False) -> None:
        self.found.append(Span(self._at, size, is_value, is_float))
        self._at += size


class Files:
    """Makes files from a few valid ones."""

    def __init__(self, seeds: Iterable[bytes]) -> None:
        self._seeds = [(content, spans(content)) for content in seeds]

    def make(self, random: Random) -> bytes:
        """A file with a few values of its header changed; now and then, with bytes changed anywhere."""
        content, found = random.choice(self._seeds)
        changed = bytearray(content)
        for _ in range(random.choice((1, 1, 1, 2, 3, 5))):
            span = random.choice(
                found if random.random() < 0.3 else [each for each in found if each.is_value]
            )
            changed[span.start : span.start + span.size] = _other(bytes(changed), span, random)
        chance = random.random()
        if chance < 0.1:
            return (
                mutated_bytes(bytes(changed[: found[-1].start + 8]), random) + content[found[-1].start + 8 :]
            )
        return bytes(changed[: random.randrange(len(changed))]) if chance < 0.13 else bytes(changed)


def _other(content: bytes, span: Span, random: Random) -> bytes:
    """Another value of the same size."""
    old = content[span.start : span.start + span.size]
    if span.is_float:
        return struct.pack("<f" if span.size == 4 else "<d", random.choice(_FLOATS))
    if span.size in (1, 2, 4, 8) and random.random() < 0.9:
        number = int.from_bytes(old, "little")
        other = random.choice(
            (*_WHOLE, number + 1, number - 1, number * 2, number // 2, random.getrandbits(8 * span.size))
        )
        return (other % (1 << 8 * span.size)).to_bytes(span.size, "little")
    name = random.choice(_NAMES).encode("utf-8", "surrogateescape")
    return random.choice((name[: span.size].ljust(span.size), old[::-1], random.randbytes(span.size)))


def small_seeds() -> list[bytes]:
    """Valid headers of many kinds, with next to no tensors."""
    changes: Sequence[dict[str, Value | None]] = (
        {},
        {"x.array": [1, 2, 3], "x.texts": ["one", "two"], "x.float": 1.5, "x.flag": True},
        {"llama.attention.head_count": [4, 2], "llama.attention.head_count_kv": [2, 1]},
        {"llama.expert_used_count": 2, "llama.expert_feed_forward_length": 64, "llama.pooling_type": 4},
        {"tokenizer.chat_template": CHAT_TEMPLATE, "general.name": "a name", "general.alignment": 64},
        {
            "general.architecture": "mamba",
            **{key.replace("llama.", "mamba."): KEYS[key] for key in KEYS},
            "mamba.ssm.x": 1,
        },
        {"split.count": 2, "split.no": 0, "split.tensors.count": 2},
    )
    files = [gguf_bytes(each) for each in changes]
    return [*files, gguf_bytes(tensors=(Tensor(), Tensor("output.weight", (32, 4), 0, 512)), data=1024)]


_MODELS: Sequence[Callable[[Path], Path]] = (
    lambda path: tiny_model(path, chat_template=CHAT_TEMPLATE),
    lambda path: tiny_model(path, control=("<|x|>",), added=("<think>",), fills_in=True),
    tiny_bert,
    tiny_reranker,
    tiny_mamba,
)


def whole_seeds(directory: Path) -> list[bytes]:
    """Small models that llama.cpp loads."""
    return [model(directory / f"seed-{number}.gguf").read_bytes() for number, model in enumerate(_MODELS)]
