"""Everything else that can happen to a service, once, under load: its disk, files, clients, clock and memory.

`make faults` is the long form.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from support.durability.attacks import MEMORY_FAULT, OTHER_FAULTS
from support.durability.rounds import keeps_its_promises

SEED = 1


@pytest.mark.timeout(240)
async def test_a_service_in_bad_surroundings_keeps_its_promises(tmp_path: Path) -> None:
    await keeps_its_promises(tmp_path, (*OTHER_FAULTS, MEMORY_FAULT), seed=SEED)
