"""Model files for tests: a real one, and small ones of random weights that llama.cpp really loads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import gguf
import numpy as np

SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
GEMMA = "gemma-3-270m-it-Q4_K_M.gguf"

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '[' + message['role'] + '] ' + message['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant] ' }}{% endif %}"
)
"""A template whose turns only grow, so that a second turn begins with the tokens of the first."""

_UNKNOWN, _CONTROL, _ADDED, _NORMAL, _BYTE = 2, 3, 4, 1, 6


def _models_directory() -> Path:
    configured = os.environ.get("SUITE_TEST_MODELS")
    return Path(configured) if configured else Path(__file__).resolve().parents[2] / ".models"


def smollm2() -> Path:
    """SmolLM2-135M-Instruct Q4_1, which `make test` fetches; SUITE_TEST_MODELS names another directory."""
    return _fetched(SMOLLM2)


def _fetched(name: str) -> Path:
    path = _models_directory() / name
    assert path.is_file(), f"{path} is missing: `make test` fetches it, or set SUITE_TEST_MODELS"
    return path


def gemma() -> Path:
    """Gemma 3 270M Q4_K_M: sliding windows, a vocabulary of 262,144; fetched and found as the other."""
    return _fetched(GEMMA)


def vocabulary() -> tuple[list[str], list[float], list[int]]:
    """Tokens, scores and types of a SentencePiece vocabulary that spells any text: bytes, letters, words."""
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    scores = [0.0] * len(tokens)
    kinds = [_UNKNOWN, _CONTROL, _CONTROL] + [_BYTE] * 256
    letters = ["\u2581"] + [chr(code) for code in range(0x21, 0x7F)]
    words = ["\u2581t", "he", "\u2581the", "\u2581a", "in", "er", "on", "\u2581s", "re", "nd"]
    for rank, token in enumerate(words + letters):
        tokens.append(token)
        scores.append(-float(rank + 1))
        kinds.append(_NORMAL)
    return tokens, scores, kinds


def tiny_model(
    path: Path,
    *,
    layers: int = 2,
    embedding: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    feed_forward: int = 128,
    context: int = 512,
    chat_template: str | None = None,
    pooling: gguf.PoolingType | None = None,
    brief: bool = False,
    fills_in: bool = False,
    control: Sequence[str] = (),
    added: Sequence[str] = (),
    name: str = "tiny",
    seed: int = 0,
    two_dimensional: bool = False,
) -> Path:
    """Write a llama of random weights (F16, about 0.3 MB as it stands) to `path` and return the path.

    It is the same file for the same arguments. It says nothing sensible, but only printable ASCII, and as
    good as never ends by itself: the output rows of control tokens and of bytes over 0x7F are zero. A `brief`
    one ends after a few tokens: one dimension is large for all tokens, and the row of </s> looks at it. With
    `fills_in` its vocabulary ends with the tokens around a gap. It ends with tokens of the names in `control`
    and `added`, which have no text and which are text. A `two_dimensional` one is no llama but a Qwen2-VL, to
    which a token of a picture has a place in it (M-RoPE).
    """
    assert embedding % heads == 0, "embedding must be a multiple of heads"
    assert heads % kv_heads == 0, "heads must be a multiple of kv_heads"
    tokens, scores, kinds = vocabulary()
    marks = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"] if fills_in else []
    tokens, scores, kinds = tokens + marks, scores + [0.0] * len(marks), kinds + [_CONTROL] * len(marks)
    tokens, scores = [*tokens, *control, *added], scores + [0.0] * (len(control) + len(added))
    kinds = kinds + [_CONTROL] * len(control) + [_ADDED] * len(added)
    head = embedding // heads
    writer = gguf.GGUFWriter(path, "qwen2vl" if two_dimensional else "llama")
    writer.add_name(name)
    writer.add_context_length(context)
    writer.add_embedding_length(embedding)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(head)
    if two_dimensional:
        assert head == 16
        writer.add_rope_dimension_sections([2, 3, 3, 0])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    if pooling is not None:
        writer.add_pooling_type(pooling)

    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int, scale: float) -> np.ndarray:
        return (random.standard_normal((rows, columns), dtype=np.float32) * scale).astype(np.float16)

    spread = embedding**-0.5
    output = matrix(len(tokens), embedding, 4 * spread)
    output[:3] = 0
    output[3 : 3 + 0x20] = 0
    output[3 + 0x7F : 3 + 0x100] = 0
    embedded = matrix(len(tokens), embedding, 1.0)
    if brief:
        embedded[:, 0], output[:, 0], output[2, 0] = 8, 0, 2.4
    writer.add_tensor("token_embd.weight", embedded)
    writer.add_tensor("output_norm.weight", np.ones(embedding, dtype=np.float32))
    writer.add_tensor("output.weight", output)
    for layer in range(layers):
        prefix = f"blk.{layer}"
        writer.add_tensor(f"{prefix}.attn_norm.weight", np.ones(embedding, dtype=np.float32))
        writer.add_tensor(f"{prefix}.ffn_norm.weight", np.ones(embedding, dtype=np.float32))
        for tensor, rows, columns in (
            ("attn_q", embedding, embedding),
            ("attn_k", kv_heads * head, embedding),
            ("attn_v", kv_heads * head, embedding),
            ("attn_output", embedding, embedding),
            ("ffn_gate", feed_forward, embedding),
            ("ffn_up", feed_forward, embedding),
            ("ffn_down", embedding, feed_forward),
        ):
            writer.add_tensor(f"{prefix}.{tensor}.weight", matrix(rows, columns, columns**-0.5))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def slow_model(path: Path, *, chat_template: str | None = None) -> Path:
    """A model of random weights that generates for seconds: 4,000 tokens of it can be cut short."""
    path.write_bytes(_slow(chat_template))
    return path


@cache
def _slow(chat_template: str | None) -> bytes:
    """Its file, which takes long to make."""
    with TemporaryDirectory() as directory:
        return tiny_model(
            Path(directory) / "slow.gguf",
            layers=8,
            embedding=256,
            heads=16,
            kv_heads=8,
            feed_forward=1024,
            context=4096,
            chat_template=chat_template,
        ).read_bytes()
