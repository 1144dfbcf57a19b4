"""What is known of the models that were used most recently."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, TypeVar

MOST_MODELS: Final = 10_000
"""Uses are reported by clients, with any id: whatever they send, this many are remembered."""

V = TypeVar("V")


class Recent(OrderedDict[str, V]):
    """Values by model, in the order of the last use; beyond `MOST_MODELS` the least recent are forgotten."""

    def use(self, model_id: str, value: V) -> None:
        """Have this value for a model that is used now."""
        self[model_id] = value
        self.move_to_end(model_id)
        if len(self) > MOST_MODELS:
            self.popitem(last=False)
