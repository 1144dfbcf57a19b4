"""``suite pull``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from suite.cli.invocation import arguments
from suite.cli.options import json_option
from suite.errors import InvalidRequest
from suite.extras import require

if TYPE_CHECKING:
    from suite.hub.offers import Offer


class Pulled(msgspec.Struct, frozen=True, kw_only=True):
    """What `suite pull --json` prints."""

    model_id: str
    repository: str
    files: tuple[str, ...]
    """The paths of its files."""
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
    from suite.cli.output import json_line, size
    from suite.hub.download import download
    from suite.hub.offers import choose, offers
    from suite.hub.reference import Reference
    from suite.hub.repository import Repository

    reference = Reference.parse(model)
    directory = to or _model_directory(file)
    repository = Repository(reference.repository, revision or reference.revision)
    offer = choose(reference.repository, offers(repository.files()), reference.wanted)
    with _shown(offer, as_json) as on_bytes:
        paths = download(repository, offer.files, directory / reference.repository, on_bytes)
    pulled = Pulled(
        model_id=_model_id(paths[0], directory),
        repository=reference.repository,
        files=tuple(str(path.absolute()) for path in paths),
        bytes=offer.bytes,
        sha256=tuple(each.sha256 for each in offer.files),
    )
    if as_json:
        json_line(pulled)
        return
    click.echo(f"{pulled.model_id} is in {paths[0].parent} ({size(offer.bytes)}, {_checked(offer)})")
    click.echo(f"next: suite {arguments('run', pulled.model_id)}")


def _model_directory(file: Path | None) -> Path:
    """The first model directory of the settings that is no other program's. Raises InvalidRequest."""
    require("serve", "suite pull without --to")
    from suite.catalogue.stores import is_of_a_store
    from suite.config import load_settings

    named = load_settings(file).models_directories
    directories = [path for path in named if not is_of_a_store(path.absolute())]
    if not directories:
        raise InvalidRequest("all model directories are those of other programs: say where with --to")
    return directories[0]


def _model_id(path: Path, directory: Path) -> str:
    """The id that a service gives the file; a file of the same name that was there has the plain one."""
    from suite.engine.gguf.file import split_name

    split = split_name(path.name)
    plain = path.stem if split is None else split[0]
    others = any(other != path for other in directory.rglob(path.name))
    return f"{path.parent.name}/{plain}" if others else plain


def _checked(offer: Offer) -> str:
    if all(file.sha256 for file in offer.files):
        return "SHA-256 checked"
    return "only its size checked: the hub has no SHA-256 of it"


@contextmanager
def _shown(offer: Offer, as_json: bool) -> Iterator[Callable[[int], None]]:
    """Show the progress on a terminal, and how to go on when it is interrupted."""
    from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

    from suite.cli.output import progress, size

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
