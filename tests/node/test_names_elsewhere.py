"""The files of a model are called on another node so that it has the same id there."""

from __future__ import annotations

import hashlib
from pathlib import Path

from suite.catalogue import Catalogue
from suite.node.transfers.names import names_elsewhere
from support.raw_gguf import Tensor, gguf_bytes
from support.stores import HuggingFaceHub, Ollama


async def test_names_of_all_kinds_of_folders(tmp_path: Path) -> None:
    plain, inner, hub, ollama = (tmp_path / name for name in ("plain", "plain/inner", "hub", "ollama"))
    (inner / "publisher").mkdir(parents=True)
    (plain / "top.gguf").write_bytes(gguf_bytes())
    (inner / "publisher" / "low.gguf").write_bytes(gguf_bytes(data=600))
    for number in (1, 2):
        content = gguf_bytes(
            {"split.no": number - 1, "split.count": 2}, tensors=(Tensor(f"blk.{number}.attn_q.weight"),)
        )
        (plain / f"big-0000{number}-of-00002.gguf").write_bytes(content)
    revision = hashlib.sha1(b"revision").hexdigest()
    HuggingFaceHub(hub).add("org/tiny-GGUF", revision, "Q8_0/cached.gguf", gguf_bytes(data=700))
    Ollama(ollama).add("registry.ollama.ai/library/llama3.2/1b", gguf_bytes(data=800))
    catalogue = Catalogue.open([plain, inner, hub, ollama], {}, tmp_path / "data")
    await catalogue.scan()
    found = {id: names_elsewhere(model, catalogue.directories) for id, model in catalogue.models.items()}
    assert found == {
        "top": ["top.gguf"],
        "low": ["publisher/low.gguf"],
        "big": ["big-00001-of-00002.gguf", "big-00002-of-00002.gguf"],
        "cached": ["org/tiny-GGUF/cached.gguf"],
        "llama3.2:1b": ["llama3.2:1b.gguf"],
    }
