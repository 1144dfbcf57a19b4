"""The thread that llama.cpp runs in: it loads the model, then runs generations one after the other.

Nobody waits for it: work is handed in, and each generation's listener is told what comes of it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from suite.engine.generation import Generation
from suite.engine.model import ContextSettings, Model
from suite.engine.slots import Slots
from suite.errors import GenerationFailed, LoadFailed, SuiteError

_log = logging.getLogger("suite.engine")


class Listener(Protocol):
    """Who is told of one generation, in the engine's thread; it must not block."""

    def piece(self, text: str) -> None:
        """The next piece of text."""

    def ended(self, error: SuiteError | None) -> None:
        """It is over, once and after every piece; `error` says why it failed if it did."""


class EngineThread:
    """llama.cpp, one model, one generation at a time, first come, first served.

    Whoever submits keeps the number of those that wait within a limit.
    """

    def __init__(self, path: str, settings: ContextSettings, progress: Callable[[float], None]) -> None:
        """`progress` is told of the load, 0 to 1, in the engine's thread."""
        self.loaded: Future[Model] = Future()
        """The model, or why it could not be loaded."""
        self._path = path
        self._settings = settings
        self._progress = progress
        self._waiting: deque[tuple[Generation, Listener]] = deque()
        self._changed = threading.Condition()
        # A daemon, without an end of its own: the process ends, even within a long step of llama.cpp, and the
        # system takes the memory back.
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to load."""
        self._thread.start()

    def submit(self, generation: Generation, listener: Listener) -> None:
        """Run this after all that was submitted before."""
        with self._changed:
            self._waiting.append((generation, listener))
            self._changed.notify()

    def withdraw(self, generation: Generation) -> None:
        """Take a cancelled generation out of the queue; one that runs ends by itself before its next step."""
        with self._changed:
            found = next((entry for entry in self._waiting if entry[0] is generation), None)
            if found is None:
                return
            self._waiting.remove(found)
        generation.drop()
        found[1].ended(None)

    def _work(self) -> None:
        try:
            model = Model.load(self._path, self._settings, self._progress)
        except SuiteError as error:
            self.loaded.set_exception(error)
            return
        except Exception as error:
            _log.exception("the load failed")
            self.loaded.set_exception(LoadFailed(f"the load failed: {type(error).__name__}: {error}"))
            return
        self.loaded.set_result(model)
        slots = Slots(self._settings.slots, can_share=model.can_share)
        while True:
            _run(*self._next(), model, slots)

    def _next(self) -> tuple[Generation, Listener]:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting)
            return self._waiting.popleft()


def _run(generation: Generation, listener: Listener, model: Model, slots: Slots) -> None:
    failure: SuiteError | None = None
    try:
        for piece in generation.pieces(model, slots):
            listener.piece(piece)
    except SuiteError as error:
        failure = error
    except Exception:
        _log.exception("a generation failed")
        failure = GenerationFailed()
    listener.ended(failure)
