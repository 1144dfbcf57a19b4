"""How the processes of this node's models are confined, as health tells it (ADR 68)."""

from __future__ import annotations

import logging
from typing import get_args

from suite.confinement.confinement import offered
from suite.messages.actions.status import ConfinedPart, Confinement

logger = logging.getLogger("suite.node")


class ModelConfinement:
    """What the kernel offers at first, then also what processes have told of themselves."""

    def __init__(self, found: Confinement) -> None:
        self.found = found

    @classmethod
    def of(cls, *, is_on: bool) -> ModelConfinement:
        """As it is switched on or off by the settings. Logs a line about what is not confined."""
        if not is_on:
            reason = "the setting confinement is false"
            logger.info("processes of models are not confined: %s", reason)
            return cls(Confinement(off=dict.fromkeys(get_args(ConfinedPart), reason)))
        found = offered()
        if found.off:
            logger.warning("processes of models are not confined in all: %s", _reasons(found))
        else:
            logger.debug("processes of models are confined: %s", ", ".join(found.on))
        return cls(found)

    def heard(self, model_id: str, told: Confinement) -> None:
        """Note what the process of a model has told. Logs what is new in it."""
        new = {part: reason for part, reason in told.off.items() if part not in self.found.off}
        if new:
            logger.warning("the process of %s is not confined in all: %s", model_id, _reasons(told))
            self.found = Confinement(
                on=tuple(part for part in self.found.on if part not in new), off={**self.found.off, **new}
            )


def _reasons(found: Confinement) -> str:
    return "; ".join(f"{part}, as {reason}" for part, reason in found.off.items())
