"""Output: tables and progress bars for people, JSON for programs, and generated text as it arrives."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

GIBIBYTE = 1 << 30
MEBIBYTE = 1 << 20


def json_line(value: Any) -> None:
    """Print a value as JSON on one line."""
    click.echo(msgspec.json.encode(value))
    sys.stdout.flush()


def text(piece: str) -> None:
    """Print a piece of generated text at once.

    On a terminal control characters are removed, so that generated text cannot control the terminal.
    """
    if sys.stdout.isatty():
        piece = "".join(letter for letter in piece if letter.isprintable() or letter in "\n\t")
    click.echo(piece, nl=False)
    sys.stdout.flush()


def note(message: str) -> None:
    """Print a remark on stderr, if that is a terminal."""
    if sys.stderr.isatty():
        click.secho(message, err=True, dim=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None) -> None:
    """Print a table. Columns whose name ends with ``>`` are right-aligned. In a pipe nothing is cut."""
    console = Console(highlight=False)
    drawn = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        drawn.add_column(
            column.removesuffix(">"), justify="right" if column.endswith(">") else "left", no_wrap=True
        )
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    if not console.is_terminal:
        console.width = 1000
    console.print(drawn)


class Bar:
    """A progress bar on stderr, which appears with the first progress."""

    def __init__(self, doing: str, *, shown: bool = True) -> None:
        self._doing = doing
        self._shown = shown
        self._progress: Progress | None = None

    def advance(self, fraction: float) -> None:
        """Show this fraction, 0 to 1."""
        if not self._shown:
            return
        if self._progress is None:
            console = Console(stderr=True)
            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f} %"),
                TimeElapsedColumn(),
                console=console,
            )
            self._progress.add_task(self._doing, total=1.0)
            self._progress.start()
        self._progress.update(self._progress.task_ids[0], completed=fraction)

    def close(self) -> None:
        """Stop drawing, so that text printed afterwards is not overwritten."""
        if self._progress is not None:
            self._progress.stop()

    def __enter__(self) -> Bar:
        """Nothing is drawn yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()


def short(content: str | None, letters: int = 60) -> str:
    """The start of a text, on one line."""
    words = " ".join((content or "")[: letters * 4].split())
    return words if len(words) <= letters else f"{words[: letters - 1]}…"


def more(cursor: str | None) -> None:
    """Tell that there are more rows than those shown."""
    if cursor is not None:
        note("there are more: see --limit, --since and --until")


def local_time(time: str) -> str:
    """Format a time of a reply in the local time zone."""
    return datetime.fromisoformat(time).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def number(value: float | None) -> str:
    """Format a number of any size in few digits; empty for None."""
    return "" if value is None else f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def change(value: float) -> str:
    """Format a change, with its sign."""
    return f"{value:+.3g}"


def size(count: int) -> str:
    """Format a number of bytes for people."""
    return f"{count / GIBIBYTE:.2f} GiB" if count >= GIBIBYTE else f"{count / MEBIBYTE:.1f} MiB"


def duration(milliseconds: float) -> str:
    """Format a duration for people."""
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    if milliseconds < 120_000:
        return f"{milliseconds / 1000:.2f} s"
    minutes = milliseconds / 60_000
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
