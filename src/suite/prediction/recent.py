"""What is known of whatever was used or seen most recently; the rest is forgotten."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, TypeVar

MOST_MODELS: Final = 10_000
"""Uses are reported by clients, with any id: whatever they send, this many are remembered."""
MOST_IDS: Final = 20_000
"""So many ids take a few MB. Read models remember all; of a copy that comes later than this something is
learned twice, which decays."""

V = TypeVar("V")


class Recent(OrderedDict[str, V]):
    """Values by key, in the order of the last use; beyond a number the least recent are forgotten."""

    def __init__(self, most: int | None = None) -> None:
        """`most`: how many are remembered; None: `MOST_MODELS`."""
        super().__init__()
        self._most = MOST_MODELS if most is None else most

    def use(self, key: str, value: V) -> None:
        """Have this value for a key that is used now."""
        self[key] = value
        self.move_to_end(key)
        if len(self) > self._most:
            self.popitem(last=False)


class RecentIds(Recent[None]):
    """The last ids, to tell which event is a copy of one before it: the log may have it twice (ADR 20)."""

    def __init__(self, most: int = MOST_IDS) -> None:
        super().__init__(most)

    def is_copy(self, id: str) -> bool:
        """Whether this id was seen before; from now on it was."""
        is_known = id in self
        self.use(id, None)
        return is_known
