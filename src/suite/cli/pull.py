"""``suite pull``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from suite.cli.invocation import arguments
from suite.cli.options import json_option
from suite.errors import InvalidRequest, SuiteError
from suite.extras import require

if TYPE_CHECKING:
    from suite.config import Settings
    from suite.hub.offers import Offer


class Pulled(msgspec.Struct, frozen=True, kw_only=True):
    """What `suite pull --json` prints."""

    model_id: str | None
    """The id that a service with these settings gives it; null where none can run, as without [serve]."""
    repository: str
    files: tuple[str, ...]
    """The paths of its files."""
    replaced: tuple[str, ...]
    """Those of them that had other content before, as those of another revision."""
    bytes: int
    sha256: tuple[str | None, ...]
    """The digests of its files, which they were checked to have; null where the hub has none."""


@click.command()
@click.argument("model")
@click.option(
    "--to",
    type=click.Path(file_okay=False, path_type=Path),
    help="Model directory to put it into. Default: the first that the settings name, which is ./models.",
)
@click.option(
    "--config",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Configuration file of the service, for its model directories.  [default: none]",
)
@click.option("--revision", help="Branch, tag or commit of the repository.  [default: main]")
@json_option
def pull(model: str, to: Path | None, file: Path | None, revision: str | None, as_json: bool) -> None:
    """Download MODEL from the Hugging Face Hub: a repository, and a quantization or file behind a colon.

    Without one, it is the only model of the repository, or the one with Q4_K_M. An interrupted download
    goes on when the same is typed again. The service need not run; if it does, it finds the model by itself.
    HF_TOKEN is used for repositories that need it, and HF_ENDPOINT names another hub.

    \b
    Examples:
      suite pull bartowski/Llama-3.2-1B-Instruct-GGUF
      suite pull bartowski/Llama-3.2-1B-Instruct-GGUF:Q8_0 --to ~/models
      suite pull hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Llama-3.2-1B-Instruct-IQ4_XS.gguf
    """
    require("hub", "suite pull")
    from suite.cli.output import json_line
    from suite.hub.environment import check_environment

    check_environment(os.environ)  # the library reads it when it is imported
    from suite.hub.download import download
    from suite.hub.offers import choose, offers
    from suite.hub.reference import Reference
    from suite.hub.repository import Repository
    from suite.units import size

    reference = Reference.parse(model)
    directory = to or _own_directory(_settings(file))
    repository = Repository(reference.repository, revision or reference.revision)
    offer = choose(reference.repository, offers(repository.files()), reference.wanted)
    with _shown(offer, as_json) as on_bytes:
        paths, replaced = download(repository, offer.files, directory / reference.repository, on_bytes)
    pulled = Pulled(
        model_id=_model_id(paths[0], directory, file),
        repository=reference.repository,
        files=tuple(str(path.absolute()) for path in paths),
        replaced=tuple(str(path.absolute()) for path in replaced),
        bytes=offer.bytes,
        sha256=tuple(each.sha256 for each in offer.files),
    )
    if as_json:
        json_line(pulled)
        return
    for path in replaced:
        click.echo(f"warning: {path} had other content, and was replaced", err=True)
    name = pulled.model_id or paths[0].name
    click.echo(f"{name} is in {paths[0].parent} ({size(offer.bytes)}, {_checked(offer)})")
    if pulled.model_id is not None:
        click.echo(f"next: suite {arguments('run', pulled.model_id)}")


def _settings(file: Path | None) -> Settings:
    """The settings of the service. Raises NotInstalled where none can run, and InvalidConfiguration."""
    require("serve", "suite pull without --to")
    from suite.config import load_settings

    return load_settings(file)


def _own_directory(settings: Settings) -> Path:
    """The first model directory of the settings that is no other program's. Raises InvalidRequest."""
    from suite.catalogue.stores import is_of_a_store

    directories = [path for path in settings.models_directories if not is_of_a_store(path.absolute())]
    if not directories:
        raise InvalidRequest("all model directories are those of other programs: say where with --to")
    return directories[0]


def _model_id(path: Path, directory: Path, file: Path | None) -> str | None:
    try:
        settings = _settings(file)
    except SuiteError:
        return None
    from suite.catalogue.preview import id_of

    return id_of(path, directory, settings)


def _checked(offer: Offer) -> str:
    if all(file.sha256 for file in offer.files):
        return "SHA-256 checked"
    return "only its size checked: the hub has no SHA-256 of it"


@contextmanager
def _shown(offer: Offer, as_json: bool) -> Iterator[Callable[[int], None]]:
    """Show the progress on a terminal, and how to go on when it is interrupted."""
    from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

    from suite.cli.output import progress
    from suite.units import size

    if not as_json:
        click.echo(f"{offer.path}, {size(offer.bytes)}", err=True)
    figures = DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn()
    try:
        with progress(BarColumn(None), *figures, shown=not as_json) as bar:
            task = bar.add_task("", total=offer.bytes)
            yield lambda count: bar.update(task, completed=count)
    except KeyboardInterrupt as interrupt:
        interrupt.add_note("stopped: type the same again, and it goes on from here")
        raise
