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


def tiny_projector(
    path: Path,
    *,
    embedding: int = 64,
    width: int = 32,
    layers: int = 1,
    side: int = SIDE,
    seed: int = 0,
    length: float | None = None,
) -> Path:
    """Write a SigLIP of random weights, for a model of this `embedding`, and return its `path`.

    The vectors that it makes are of about this `length`; None: as long as they come, which may be far longer
    than those of the model's own tokens.
    """
    file = _Encoder(path, "gemma3", embedding, width, seed, layers=layers, side=side)
    file.writer.add_uint32("clip.vision.projector.scale_factor", MERGED)
    file.add("v.patch_embd.bias", width, scale=0.1)
    file.add("v.position_embd.weight", (side // PATCH) ** 2, width, scale=0.3)
    file.add("mm.input_projection.weight", width, embedding, scale=1.0)
    scale = 1.0 if length is None else length / (width * embedding) ** 0.5
    file.writer.add_tensor("mm.soft_emb_norm.weight", np.full(width, scale, dtype=np.float32))
    return file.written()


def tiny_qwen_projector(path: Path, *, embedding: int = 64, width: int = 32, seed: int = 0) -> Path:
    """Write one as Qwen2-VL has: it takes pictures of any size, and says where in them its tokens are."""
    file = _Encoder(path, "qwen2vl_merger", embedding, width, seed)
    file.add("v.patch_embd.weight.1", width, 3, PATCH, PATCH, scale=0.3)
    file.linear("mm.0", 4 * width, 4 * width)
    file.linear("mm.2", embedding, 4 * width)
    return file.written()


class _Encoder:
    """The file of a projector with what all kinds have."""

    def __init__(
        self,
        path: Path,
        kind: str,
        embedding: int,
        width: int,
        seed: int,
        *,
        layers: int = 1,
        side: int = SIDE,
    ) -> None:
        self.path = path
        self.writer = writer = gguf.GGUFWriter(path, "clip")
        self._width = width
        self._random = np.random.default_rng(seed)
        writer.add_type("mmproj")
        writer.add_bool("clip.has_vision_encoder", True)
        writer.add_string("clip.projector_type", kind)
        writer.add_uint32("clip.vision.image_size", side)
        writer.add_uint32("clip.vision.patch_size", PATCH)
        writer.add_uint32("clip.vision.embedding_length", width)
        writer.add_uint32("clip.vision.feed_forward_length", 2 * width)
        writer.add_uint32("clip.vision.projection_dim", embedding)
        writer.add_uint32("clip.vision.block_count", layers)
        writer.add_uint32("clip.vision.attention.head_count", 2)
        writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-6)
        writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
        writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])
        writer.add_bool("clip.use_gelu", True)
        self.add("v.patch_embd.weight", width, 3, PATCH, PATCH, scale=0.3)
        self._norm("v.post_ln")
        for layer in range(layers):
            self._layer(f"v.blk.{layer}", width)

    def _layer(self, name: str, width: int) -> None:
        self._norm(f"{name}.ln1")
        self._norm(f"{name}.ln2")
        for part in ("attn_q", "attn_k", "attn_v", "attn_out"):
            self.linear(f"{name}.{part}", width, width)
        self.linear(f"{name}.ffn_up", 2 * width, width)
        self.linear(f"{name}.ffn_down", width, 2 * width)

    def add(self, name: str, *shape: int, scale: float) -> None:
        self.writer.add_tensor(name, (self._random.standard_normal(shape) * scale).astype(np.float32))

    def linear(self, name: str, rows: int, columns: int) -> None:
        self.add(f"{name}.weight", rows, columns, scale=columns**-0.5)
        self.add(f"{name}.bias", rows, scale=0.1)

    def _norm(self, name: str) -> None:
        self.writer.add_tensor(f"{name}.weight", np.ones(self._width, dtype=np.float32))
        self.writer.add_tensor(f"{name}.bias", np.zeros(self._width, dtype=np.float32))

    def written(self) -> Path:
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()
        return self.path
