"""The process of one loaded model: ``python -m suite.actors.entry``, started by its node.

It waits for its spec, which may come at once or after hours (`suite.node.standby`). Then it loads the model
while it connects to NATS, tells its node, and serves requests until SIGTERM or until its node is gone.
llama.cpp runs in a thread of its own, and nothing here blocks on it.

Before it opens the model's file, which is not trusted, it gives up every right that it does not need
(`suite.actors.rights`). Threads that run by then would keep theirs, so there are none.

The order of imports decides how soon a model answers. The engine is imported first, so that a load can start.
The rest is imported in a thread while the process waits for its spec, or while it loads the model if it has
its spec by then. Modules that only some specs need are imported when they are needed.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Thread

from suite.actors.pipe import NodePipe, exit_process
from suite.actors.rights import make_directories, rights
from suite.actors.state_key import content_of, state_key
from suite.confinement.confinement import confine
from suite.core_table import SharedCores
from suite.engine.gguf.signature import Signature
from suite.engine.llama_model import ContextSettings, DraftSettings
from suite.engine.snapshots.folder import content_folder
from suite.engine.snapshots.snapshots import Snapshots
from suite.engine.thread import EngineThread
from suite.errors import LoadCancelled, ModelFileInvalid
from suite.identity import new_id, utc_now
from suite.messages.actions.status import Confinement
from suite.messages.actor import ActorSpec, Failed, Imported, Loading
from suite.process_log import log_to_stderr

_PROGRESS_STEP = 0.01
# uvloop, because CPU time that the event loop takes is lost to decoding.
_LOOP = {"use_uvloop": True}


def main() -> None:
    """Serve one model until SIGTERM, or until the node ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    log_to_stderr("json")  # the node reads it, and logs it again as it is configured
    pipe = NodePipe.claim()
    rest = Thread(target=_import_the_rest, args=[pipe], name="imports", daemon=True)
    is_standby = not pipe.has_spec()
    if is_standby:
        rest.start()
    spec = pipe.receive_spec()
    if spec is None:
        exit_process(0)
    signal.signal(signal.SIGTERM, lambda _number, _frame: _give_up(pipe))
    pipe.report(Loading(fraction=0.0))
    if is_standby:
        rest.join()
    confinement = _confine(spec)
    if not is_standby:
        rest.start()
    pipe.end_with_node()
    engine = EngineThread(
        spec.model_path,
        _settings(spec),
        Progress(pipe.report),
        lambda: _after_load(spec),
        cores=_shared_cores(spec),
    )
    engine.start()
    rest.join()

    import anyio

    from suite.actors.actor import serve

    run = partial(serve, spec, engine, pipe, time.monotonic, _new_seed, confinement=confinement)
    exit_process(anyio.run(run, backend_options=_LOOP))


def _confine(spec: ActorSpec) -> Confinement:
    if spec.confinement is None:
        return Confinement()
    make_directories(spec)
    return confine(rights(spec, memory_bytes=spec.confinement.memory_bytes))


def _import_the_rest(pipe: NodePipe) -> None:
    """Import `serve` and the event loop. An error here occurs again in `main`, which reports it."""
    with suppress(Exception):
        import anyio

        import suite.actors.actor
        import suite.engine.candidates  # noqa: F401 - numpy, for the first token

        anyio.run(anyio.sleep, 0, backend_options=_LOOP)  # the loop's own modules come with the first run
    pipe.report(Imported())


def _new_seed() -> int:
    return int.from_bytes(os.urandom(4), "little")


def _settings(spec: ActorSpec) -> ContextSettings:
    return ContextSettings(
        context_tokens=spec.context_tokens,
        cache_tokens=spec.cache_tokens,
        kv_cache=spec.kv_cache,
        flash_attention=spec.flash_attention,
        batch_tokens=spec.batch_tokens,
        gpu_layers=spec.gpu_layers,
        tensor_split=spec.tensor_split,
        threads=spec.threads,
        prompt_step_tokens=spec.prompt_step_tokens,
        max_step_seconds=spec.max_step_ms / 1000,
        slots=spec.slots,
        projector=spec.projector,
        speculates=spec.speculates,
        draft=_draft(spec),
    )


def _draft(spec: ActorSpec) -> DraftSettings | None:
    draft = spec.draft
    if draft is None:
        return None
    return DraftSettings(path=draft.model_path, flash_attention=draft.flash_attention)


def _shared_cores(spec: ActorSpec) -> SharedCores | None:
    seat = spec.cores
    return None if seat is None else SharedCores(seat.descriptor, seat.row, seat.threads)


def _after_load(spec: ActorSpec) -> Snapshots | None:
    """Make the snapshots of the model that was just loaded.

    Raises ModelFileInvalid if its files are not those that the node described, whose digest is the key. Files
    that were only touched meanwhile pass: the node reads them again, as when they are touched later.
    """
    described = Signature.of_text(spec.model_files.signature)
    try:
        loaded = Signature.of(map(Path, spec.model_files.paths))
    except OSError:
        loaded = Signature()
    if not described.is_touched(loaded):
        raise ModelFileInvalid(f"{spec.model_id} was changed while it was loaded: try again in a few seconds")
    return _snapshots(spec)


def _snapshots(spec: ActorSpec) -> Snapshots | None:
    kept = spec.snapshots
    if kept is None:
        return None
    directory = None if kept.directory is None else content_folder(Path(kept.directory), content_of(spec))
    return Snapshots(
        directory=directory,
        key=state_key(spec),
        memory_bytes=kept.memory_bytes,
        disk_bytes=kept.disk_bytes,
        max_conversations=kept.max_conversations,
        max_age_seconds=kept.max_age_seconds,
        now=utc_now,
        new_id=new_id,
    )


def _give_up(pipe: NodePipe) -> None:
    """End the process during the load: it has no clients yet."""
    pipe.report(Failed(code=LoadCancelled.code, message=LoadCancelled().message))
    exit_process(0)


class Progress:
    """Reports the progress of a load: at most once per percent, and its end once."""

    def __init__(self, report: Callable[[Loading], None]) -> None:
        self._report = report
        self._reported = 0.0

    def __call__(self, fraction: float) -> None:
        """Take note of what is done, from 0 to 1. llama.cpp may tell the end more than once."""
        if fraction - self._reported >= _PROGRESS_STEP or self._reported < fraction == 1.0:
            self._reported = fraction
            self._report(Loading(fraction=round(fraction, 4)))


if __name__ == "__main__":
    main()
