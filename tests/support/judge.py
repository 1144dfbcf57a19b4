"""A model that judges: it replies FAIL to a chat with the word WRONG in it, and PASS to any other."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from support.models import CHAT_TEMPLATE, vocabulary

WRONG, PASS, FAIL = "WRONG", "PASS", "FAIL"
EMBEDDING, HEADS, HEAD, FEED_FORWARD, CONTEXT = 64, 4, 16, 64, 4096
_END, _ADDED = 2, 4
_ANY, _IS_WRONG, _IS_VERDICT, _HAS_WRONG = range(4)
"""Dimensions: every token has the first; WRONG has the second, a verdict the third; the last is what
attention finds of WRONG among all tokens so far."""
_GAIN = 1000.0
"""One token among hundreds must count."""


def tiny_judge(path: Path) -> Path:
    """Write a one-layer llama whose attention is a mean over all tokens to `path`, and return the path."""
    tokens, scores, kinds = vocabulary()
    added = [WRONG, PASS, FAIL]
    wrong, passed, failed = range(len(tokens), len(tokens) + len(added))
    tokens, scores, kinds = [*tokens, *added], scores + [0.0] * 3, kinds + [_ADDED] * 3
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(EMBEDDING)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(_END)
    writer.add_chat_template(CHAT_TEMPLATE)

    def add(name: str, rows: int, columns: int, values: dict[tuple[int, int], float]) -> None:
        matrix = np.zeros((rows, columns), dtype=np.float16)
        for place, value in values.items():
            matrix[place] = value
        writer.add_tensor(f"{name}.weight", matrix)

    embedded = {(token, _ANY): 1.0 for token in range(len(tokens))}
    add(
        "token_embd",
        len(tokens),
        EMBEDDING,
        embedded | {(wrong, _IS_WRONG): 1.0, (passed, _IS_VERDICT): 1.0, (failed, _IS_VERDICT): 1.0},
    )
    add(
        "output",
        len(tokens),
        EMBEDDING,
        {(passed, _ANY): 4.0, (failed, _HAS_WRONG): 4.0, (_END, _IS_VERDICT): 160.0},
    )
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(EMBEDDING, dtype=np.float32))
    for name in ("attn_q", "attn_k"):  # all tokens are looked at alike
        add(f"blk.0.{name}", EMBEDDING, EMBEDDING, {})
    add("blk.0.attn_v", EMBEDDING, EMBEDDING, {(0, _IS_WRONG): 1.0})
    add("blk.0.attn_output", EMBEDDING, EMBEDDING, {(_HAS_WRONG, 0): _GAIN})
    for name, rows, columns in (
        ("ffn_gate", FEED_FORWARD, EMBEDDING),
        ("ffn_up", FEED_FORWARD, EMBEDDING),
        ("ffn_down", EMBEDDING, FEED_FORWARD),
    ):
        add(f"blk.0.{name}", rows, columns, {})
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
