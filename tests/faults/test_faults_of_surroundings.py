"""What else can happen to a service under load: to its disk, its files, its clients and its clock.

`make faults` is the long form.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from support.durability.attacks import OTHER_FAULTS
from support.durability.rounds import keeps_its_promises

SEED = 1
TESTED_ELSEWHERE: Mapping[str, str] = {
    "full disk": "test_full_disk",
    "projection truncated": "test_mishaps",
    "model replaced": "test_content",
}
"""Each by itself, and by `make faults` under load, as is what takes all memory (`test_out_of_memory`)."""


@pytest.mark.timeout(600)
async def test_a_service_in_bad_surroundings_keeps_its_promises(tmp_path: Path) -> None:
    faults = [each for each in OTHER_FAULTS if each.name not in TESTED_ELSEWHERE]
    await keeps_its_promises(tmp_path, faults, seed=SEED)
