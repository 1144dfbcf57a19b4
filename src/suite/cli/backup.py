"""``suite backup`` and ``suite restore``."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import click
import msgspec

from suite import data_directory
from suite.cli.options import Target, data_dir_option, fleet_command, json_option
from suite.errors import InvalidConfiguration, LogExists
from suite.extras import require

if TYPE_CHECKING:
    from collections.abc import Iterator

    from suite.backup.archive import Archive
    from suite.client import Client
    from suite.config import Settings
    from suite.projections.verification import Verified


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """A read model that was folded from a backup."""

    name: str
    events: int
    compared: bool
    """Whether the service's own one was there, and has the same rows."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A backup that was taken or restored."""

    file: str
    bytes: int
    taken: datetime
    version: str
    messages: int
    last_seq: int
    read_models: tuple[Checked, ...]
    """None of them: it was not checked."""

    @classmethod
    def of(cls, path: Path, archive: Archive, verified: Sequence[Verified]) -> Report:
        """The report on a file."""
        manifest = archive.manifest
        return cls(
            file=str(path),
            bytes=path.stat().st_size,
            taken=manifest.taken,
            version=manifest.version,
            messages=manifest.messages,
            last_seq=manifest.last_seq,
            read_models=tuple(
                Checked(name=each.name, events=each.events, compared=each.is_compared) for each in verified
            ),
        )


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--no-check", is_flag=True, help="Write it without restoring and folding it.")
@fleet_command
def backup(target: Target, file: Path, no_check: bool) -> None:
    """Copy the log into FILE while the service runs, and check the copy.

    FILE has every event that was acknowledged before; if it is a directory, the file in it is named by the
    time. To check it, it is restored into a temporary directory and folded. If the service's data directory
    is on this machine, its read models must have the same rows. Passwords are not in it: keep
    credentials.json apart. It needs the right to read the log.

    \b
    Examples:
      suite backup suite.backup
      suite backup . --json
    """
    if not no_check:
        require("serve", "checking a backup (--no-check writes it unchecked)")
    path = file / f"suite-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.backup" if file.is_dir() else file

    async def work(client: Client) -> Report:
        return await _taken(client, path, beside=target.own_data_dir, is_checked=not no_check)

    _show("wrote", target.run(work), as_json=target.as_json)


async def _taken(client: Client, path: Path, *, beside: Path | None, is_checked: bool) -> Report:
    """Take a backup, which gets its name when it is checked. `beside`: the data directory of a node."""
    from suite.backup import archive, taking
    from suite.identity import utc_now

    with tempfile.TemporaryDirectory(prefix="suite-backup-") as directory:
        copies = await _copied(beside, Path(directory)) if is_checked else {}
        part = await taking.take(client, path, ids=_ids(beside), now=utc_now)
        try:
            written = await archive.Archive.open(part)
            verified = await _checked(written, copies) if is_checked else ()
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    await anyio.to_thread.run_sync(archive.publish, part, path)
    return Report.of(path, written, verified)


async def _copied(beside: Path | None, to: Path) -> dict[str, Path]:
    from suite.projections.verification import copy_read_models

    return {} if beside is None else dict(await anyio.to_thread.run_sync(copy_read_models, beside, to))


async def _checked(archive: Archive, copies: dict[str, Path]) -> Sequence[Verified]:
    from suite.backup.checking import check
    from suite.identity import new_id, utc_now

    return await check(archive, copies, new_id=new_id, now=utc_now)


