"""Runs a long computation in slices, between which another thread computes::

    sliced = Slices()
    for _ in sliced.run(encode, lambda: 0.15):   # in the engine's thread; `encode` runs in one of its own
        engine.step()

`encode` calls `sliced.may_go_on()` wherever it can be interrupted, and waits there while it is not its turn.
So one of the two threads computes at any time, and with all cores: if both did, each would wait for cores of
the other at every barrier of ggml (ADR 79).
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import TypeVar

from suite.identity import Clock

T = TypeVar("T")


class Slices:
    """One computation after the other, each in slices. What `run` runs calls `may_go_on`."""

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self._clock = clock
        self._go_on = threading.Semaphore(0)
        self._paused = threading.Semaphore(0)
        self._until = math.inf
        self._is_stopped = False

    @property
    def is_stopped(self) -> bool:
        """Whether what runs is to end at once, as nobody wants its result any more."""
        return self._is_stopped

    def run(self, work: Callable[[], T], seconds: Callable[[], float]) -> Generator[None, None, T]:
        """Run `work` in a thread, and yield between its slices; `seconds` says how long the next may take.

        What `work` raises is raised here. Closing the generator ends it where it may be interrupted next.
        """
        done: Future[T] = Future()
        thread = threading.Thread(target=self._compute, args=(work, done), name="slices", daemon=True)
        thread.start()
        try:
            while True:
                self._slice(seconds())
                if done.done():
                    return done.result()
                yield
        finally:
            self._is_stopped = True
            while not done.done():
                self._slice(0.0)
            thread.join()
            self._until, self._is_stopped = math.inf, False

    def may_go_on(self) -> bool:
        """Called by `work`: waits for its turn if the slice is over. False: it is to end at once."""
        if not self._is_stopped and self._clock() >= self._until:
            self._paused.release()
            self._go_on.acquire()
        return not self._is_stopped

    def _slice(self, seconds: float) -> None:
        """Have it go on for so long, and wait until it pauses or is done."""
        self._until = self._clock() + seconds
        self._go_on.release()
        self._paused.acquire()

    def _compute(self, work: Callable[[], T], done: Future[T]) -> None:
        self._go_on.acquire()
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)
        finally:
            self._paused.release()
