"""The thread that llama.cpp runs in: it loads the model, then brings all generations on, step by step.

Nobody waits for it: work is handed in, and each generation's listener is told what comes of it. What else is
to be done with the model is done between two steps, and what takes long in pieces, one between two steps.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import closing
from typing import NoReturn, TypeAlias, TypeVar

from suite.engine.conversations import REST_SECONDS
from suite.engine.engine import Engine, OnStep
from suite.engine.generation import Generation
from suite.engine.listener import Listener
from suite.engine.llama_model import ContextSettings, LlamaModel
from suite.engine.slots import Slots
from suite.engine.snapshots.snapshots import Snapshots
from suite.errors import LoadFailed, SuiteError
from suite.messages.actor import Cleared

T = TypeVar("T")
Work: TypeAlias = Callable[[LlamaModel, Engine], None]

_log = logging.getLogger("suite.engine")

EXPIRY_SECONDS = 60.0
"""How often an idle engine looks for what has been kept too long."""
BROKEN = 70
"""The exit code of a process whose engine failed: an internal error, in the words of sysexits.h."""


class EngineThread:
    """llama.cpp, one model, many generations at once.

    Whoever submits keeps the number of those that wait within a limit.
    """

    def __init__(
        self,
        path: str,
        settings: ContextSettings,
        progress: Callable[[float], None],
        make_snapshots: Callable[[], Snapshots | None] = lambda: None,
        end_process: Callable[[int], object] = os._exit,
    ) -> None:
        """`progress` is told of the load, 0 to 1, and `make_snapshots` called, in the engine's thread.

        So is `end_process`, with `BROKEN`, when the engine fails in a way that nobody thought of: what it
        holds is unknown then, those who wait would wait for ever, and a node knows what to do with a process
        that has died.
        """
        self.loaded: Future[LlamaModel] = Future()
        """The model, or why it could not be loaded."""
        self._path = path
        self._settings = settings
        self._progress = progress
        self._make_snapshots = make_snapshots
        self._end_process = end_process
        self._work: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self._long: deque[Iterator[None]] = deque()
        # A daemon, without an end of its own: the process ends, even within a long step of llama.cpp, and the
        # system takes the memory back.
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to load."""
        self._thread.start()

    def submit(self, generation: Generation, listener: Listener) -> None:
        """Run this beside what runs, as soon as there is a slot for it."""
        self._work.put(lambda _, engine: engine.submit(generation, listener))

    def observe(self, on_step: OnStep) -> None:
        """Have every step told, in the engine's thread."""

        def observe(_: LlamaModel, engine: Engine) -> None:
            engine.on_step = on_step

        self._work.put(observe)

    def clear(self, conversation_id: str | None) -> Future[Cleared]:
        """Forget the tokens of a conversation, or for None all.

        A generation that runs goes on; none that begins later finds any of these tokens, nor those that the
        running one adds to them.
        """
        return self.between_steps(lambda _, engine: engine.clear(conversation_id))

    def park(self, seconds: float) -> Future[None]:
        """Make snapshots of all conversations, and write them to disk within this time."""
        return self.between_steps(lambda _, engine: engine.park(seconds))

    def between_steps(self, work: Callable[[LlamaModel, Engine], T]) -> Future[T]:
        """Do something short with the model; it waits for one step of llama.cpp at most."""
        done: Future[T] = Future()

        def do(model: LlamaModel, engine: Engine) -> None:
            if not done.set_running_or_notify_cancel():
                return
            try:
                done.set_result(work(model, engine))
            except Exception as error:
                done.set_exception(error)

        self._work.put(do)
        return done

    def in_pieces(self, work: Callable[[LlamaModel, Engine], Generator[None, None, T]]) -> Future[T]:
        """Do something long with the model, which gives way wherever it yields.

        While there is anything to generate, there is a step between two pieces. What was handed in first is
        brought to its end first. Of what is cancelled no further piece is begun.
        """
        done: Future[T] = Future()
        self._work.put(lambda model, engine: self._long.append(_pieces(work(model, engine), done)))
        return done

    def _run(self) -> None:
        try:
            model, engine = self._load()
        except SuiteError as error:
            self.loaded.set_exception(error)
            return
        except Exception as error:
            _log.exception("the load failed")
            self.loaded.set_exception(LoadFailed(f"the load failed: {type(error).__name__}: {error}"))
            return
        self.loaded.set_result(model)
        try:
            self._serve(model, engine)
        except BaseException:
            _log.critical("the engine failed, and the process ends", exc_info=True)
            self._end_process(BROKEN)

    def _load(self) -> tuple[LlamaModel, Engine]:
        model = LlamaModel.load(self._path, self._settings, self._progress)
        engine = Engine(
            model,
            Slots(self._settings.slots, can_share=model.can_share),
            prompt_step_tokens=self._settings.prompt_step_tokens,
            snapshots=self._make_snapshots(),
        )
        return model, engine

    def _serve(self, model: LlamaModel, engine: Engine) -> NoReturn:
        while True:
            self._receive(model, engine)
            self._do_piece()
            engine.step()

    def _receive(self, model: LlamaModel, engine: Engine) -> None:
        """Take what was handed in; wait for it when there is nothing to do."""
        patience = REST_SECONDS
        while not engine.busy and not self._long:
            try:
                self._work.get(timeout=patience)(model, engine)
            except queue.Empty:
                patience = REST_SECONDS if engine.rest() else EXPIRY_SECONDS
            else:
                patience = REST_SECONDS
        while not self._work.empty():
            self._work.get()(model, engine)

    def _do_piece(self) -> None:
        """Bring the first of what takes long on by a piece."""
        if self._long:
            try:
                next(self._long[0])
            except StopIteration:
                self._long.popleft()


def _pieces(work: Generator[None, None, T], done: Future[T]) -> Iterator[None]:
    """The work, until it is done or nobody wants it any more; the future is told what comes of it."""
    with closing(work):
        try:
            while not done.cancelled():
                next(work)
                yield
        except StopIteration as end:
            if done.set_running_or_notify_cancel():
                done.set_result(end.value)
        except Exception as error:
            if done.set_running_or_notify_cancel():
                done.set_exception(error)
