"""A decoder with a ranking head and a template for it, which reads a pair from its beginning."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from support.models import vocabulary

EMBEDDING, HEAD, KEYS, FEED_FORWARD = 64, 16, 32, 128
TEMPLATE = "query: {query} document: {document} answer: "


def tiny_reranker(path: Path, seed: int = 0) -> Path:
    """Write a one-layer Qwen3 of random weights that chooses between yes and no to `path`, and return it."""
    tokens, scores, kinds = vocabulary()
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_context_length(512)
    writer.add_embedding_length(EMBEDDING)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(EMBEDDING // HEAD)
    writer.add_head_count_kv(KEYS // HEAD)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pooling_type(gguf.PoolingType.RANK)
    writer.add_classifier_output_labels(["yes", "no"])
    writer.add_chat_template([{"name": "rerank", "template": TEMPLATE}])
    random = np.random.default_rng(seed)

    def add(name: str, rows: int, columns: int, scale: float) -> None:
        values = random.standard_normal((rows, columns), dtype=np.float32) * scale
        writer.add_tensor(f"{name}.weight", values.astype(np.float16))

    def norm(name: str, width: int) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(width, dtype=np.float32))

    add("token_embd", len(tokens), EMBEDDING, 1.0)
    add("cls.output", 2, EMBEDDING, 0.2)
    norm("output_norm", EMBEDDING)
    for name, width in (("attn_norm", EMBEDDING), ("ffn_norm", EMBEDDING)):
        norm(f"blk.0.{name}", width)
    for name in ("attn_q_norm", "attn_k_norm"):
        norm(f"blk.0.{name}", HEAD)
    for name, rows, columns in (
        ("attn_q", EMBEDDING, EMBEDDING),
        ("attn_k", KEYS, EMBEDDING),
        ("attn_v", KEYS, EMBEDDING),
        ("attn_output", EMBEDDING, EMBEDDING),
        ("ffn_gate", FEED_FORWARD, EMBEDDING),
        ("ffn_up", FEED_FORWARD, EMBEDDING),
        ("ffn_down", EMBEDDING, FEED_FORWARD),
    ):
        add(f"blk.0.{name}", rows, columns, columns**-0.5)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
