"""A BERT: it looks at all tokens of a text at once, keeps none, and makes embeddings, or ranks documents."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

EMBEDDING, FEED_FORWARD, CONTEXT = 32, 64, 128


def tiny_bert(path: Path, *, pooling: gguf.PoolingType = gguf.PoolingType.CLS, seed: int = 0) -> Path:
    """Write a one-layer BERT of random weights over lower-case letters to `path` and return the path.

    For `RANK` it has a head that scores.
    """
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"\u2581{each}" for each in letters), *letters]
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(EMBEDDING)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(4)
    writer.add_layer_norm_eps(1e-5)
    writer.add_causal_attention(False)
    writer.add_pooling_type(pooling)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("bert")
    writer.add_token_list(tokens)
    writer.add_token_type_count(2)
    writer.add_token_types([3, 3, 3, 3] + [1] * 52)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_sep_token_id(3)
    random = np.random.default_rng(seed)

    def add(name: str, *shape: int, scale: float = 0.3) -> None:
        writer.add_tensor(name, (random.standard_normal(shape) * scale).astype(np.float32))

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(EMBEDDING, dtype=np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(EMBEDDING, dtype=np.float32))

    add("token_embd.weight", len(tokens), EMBEDDING, scale=1.0)
    add("position_embd.weight", CONTEXT, EMBEDDING)
    add("token_types.weight", 2, EMBEDDING)
    norm("token_embd_norm")
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        add(f"blk.0.{name}.weight", EMBEDDING, EMBEDDING)
        add(f"blk.0.{name}.bias", EMBEDDING)
    norm("blk.0.attn_output_norm")
    add("blk.0.ffn_up.weight", FEED_FORWARD, EMBEDDING)
    add("blk.0.ffn_up.bias", FEED_FORWARD)
    add("blk.0.ffn_down.weight", EMBEDDING, FEED_FORWARD)
    add("blk.0.ffn_down.bias", EMBEDDING)
    norm("blk.0.layer_output_norm")
    if pooling is gguf.PoolingType.RANK:
        add("cls.weight", EMBEDDING, EMBEDDING)
        add("cls.bias", EMBEDDING)
        add("cls.output.weight", 1, EMBEDDING)
        add("cls.output.bias", 1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
