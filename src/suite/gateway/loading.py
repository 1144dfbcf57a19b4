"""How far the load is that a request waits for, as its signals tell."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import anyio

from suite.client import Client
from suite.errors import ModelLoading, NotEnoughMemory
from suite.identity import Clock
from suite.messages.signals import Progress, Signal, Waiting
from suite.tasks import background

T = TypeVar("T")

_UNKNOWN_RETRY_SECONDS: Final = 10.0


class Loading:
    """What a request waits for before its model can begin: memory, then the load."""

    def __init__(self, model: str, clock: Clock) -> None:
        self._model = model
        self._clock = clock
        self._began: float | None = None
        self._waiting: Waiting | None = None
        self._fraction: float | None = None

    @property
    def is_cold(self) -> bool:
        """Whether the model is known not to be ready."""
        return self._waiting is not None or (self._fraction is not None and self._fraction < 1)

    def hear(self, signal: Signal) -> None:
        """Take in what a signal tells. Every other signal leaves things as they are."""
        if isinstance(signal, Waiting):
            self._waiting = signal
        elif isinstance(signal, Progress):
            self._waiting = None
            self._began = self._clock() if self._began is None else self._began
            self._fraction = signal.fraction

    @property
    def told(self) -> str:
        """A line for people who watch the connection."""
        if self._waiting is not None:
            return f"{self._model} waits for memory, place {self._waiting.place}"
        if self._fraction is not None and self._fraction < 1:
            return f"loading {self._model}, {self._fraction:.0%}"
        return "working"

    def over_limit(self) -> ModelLoading:
        """The refusal of a request that has waited for as long as it may."""
        seconds = self._eta_seconds
        return ModelLoading(
            f"{self.told}: send the request again later",
            retry_after_ms=round(1000 * (_UNKNOWN_RETRY_SECONDS if seconds is None else seconds)),
            state="waiting" if self._waiting is not None else "loading",
            progress=self._fraction,
            eta_seconds=seconds,
        )

    @property
    def _eta_seconds(self) -> float | None:
        """How long the load is likely to take still; None as long as nothing shows that."""
        if self._waiting is not None or not self._fraction or self._began is None:
            return None
        return round((self._clock() - self._began) * (1 - self._fraction) / self._fraction, 1)


async def loaded_within(
    seconds: float, client: Client, model: str, work: Callable[[int], Awaitable[T]], clock: Clock
) -> T:
    """Do work that loads a model first and gives no signals; it may take long once the model is loaded.

    ``work`` gets how long the model may wait for memory, in milliseconds. Raises ModelLoading if the model
    is not loaded after so many seconds.
    """
    began = clock()

    async def watch() -> None:
        await anyio.sleep(seconds)
        model_info = (await client.get_model_status(model)).model
        if model_info is not None and not model_info.loaded:
            raise _not_loaded(model, model_info.instance.load_progress if model_info.instance else None)

    async with background() as tasks:
        tasks.start_soon(watch)
        try:
            return await work(round(seconds * 1000))
        except NotEnoughMemory:
            if clock() - began < seconds:
                raise
    raise _not_loaded(model, None)


def _not_loaded(model: str, progress: float | None) -> ModelLoading:
    doing = "waits for memory" if progress is None else f"is being loaded, {progress:.0%}"
    return ModelLoading(
        f"{model} {doing}: send the request again later",
        retry_after_ms=round(1000 * _UNKNOWN_RETRY_SECONDS),
        state="waiting" if progress is None else "loading",
        progress=progress,
    )
