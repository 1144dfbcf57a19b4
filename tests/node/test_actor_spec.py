"""What a model's process is told of the content that it loads."""

from __future__ import annotations

from pathlib import Path

import pytest

from suite.catalogue import Catalogue
from suite.config import Settings
from suite.domain.footprint import Footprint
from suite.engine.gguf.signature import Signature
from suite.machine import Bound, Processors
from suite.messages.actor import ActorSpec, NatsAccess
from suite.node import node
from suite.node.cores import NodeCores
from suite.node.node import actor_spec
from support.raw_gguf import gguf_bytes

CORES = NodeCores(lambda: Processors(Bound(2, "test"), Bound(2, "test")))


async def test_nothing_is_kept_on_disk_under_a_digest_that_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "DIGEST_SECONDS", 0.0)  # as for a file that takes long to read
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes())
    catalogue = Catalogue.open([tmp_path], {}, tmp_path)
    await catalogue.scan()
    seen = catalogue.resolve("m")

    async def spec() -> ActorSpec:
        settings = Settings(data_dir=tmp_path)
        access, gpus = NatsAccess(url="nats://127.0.0.1"), Footprint(9, {"gpu0": 3, "gpu1": 1})
        return await actor_spec(settings, access, catalogue, CORES, gpus, seen, "i")

    unknown = await spec()
    assert unknown.snapshots is not None
    assert (unknown.model_digest, unknown.snapshots.directory) == (None, None)
    assert unknown.tensor_split == (3, 1), "layers are divided by the limits of the GPUs, as it was estimated"

    digest = await catalogue.digest("m")
    known = await spec()
    assert known.snapshots is not None
    assert (known.model_digest, known.snapshots.directory is None) == (digest, False)

    path.chmod(0o600)
    catalogue.check_present(seen)
    touched = await spec()
    assert touched.model_files.signature == Signature.of([path]).text != known.model_files.signature
    assert touched.model_digest is None, "it may have been rewritten too"
    await catalogue.scan()
    assert await catalogue.digest("m") == digest
    assert (await spec()).model_digest == digest

    path.write_bytes(gguf_bytes()[:-1] + b"x")  # since it was decided to load it
    await catalogue.scan()
    other = await spec()
    assert other.snapshots is not None
    assert (other.model_digest, other.snapshots.directory) == (None, None)
