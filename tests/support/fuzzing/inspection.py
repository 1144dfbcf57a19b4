"""What a node does with a model's file before it is loaded, done to mutated files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from suite.catalogue.digests import DigestCache
from suite.catalogue.entry import Entry
from suite.catalogue.files import look
from suite.catalogue.inspection import Inspection
from suite.domain.footprint import Footprint
from support.fuzzing.gguf import Files, small_seeds, whole_seeds
from support.fuzzing.run import Target, bounded

SECONDS = 5.0


@contextmanager
def inspection(directory: Path) -> Iterator[Target[bytes]]:
    """Files through inspection, with the estimate of what they take."""
    files = Files([*small_seeds(), *small_seeds(), *whole_seeds(directory)])
    path = directory / "mutated.gguf"
    limits = Footprint(8 << 30, {"GPU0": 4 << 30})
    inspections = Inspection({}, DigestCache(directory / "digests.json"), limits)

    async def check(content: bytes) -> str:
        path.write_bytes(content)
        with bounded(SECONDS):
            file = look(Entry(ids=("mutated",), path=path), [directory])
            model = inspections.inspect("mutated", file)
        assert model is not None
        if model.error is not None:
            assert model.error.code in ("model_file_invalid", "model_file_incomplete"), model.error.code
            model.error.message.encode()  # goes into a reply
            return model.error.code
        msgspec.json.encode((model.info, model.estimate, model.kv_cache))
        assert model.estimate is not None and model.estimate.total_bytes > 0
        return "a model"

    yield Target(name="inspection", make=files.make, check=check, written=bytes)
