"""Gives adapters to models' processes, which may read only what their node gives them (ADR 68, 73).

A process is confined before it knows which adapters it will be asked for. So it may read one folder, and an
adapter is copied there when it is first used. A copy stays what its name says, whatever becomes of the file;
a second name of the same file would not. Nothing is kept: the folders are emptied when the node starts.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from hashlib import file_digest
from pathlib import Path

import anyio.to_thread

from suite.catalogue import Catalogue, Model
from suite.catalogue.digests import just_changed
from suite.catalogue.variants import applied, choices
from suite.config import Settings
from suite.engine.snapshots.folder import folder_of, make_private
from suite.errors import ModelFileGone
from suite.identity import NewId
from suite.messages.actions.base import AdapterChoice
from suite.messages.actor import AdapterFile


def adapters_of(settings: Settings, model_id: str | None) -> Path:
    """The folder of the adapters that a model's process has been given; for None, that of all models."""
    root = settings.data_dir / "adapters"
    return root if model_id is None else folder_of(root, model_id)


def empty_adapters(settings: Settings) -> None:
    """Remove what an earlier life of this node has given to processes. Blocks."""
    shutil.rmtree(adapters_of(settings, None), ignore_errors=True)


async def given_adapters(
    settings: Settings,
    catalogue: Catalogue,
    model: Model,
    name: str,
    asked: str | Sequence[str | AdapterChoice],
    *,
    new_id: NewId,
) -> tuple[AdapterFile, ...]:
    """The adapters of a request for a model, where the model's process may read them.

    `name` is what the request calls the model, which may say adapters too. Raises AdapterNotFound,
    AdapterMismatch, InvalidRequest, and the errors of files that are gone or have changed.
    """
    variant = catalogue.variant(name)
    chosen = (*(variant.adapters if variant is not None else ()), *choices(asked))
    files = []
    for adapter, scale in applied(model, chosen, catalogue.models):
        await catalogue.look(adapter)
        sha256 = await catalogue.digest(adapter.model_id)
        folder = adapters_of(settings, model.model_id)
        give = partial(_give, adapter.path, folder, sha256, new_id())
        path = await anyio.to_thread.run_sync(give)
        files.append(AdapterFile(id=adapter.model_id, sha256=sha256, path=str(path), scale=scale))
    return tuple(files)


def _give(file: Path, folder: Path, sha256: str, token: str) -> Path:
    """Copy a file into a folder, unless its content is there. Blocks.

    Raises ModelFileGone, and ModelFileInvalid if it does not have the content with this SHA-256 any more.
    """
    given = folder / f"{sha256}.gguf"
    if given.exists():
        return given
    new = folder / f"{token}.new"
    try:
        make_private(folder)
        shutil.copyfile(file, new)
        with new.open("rb") as copy:
            if file_digest(copy, "sha256").hexdigest() != sha256:
                raise just_changed(file.name)
        new.replace(given)
    except FileNotFoundError:
        raise ModelFileGone(f"{file.name} is no longer there: put it back") from None
    except OSError as error:
        raise ModelFileGone(f"{file.name} cannot be copied: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            new.unlink(missing_ok=True)
    return given
