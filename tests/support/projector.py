"""A projector (mmproj): an encoder of pictures for one of the small models, of the kind that Gemma 3 has."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

START, END = "<start_of_image>", "<end_of_image>"
"""The control tokens that llama.cpp puts around a picture for such a projector."""
SIDE, PATCH, MERGED = 64, 8, 2
"""The pixels of a side that it sees, those of a patch, and how many patches of a side become one token."""
PICTURE_TOKENS = (SIDE // PATCH // MERGED) ** 2


def tiny_projector(path: Path, *, embedding: int = 64, width: int = 32, seed: int = 0) -> Path:
    """Write a one-layer SigLIP of random weights, for a model of this `embedding`, and return its `path`."""
    feed_forward, patches = 2 * width, (SIDE // PATCH) ** 2
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "gemma3")
    writer.add_uint32("clip.vision.image_size", SIDE)
    writer.add_uint32("clip.vision.patch_size", PATCH)
    writer.add_uint32("clip.vision.embedding_length", width)
    writer.add_uint32("clip.vision.feed_forward_length", feed_forward)
    writer.add_uint32("clip.vision.projection_dim", embedding)
    writer.add_uint32("clip.vision.block_count", 1)
    writer.add_uint32("clip.vision.attention.head_count", 2)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-6)
    writer.add_uint32("clip.vision.projector.scale_factor", MERGED)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])
    writer.add_bool("clip.use_gelu", True)
    random = np.random.default_rng(seed)

    def add(name: str, *shape: int, scale: float) -> None:
        writer.add_tensor(name, (random.standard_normal(shape) * scale).astype(np.float32))

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(width, dtype=np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(width, dtype=np.float32))

    def linear(name: str, rows: int, columns: int) -> None:
        add(f"{name}.weight", rows, columns, scale=columns**-0.5)
        add(f"{name}.bias", rows, scale=0.1)

    add("v.patch_embd.weight", width, 3, PATCH, PATCH, scale=0.3)
    add("v.patch_embd.bias", width, scale=0.1)
    add("v.position_embd.weight", patches, width, scale=0.3)
    norm("v.blk.0.ln1")
    norm("v.blk.0.ln2")
    for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
        linear(f"v.blk.0.{name}", width, width)
    linear("v.blk.0.ffn_up", feed_forward, width)
    linear("v.blk.0.ffn_down", width, feed_forward)
    norm("v.post_ln")
    add("mm.input_projection.weight", width, embedding, scale=1.0)
    writer.add_tensor("mm.soft_emb_norm.weight", np.ones(width, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
