"""The thread that llama.cpp runs in: it loads the model, then runs the engine step by step.

Callers never block: they submit work, and a listener or a future receives the result. Other work on the model
runs between two steps; long work runs in pieces, one piece between two steps.
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

from suite.engine.adapters import AdapterSet
from suite.engine.backend import Cores
from suite.engine.conversations import SNAPSHOT_DELAY_SECONDS
from suite.engine.draft_model import ModelDrafter, load_draft
from suite.engine.engine import Engine, OnStep
from suite.engine.generation import Generation
from suite.engine.listener import Listener
from suite.engine.llama_model import ContextSettings, LlamaModel
from suite.engine.lookup import LookupDrafter
from suite.engine.payoff import Payoff
from suite.engine.slots import Slots
from suite.engine.snapshots.snapshots import Snapshots
from suite.engine.speculation import Speculation
from suite.errors import LoadFailed, SuiteError
from suite.messages.actor import Cleared

T = TypeVar("T")
Work: TypeAlias = Callable[[LlamaModel, Engine], None]

_log = logging.getLogger("suite.engine")

EXPIRY_SECONDS = 60.0
"""How often an idle engine drops expired snapshots."""
ENGINE_FAILED_EXIT_CODE = 70
"""The exit code of a process whose engine failed: an internal error, in the words of sysexits.h."""


class EngineThread:
    """One model in llama.cpp, with many generations at once.

    Its queue has no limit: the caller must limit how many generations wait.
    """

    def __init__(
        self,
        path: str,
        settings: ContextSettings,
        progress: Callable[[float], None],
        make_snapshots: Callable[[], Snapshots | None] = lambda: None,
        end_process: Callable[[int], object] = os._exit,
        cores: Cores | None = None,
    ) -> None:
        """The callbacks are called in the engine's thread. `progress` receives the loaded fraction, 0 to 1.

        `end_process` is called with `ENGINE_FAILED_EXIT_CODE` after an unexpected exception in the engine:
        its state is unknown then, its clients would wait for ever, and a node recovers from a process that
        died.
        """
        self.loaded: Future[LlamaModel] = Future()
        """The model, or the LoadFailed that says why it could not be loaded."""
        self._path = path
        self._settings = settings
        self._progress = progress
        self._make_snapshots = make_snapshots
        self._end_process = end_process
        self.cores = cores
        """What says with how many threads to compute; None: with those of the settings."""
        self._work: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self._long: deque[Iterator[None]] = deque()
        # A daemon thread that never ends by itself: the process can exit even within a long step, and the
        # system takes the memory back.
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread, which loads the model."""
        self._thread.start()

    def submit(self, generation: Generation, listener: Listener) -> None:
        """Queue a generation; it starts when a slot is free."""
        self._work.put(lambda _, engine: engine.submit(generation, listener))

    def observe(self, on_step: OnStep) -> None:
        """Have `on_step` called after every step, in the engine's thread."""

        def observe(_: LlamaModel, engine: Engine) -> None:
            engine.on_step = on_step

        self._work.put(observe)

    def clear(self, conversation_id: str | None) -> Future[Cleared]:
        """Forget the tokens of a conversation, or with None of all.

        A running generation goes on, but no later one reuses these tokens, nor those that the running one
        adds.
        """
        return self.run_between_steps(lambda _, engine: engine.clear(conversation_id))

    def load_adapters(self, adapters: AdapterSet) -> Future[None]:
        """Have adapters in memory before they are used. The future may fail with GenerationFailed."""
        return self.run_between_steps(lambda model, _: model.load_adapters(adapters))

    def snapshot_all(self, seconds: float) -> Future[None]:
        """Make snapshots of all conversations and write them to disk, taking at most this many seconds."""
        return self.run_between_steps(lambda _, engine: engine.snapshot_all(seconds))

    def run_between_steps(self, work: Callable[[LlamaModel, Engine], T]) -> Future[T]:
        """Run a short function on the model between two steps; it waits for at most one step."""
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

    def run_in_pieces(self, work: Callable[[LlamaModel, Engine], Generator[None, None, T]]) -> Future[T]:
        """Run a long function on the model in pieces; it pauses wherever it yields.

        While anything is generated, the engine makes a step between two pieces. Functions run one after the
        other, in the order of submission. Cancelling the future stops one before its next piece.
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
            self._end_process(ENGINE_FAILED_EXIT_CODE)

    def _load(self) -> tuple[LlamaModel, Engine]:
        model = LlamaModel.load(self._path, self._settings, self._progress, self.cores)
        engine = Engine(
            model,
            Slots(self._settings.slots, can_share=model.can_share),
            prompt_step_tokens=self._settings.prompt_step_tokens,
            max_step_seconds=self._settings.max_step_seconds,
            snapshots=self._make_snapshots(),
            cores=self.cores,
            speculation=self._speculation(model) if self._settings.speculates else None,
        )
        return model, engine

    def _speculation(self, model: LlamaModel) -> Speculation:
        """Raises DraftModelUnfit."""
        payoff = Payoff(self._settings.max_step_seconds)
        if self._settings.draft is None:
            return Speculation(model, LookupDrafter(), payoff)
        draft = load_draft(self._settings.draft, model)
        model.buffers = draft.buffers  # of both
        return Speculation(model, ModelDrafter(draft, model), payoff)

    def _serve(self, model: LlamaModel, engine: Engine) -> NoReturn:
        while True:
            self._receive(model, engine)
            self._do_piece()
            engine.step()

    def _receive(self, model: LlamaModel, engine: Engine) -> None:
        """Take submitted work; wait for some when there is nothing to do."""
        patience = SNAPSHOT_DELAY_SECONDS
        while not engine.busy and not self._long:
            if self.cores is not None:
                self.cores.rest()
            try:
                self._work.get(timeout=patience)(model, engine)
            except queue.Empty:
                patience = SNAPSHOT_DELAY_SECONDS if engine.snapshot_idle() else EXPIRY_SECONDS
            else:
                patience = SNAPSHOT_DELAY_SECONDS
        while not self._work.empty():
            self._work.get()(model, engine)

    def _do_piece(self) -> None:
        """Run the next piece of the first long function."""
        if self._long:
            try:
                next(self._long[0])
            except StopIteration:
                self._long.popleft()


def _pieces(work: Generator[None, None, T], done: Future[T]) -> Iterator[None]:
    """Run the function piece by piece until it returns or its future is cancelled; resolve the future."""
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
