"""What it takes to have a model in memory again, as this node measured it: a fold of its log."""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import Final, NamedTuple

from suite.domain.sizes import ready_bytes
from suite.messages.events import Event, Generated, InstanceLoaded, InstanceLoadStarted
from suite.prediction.eviction.policy import Candidate

LOADS: Final = 5
"""How many loads of the same content with the same settings count: their median, as one may have found the
file in memory or the machine busy."""
READ_TOKENS: Final = 16
"""A prompt of which fewer tokens were read says nothing of the speed."""
_DECAY: Final = 0.9
"""What a prompt counts less with each one after it."""


class LoadKey(NamedTuple):
    """What loads have in common that take the same time."""

    model_id: str
    content: str
    settings_key: str


class _Reading:
    """How fast a model reads prompts, and how much of them it has already; the newest count most."""

    __slots__ = ("prompt_tokens", "read_tokens", "reused_tokens", "seconds")

    def __init__(self) -> None:
        self.read_tokens = self.seconds = self.prompt_tokens = self.reused_tokens = 0.0

    def add(self, use: Generated) -> None:
        self.prompt_tokens = _DECAY * self.prompt_tokens + use.prompt_tokens
        self.reused_tokens = _DECAY * self.reused_tokens + use.reused_tokens
        read = use.prompt_tokens - use.reused_tokens
        if use.time_to_first_token_ms is None or read < READ_TOKENS:
            return
        seconds = max(use.time_to_first_token_ms - use.queue_ms, 0.0) / 1000
        self.read_tokens = _DECAY * self.read_tokens + read
        self.seconds = _DECAY * self.seconds + seconds


class Costs:
    """The measured costs of the models of one node."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._beginning: dict[str, tuple[str, LoadKey]] = {}
        """By model: the instance that was begun last, and what it is a load of."""
        self._loads: dict[LoadKey, deque[float]] = {}
        self._readings: dict[str, _Reading] = {}
        self._newest: dict[str, Candidate] = {}

    def fold(self, event: Event) -> None:
        """Learn of one more event."""
        match event:
            case InstanceLoadStarted() if event.node == self._node:
                key = LoadKey(event.model_id, event.content, event.settings_key)
                self._beginning[event.model_id] = (event.instance_id, key)
            case InstanceLoaded() if event.node == self._node:
                self._loaded(event)
            case Generated() if event.node == self._node:
                self._readings.setdefault(event.model_id, _Reading()).add(event)

    def load_seconds(self, key: LoadKey) -> float | None:
        """How long such a load takes; None if there was none."""
        loads = self._loads.get(key)
        return median(loads) if loads else None

    def read_seconds(self, model_id: str, tokens: int) -> float:
        """How long it takes to read again what is used again of so many tokens; 0 while that is not known.

        Tokens of prompts that nobody goes on with need not be read again: as many of them count as prompts
        had in common lately with what was there.
        """
        reading = self._readings.get(model_id)
        if reading is None or not reading.read_tokens or not reading.prompt_tokens:
            return 0.0
        again = tokens * reading.reused_tokens / reading.prompt_tokens
        return again * reading.seconds / reading.read_tokens

    def candidate(self, model_id: str) -> Candidate | None:
        """The model as it was loaded last, without its conversations; None if it never was."""
        return self._newest.get(model_id)

    def _loaded(self, event: InstanceLoaded) -> None:
        instance_id, key = self._beginning.get(event.model_id, ("", None))
        if key is None or instance_id != event.instance_id or event.content:
            key = LoadKey(event.model_id, event.content, event.settings_key)
        loads = self._loads.setdefault(key, deque(maxlen=LOADS))
        loads.append(load_seconds(event))
        ready = ready_bytes(event)
        self._newest[event.model_id] = Candidate(
            model_id=event.model_id, bytes=ready.total, gpus=ready.gpus, reload_seconds=median(loads)
        )


def load_seconds(event: InstanceLoaded) -> float:
    """How long a load took, as far as it is known without the wait for those that had to leave first."""
    return (event.load_ms if event.process_ms is None else event.process_ms) / 1000
