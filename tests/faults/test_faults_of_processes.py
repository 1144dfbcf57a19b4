"""Parts of a service killed and frozen under load; then all that it promises is judged.

`make faults` is the long form. What was acknowledged is in the log, once; each read model is a fold of it; an
instance has one writer; nothing is left behind, and health tells the truth.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from support.durability.attacks import PROCESS_FAULTS
from support.durability.rounds import keeps_its_promises

SEED = 1
LONG_FORM = ("SIGSTOP actor", "SIGSTOP gateway")
"""Only `make faults` does these."""


@pytest.mark.timeout(600)
async def test_a_service_of_which_parts_die_and_freeze_keeps_its_promises(tmp_path: Path) -> None:
    faults = [each for each in PROCESS_FAULTS if each.name not in LONG_FORM]
    await keeps_its_promises(tmp_path, faults, seed=SEED)
