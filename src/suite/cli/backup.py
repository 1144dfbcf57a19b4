"""``suite backup`` and ``suite restore``."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import click
import msgspec

from suite.cli.options import Target, data_dir_option, fleet_command, json_option
from suite.extras import require

if TYPE_CHECKING:
    from suite.backup.service import Checked
    from suite.client import Client


class FoldedReadModel(msgspec.Struct, frozen=True, kw_only=True):
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
    read_models: tuple[FoldedReadModel, ...]
    """None of them: it was not checked."""

    @classmethod
    def of(cls, path: Path, checked: Checked) -> Report:
        """The report on a file."""
        manifest = checked.archive.manifest
        return cls(
            file=str(path),
            bytes=path.stat().st_size,
            taken=manifest.taken,
            version=manifest.version,
            messages=manifest.messages,
            last_seq=manifest.last_seq,
            read_models=tuple(
                FoldedReadModel(name=each.name, events=each.events, compared=each.is_compared)
                for each in checked.verified
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

    async def work(client: Client) -> Checked:
        from suite.backup.service import back_up
        from suite.identity import new_id, utc_now

        return await back_up(
            client,
            path,
            beside=target.own_data_dir,
            is_checked=not no_check,
            new_id=new_id,
            now=utc_now,
        )

    _show("wrote", Report.of(path, target.run(work)), as_json=target.as_json)


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
    from suite.backup import service
    from suite.cli.config import load_configured
    from suite.identity import new_id, utc_now

    settings = load_configured(configuration, {"data_dir": data_dir, "nats_url": nats_url}).settings
    run = partial(service.restore, settings, file, new_id=new_id, now=utc_now)
    checked = anyio.run(run, backend_options={"use_uvloop": True})
    _show("restored", Report.of(file, checked), as_json=as_json)


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
