"""What is said of an adapter by its header, which models it fits, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path

import pytest

from suite.engine.gguf.adapter import AdapterInfo, misfit
from suite.engine.gguf.file import describe, inspect
from suite.errors import ModelFileInvalid
from support.adapters import adapter
from support.models import tiny_model
from support.raw_gguf import Tensor, Value, gguf_bytes

ADAPTER: Mapping[str, Value | None] = {"general.type": "adapter", "adapter.type": "lora"}
Q = "blk.1.attn_q.weight"


def pair(
    name: str = Q, first: tuple[int, ...] = (32, 4), second: tuple[int, ...] = (4, 32)
) -> tuple[Tensor, Tensor]:
    return Tensor(f"{name}.lora_a", first), Tensor(f"{name}.lora_b", second, offset=4 * prod(first))


def described(path: Path) -> AdapterInfo:
    info = describe(path)
    assert isinstance(info, AdapterInfo)
    return info


def test_an_adapter_says_what_it_changes_and_fits_models_that_have_that(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base.gguf")
    found = described(adapter(tmp_path / "adapter.gguf", base, rank=8, name="Pirate"))
    assert (found.architecture, found.name, found.rank, found.layers) == ("llama", "Pirate", 8, 2)
    assert found.matrices == {
        "attn_q.weight": ((64, 64),),
        "attn_v.weight": ((64, 32),),
        "ffn_down.weight": ((128, 64),),
    }
    assert found.file_bytes == (tmp_path / "adapter.gguf").stat().st_size
    for path, reason in (
        (tiny_model(tmp_path / "another.gguf", seed=1), ""),
        (
            tiny_model(tmp_path / "wide.gguf", embedding=128),
            "changes attn_q.weight of 64 x 64, where the model has 128 x 128",
        ),
        (tiny_model(tmp_path / "flat.gguf", layers=1), "changes 2 layers, of which the model has 1"),
    ):
        model = inspect(path)
        assert misfit(found, model.architecture, model.block_count, model.matrices) == reason
    assert "for the architecture llama, not for gemma3" in misfit(found, "gemma3", 2, {})
    assert "changes attn_q.weight, which the model does not have" in misfit(found, "llama", 2, {})
    with pytest.raises(ModelFileInvalid, match="it is an adapter, not a model"):
        inspect(tmp_path / "adapter.gguf")


def test_an_adapter_of_the_embedding_of_tokens_has_its_matrices_the_other_way_round(tmp_path: Path) -> None:
    path = tmp_path / "adapter.gguf"
    path.write_bytes(gguf_bytes(ADAPTER, tensors=pair("token_embd.weight", (4, 100), (4, 32)), data=4096))
    assert described(path).matrices == {"token_embd.weight": ((32, 100),)}


BAD: dict[str, tuple[bytes, str]] = {
    "of another kind": (gguf_bytes({**ADAPTER, "adapter.type": "control"}), "of the kind 'control'"),
    "switched on by tokens": (
        gguf_bytes({**ADAPTER, "adapter.alora.invocation_tokens": [1, 2]}, tensors=pair(), data=1024),
        "certain tokens switch on",
    ),
    "without matrices": (gguf_bytes(ADAPTER), "it has no matrices"),
    "half of it": (gguf_bytes(ADAPTER, tensors=pair()[:1]), "only a part of what it changes in"),
    "two ranks": (
        gguf_bytes(ADAPTER, tensors=pair(second=(8, 32)), data=2048),
        "the ranks 4 and 8",
    ),
    "flat": (gguf_bytes(ADAPTER, tensors=(Tensor(f"{Q}.lora_a", (32,)),)), "only a part"),
    "an endless strength": (
        gguf_bytes({**ADAPTER, "adapter.lora.alpha": float("inf")}, tensors=pair(), data=1024),
        "is inf",
    ),
    "for no architecture": (
        gguf_bytes({**ADAPTER, "general.architecture": None}, tensors=pair(), data=1024),
        "no key 'general.architecture'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_adapter_is_refused_with_the_reason(case: str, tmp_path: Path) -> None:
    content, reason = BAD[case]
    (tmp_path / "adapter.gguf").write_bytes(content)
    with pytest.raises(ModelFileInvalid, match=reason):
        describe(tmp_path / "adapter.gguf")
