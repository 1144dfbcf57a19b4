"""The thread that llama.cpp runs in: it loads the model, then runs generations one after the other.

Nobody waits for it: work is handed in, and each generation's listener is told what comes of it. A generation
may take minutes, so what is to be forgotten is marked between two of its steps. It goes when the generation
has ended, for what else lies in the cache, and where, shows in the last digits of what llama.cpp computes.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Protocol

from suite.engine.generation import Generation
from suite.engine.model import ContextSettings, Model
from suite.engine.slots import Slots
from suite.errors import GenerationFailed, LoadFailed, SuiteError
from suite.messages.actor import Cleared

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
        self._to_clear: deque[tuple[str | None, Future[Cleared]]] = deque()
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

    def clear(self, conversation_id: str | None) -> Future[Cleared]:
        """Forget the tokens of a conversation, or for None all.

        The answer waits for one step of llama.cpp at most. A generation that runs is not disturbed; none that
        begins later finds any of these tokens, nor those that the running one adds to them.
        """
        cleared: Future[Cleared] = Future()
        with self._changed:
            self._to_clear.append((conversation_id, cleared))
            self._changed.notify()
        return cleared

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
        condemn = partial(self._condemn, slots)
        while True:
            condemn()
            _empty_condemned(model, slots)
            entry = self._next()
            if entry is not None:
                _run(*entry, model, slots, condemn)

    def _next(self) -> tuple[Generation, Listener] | None:
        """Wait for the next generation; None when there is something to forget before it."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._to_clear)
            return None if self._to_clear else self._waiting.popleft()

    def _condemn(self, slots: Slots) -> None:
        """Condemn what is to be forgotten, and say what that is."""
        while self._to_clear:  # asked at each step, so without the lock: nobody else takes anything out
            conversation_id, cleared = self._to_clear.popleft()
            if cleared.set_running_or_notify_cancel():
                found = slots.condemn(conversation_id)
                cleared.set_result(
                    Cleared(
                        conversations=len(found),
                        generating=sum(slot.generating for slot in found),
                        tokens=sum(len(slot.tokens) for slot in found),
                    )
                )


def _empty_condemned(model: Model, slots: Slots) -> None:
    for slot in slots:
        if slot.condemned:
            model.cut(slot.sequence, 0)
            slots.forget(slot)


def _run(
    generation: Generation,
    listener: Listener,
    model: Model,
    slots: Slots,
    between_steps: Callable[[], None],
) -> None:
    failure: SuiteError | None = None
    try:
        for piece in generation.pieces(model, slots, between_steps):
            listener.piece(piece)
    except SuiteError as error:
        failure = error
    except Exception:
        _log.exception("a generation failed")
        failure = GenerationFailed()
    listener.ended(failure)