def _ids(data_dir: Path | None) -> bytes | None:
    if data_dir is None:
        return None
    try:
        return (data_dir / data_directory.IDS).read_bytes()
    except FileNotFoundError:
        return None


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@data_dir_option("Directory for the service, in which there is no log yet.")
@click.option("--nats-url", help="URL of a NATS server without the log.  [default: the node's own server]")
@click.option(
    "--config",
    "configuration",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Configuration file of the service.  [default: none]",
)
@json_option
def restore(
    file: Path, data_dir: Path | None, nats_url: str | None, configuration: Path | None, as_json: bool
) -> None:
    """Make the log from the backup FILE where there is none, and fold it.

    It goes into a data directory, as a node's own server has it, or to a NATS of your own, as the user
    `suite` (SUITE_NATS_USER, SUITE_NATS_PASSWORD). Events keep their sequences and times. Where there is a
    log, or the file was cut off or altered, nothing is changed. Then start the service as always. If the
    data directory has the credentials.json of before, clients come back with their passwords.

    \b
    Examples:
      suite restore suite.backup --data-dir restored
    """
    require("serve", "restoring a backup")
    from suite.cli.config import load_configured

    settings = load_configured(configuration, {"data_dir": data_dir, "nats_url": nats_url}).settings
    report = anyio.run(_restored, settings, file, backend_options={"use_uvloop": True})
    _show("restored", report, as_json=as_json)


async def _restored(settings: Settings, path: Path) -> Report:
    from suite.backup.archive import Archive
    from suite.backup.restoring import restored
    from suite.bus.connection import Connection
    from suite.identity import new_id, utc_now
    from suite.log import Log
    from suite.node.nats_server import reached_nats
    from suite.projections.verification import verify

    archive = await Archive.open(path)
    _require_room(settings, archive)
    with data_directory.held(settings.data_dir), _fold_directory(settings) as directory:
        async with (
            reached_nats(settings) as nats,
            Connection.open(nats.access, name="suite-restore") as connection,
            restored(connection, archive, new_id=new_id),
            Log.open(
                connection, archive.subjects, source="/restore", new_id=new_id, now=utc_now, create=False
            ) as log,
        ):
            verified = await verify(log, directory, {})
        _keep_read_models(directory, settings)
        await _keep_ids(archive, settings.data_dir)
    return Report.of(path, archive, verified)


def _require_room(settings: Settings, archive: Archive) -> None:
    """Raises InvalidConfiguration or LogExists, before anything is started."""
    from suite.bus.store import streams

    if settings.nats.join:
        raise InvalidConfiguration(
            "nodes that join their servers cannot take a backup: restore it for a node alone, or in a NATS "
            "of your own"
        )
    if archive.manifest.subject_root != settings.subject_root:
        raise InvalidConfiguration(
            f"the backup's subjects begin with {archive.manifest.subject_root}: set subject_root to that"
        )
    store = streams(settings.data_dir / "nats" / "jetstream") / archive.subjects.stream
    if settings.nats.url is None and store.exists():
        raise LogExists(
            f"{settings.data_dir} has a log already, and nothing was changed: restore into another "
            "--data-dir, or move its directory nats away"
        )


@contextmanager
def _fold_directory(settings: Settings) -> Iterator[Path]:
    """Where the log is folded: on the disk where the read models are to be."""
    with tempfile.TemporaryDirectory(prefix="restore-", dir=settings.data_dir) as directory:
        yield Path(directory)


def _keep_read_models(directory: Path, settings: Settings) -> None:
    """Spare the first start the fold. What a node finds of another log, it sets aside itself."""
    from suite.projections.projections import FILES, paths

    for projection, kept in paths(settings.data_dir, settings.sqlite_db_path).items():
        if not kept.exists():
            kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.move(directory / FILES[projection], kept)


async def _keep_ids(archive: Archive, data_dir: Path) -> None:
    ids = await archive.content(data_directory.IDS)
    if ids is not None and not (data_dir / data_directory.IDS).exists():
        data_directory.write_private(data_dir / data_directory.IDS, ids)


def _show(what: str, report: Report, *, as_json: bool) -> None:
    from suite.cli.output import json_line
    from suite.explanation.words import counted
    from suite.units import size

    if as_json:
        json_line(report)
        return
    click.echo(
        f"{what} {report.file} ({size(report.bytes)}): {counted(report.messages, 'event')}, "
        f"up to event {report.last_seq}"
    )
    if not report.read_models:
        click.echo("it was not checked: `suite restore` checks it")
        return
    compared = [each.name for each in report.read_models if each.compared]
    click.echo(f"folded the read models {', '.join(each.name for each in report.read_models)}")
    if compared:
        click.echo(f"the service's have the same rows: {', '.join(compared)}")
