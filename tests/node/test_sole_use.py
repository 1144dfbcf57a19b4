"""What a process did when it died is blamed on one name only if it did nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from suite.catalogue import Catalogue
from suite.messages.actor import AdapterFile
from suite.node.instance import Asked, Instance, Lease
from support.models import tiny_model

PIRATE = (AdapterFile(id="pirate", sha256="a", path="a.gguf", scale=1.0),)
REPLACED = (AdapterFile(id="pirate", sha256="b", path="b.gguf", scale=1.0),)


def lease(variant: str = "", adapters: tuple[AdapterFile, ...] = (), *, accepted: bool = True) -> Lease:
    asked = Asked(since=0.0, conversation_id=None, client=None)
    return Lease(reply="r", stream=False, asked=asked, accepted=accepted, variant=variant, adapters=adapters)


@pytest.mark.parametrize(
    ("leases", "waiting", "is_sole"),
    [
        ([], 0, False),
        ([lease()], 0, False),
        ([lease(adapters=PIRATE)], 0, False),
        ([lease("pirate", PIRATE)], 0, True),
        ([lease("pirate", PIRATE), lease("pirate", PIRATE)], 0, True),
        ([lease("pirate", PIRATE), lease("pirate", PIRATE, accepted=False)], 1, True),
        ([lease("pirate", ())], 0, False),
        ([lease("pirate", PIRATE), lease()], 0, False),
        ([lease("pirate", PIRATE), lease("poet", PIRATE)], 0, False),
        ([lease("pirate", PIRATE), lease("pirate", REPLACED)], 0, False),
        ([lease("pirate", PIRATE)], 1, False),
    ],
    ids=[
        "nothing runs",
        "the model alone",
        "adapters that no name says",
        "one generation of a name",
        "several of it",
        "one of it is being handed over",
        "a name of the model alone",
        "the model alone besides",
        "another name besides",
        "the same name with another adapter besides",
        "embeddings besides",
    ],
)
async def test_work_is_of_one_name_only(
    leases: list[Lease], waiting: int, is_sole: bool, tmp_path: Path
) -> None:
    tiny_model(tmp_path / "base.gguf")
    catalogue = Catalogue.open([tmp_path], {}, tmp_path)
    await catalogue.scan()
    instance = Instance(catalogue.models["base"], "i", now=0.0)
    instance.leases = {str(number): each for number, each in enumerate(leases)}
    instance.waiting = waiting
    found = instance.sole_use
    assert (found.variant if found is not None else None) == ("pirate" if is_sole else None)
