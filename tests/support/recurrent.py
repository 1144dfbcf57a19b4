"""A model whose memory is a state and not a list of tokens: it cannot forget a part of a sequence."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

EMBEDDING, INNER, STATE, RANK, KERNEL = 32, 64, 8, 4, 4


def tiny_mamba(path: Path, seed: int = 0) -> Path:
    """Write a one-layer Mamba of random weights over bytes to `path` and return the path."""
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)] + ["\u2581"]
    writer = gguf.GGUFWriter(path, "mamba")
    writer.add_context_length(512)
    writer.add_embedding_length(EMBEDDING)
    writer.add_block_count(1)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_ssm_conv_kernel(KERNEL)
    writer.add_ssm_inner_size(INNER)
    writer.add_ssm_state_size(STATE)
    writer.add_ssm_time_step_rank(RANK)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    random = np.random.default_rng(seed)

    def add(name: str, *shape: int, scale: float = 1.0) -> None:
        writer.add_tensor(name, (random.standard_normal(shape) * scale).astype(np.float32))

    add("token_embd.weight", len(tokens), EMBEDDING)
    writer.add_tensor("output_norm.weight", np.ones(EMBEDDING, dtype=np.float32))
    writer.add_tensor("blk.0.attn_norm.weight", np.ones(EMBEDDING, dtype=np.float32))
    add("blk.0.ssm_in.weight", 2 * INNER, EMBEDDING, scale=0.2)
    add("blk.0.ssm_conv1d.weight", INNER, KERNEL, scale=0.5)
    add("blk.0.ssm_conv1d.bias", INNER, scale=0.1)
    add("blk.0.ssm_x.weight", RANK + 2 * STATE, INNER, scale=0.1)
    add("blk.0.ssm_dt.weight", INNER, RANK, scale=0.5)
    add("blk.0.ssm_dt.bias", INNER, scale=0.1)
    decay = np.tile(-np.arange(1, STATE + 1, dtype=np.float32), (INNER, 1))
    writer.add_tensor("blk.0.ssm_a", decay)
    writer.add_tensor("blk.0.ssm_d", np.ones(INNER, dtype=np.float32))
    add("blk.0.ssm_out.weight", EMBEDDING, INNER, scale=0.2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
