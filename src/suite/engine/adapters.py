"""The LoRA adapters that a generation is computed with, and whose turn it is among several sets of them.

llama.cpp applies one set of adapters to a whole batch. So generations with different sets never share a
batch, and take turns. What was decoded with one set is of no use to another: its key tells them apart, in
slots and in snapshots. Nothing here depends on llama.cpp.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Final, NamedTuple

_KEY_BYTES: Final = 16


class Adapter(NamedTuple):
    """A LoRA adapter, and how much of it is applied."""

    content: str
    """The digest of its file."""
    path: str
    scale: float


class AdapterSet(NamedTuple):
    """The adapters that are applied together."""

    key: str
    """Differs wherever what they compute may differ; empty for none at all."""
    adapters: tuple[Adapter, ...]


NO_ADAPTERS: Final = AdapterSet("", ())


def adapter_set(adapters: Iterable[Adapter]) -> AdapterSet:
    """The set of these adapters, in whatever order they are given; those with a scale of 0 do nothing."""
    applied = tuple(sorted(each for each in adapters if each.scale))
    if not applied:
        return NO_ADAPTERS
    parts = [f"{each.content} {each.scale!r}" for each in applied]
    return AdapterSet(blake2b("\n".join(parts).encode(), digest_size=_KEY_BYTES).hexdigest(), applied)


class AdapterTurns:
    """Whose turn it is: each set for the same time, so that streams get on alike whatever their adapters.

    To change the set costs llama.cpp a new graph. So a turn lasts as long as the others can wait for it, and
    not just a step.
    """

    def __init__(self, seconds: float) -> None:
        """`seconds`: how long a set waits at most for the turns of others. A turn is a step at least."""
        self._seconds = seconds
        self._current: str | None = None
        self._began = 0.0
        self._queue: list[str] = []

    def next(self, keys: Iterable[str], now: float) -> str:
        """The key of the set that is decoded next, of those that have something to decode: one at least.

        Those that are new wait behind those that wait already.
        """
        wanted = dict.fromkeys(keys)
        self._queue = [key for key in self._queue if key in wanted]
        self._queue += [key for key in wanted if key not in self._queue and key != self._current]
        if self._current in wanted:
            if not self._queue or now - self._began < self._seconds / len(self._queue):
                return self._current
            self._queue.append(self._current)
        self._current, self._began = self._queue.pop(0), now
        return self._current
