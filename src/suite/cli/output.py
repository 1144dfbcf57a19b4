"""Output: tables and progress bars for people, JSON for programs, and generated text as it arrives."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec
from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from suite.cli.layout import GAP, laid_out
from suite.cli.streams import controls, harmless

if TYPE_CHECKING:
    from suite.messages.signals import Chunk, Waiting


def json_line(value: Any) -> None:
    """Print a value as JSON on one line."""
    click.echo(msgspec.json.encode(value))
    sys.stdout.flush()


def text(piece: str) -> None:
    """Print a piece of generated text at once.

    On a terminal control characters are removed, so that generated text cannot control the terminal.
    """
    if sys.stdout.isatty():
        piece = harmless(piece, instead="")
    click.echo(piece, nl=False)
    sys.stdout.flush()


class AnswerPrinter:
    """Prints an answer as it comes. What the model thinks before it goes to stderr, if that is a terminal."""

    def __init__(self) -> None:
        self._thinks = False

    def add(self, chunk: Chunk) -> None:
        """Print a piece."""
        if chunk.reasoning and sys.stderr.isatty():
            self._thinks = True
            thought = Text(harmless(chunk.reasoning, instead=""), style="dim")
            console(stderr=True).print(thought, soft_wrap=True, end="")
        if chunk.text:
            self.end_thoughts()
            text(chunk.text)

    def end_thoughts(self) -> None:
        """Go on in a line below what the model thought."""
        if self._thinks:
            console(stderr=True).print("\n")
            self._thinks = False


def note(message: str) -> None:
    """Print a remark on stderr, if that is a terminal."""
    if sys.stderr.isatty():
        console(stderr=True).print(Text(message, style="dim"), soft_wrap=True)


def headline(message: str) -> None:
    """Print a line that stands out on a terminal."""
    console().print(Text(message, style="bold"), soft_wrap=True)


def console(*, stderr: bool = False) -> Console:
    """A stream as rich prints on it. NO_COLOR and TERM=dumb get no escape sequences at all."""
    return Console(
        stderr=stderr,
        width=shutil.get_terminal_size().columns,
        color_system=None if _is_plain() else "auto",
        highlight=False,
        emoji=False,
        markup=False,
    )


def _is_plain() -> bool:
    return bool(os.environ.get("NO_COLOR"))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None) -> None:
    """Print a table. Columns whose name ends with ``>`` are right-aligned.

    Nothing is ever cut. On a terminal that is too narrow, the last column is broken between words if it is
    text; rows that are still too wide become lines of ``name: value``, and so do all if too few would be
    left. A value that is longer than such a line is left to the terminal to break, so that it is copied in
    one piece. In a pipe each row is one line.
    """
    screen = console()
    cells = [[printable(cell) for cell in row] for row in rows]
    if title is not None:
        _print(screen, Text(title, style="bold"))
    layout = laid_out(columns, cells, room=screen.width if screen.is_terminal else None)
    if layout.beside:
        _print_grid(screen, columns, layout.widths, [], header=True)
    for is_beside, group in groupby(range(len(cells)), key=layout.beside.__contains__):
        several = [cells[index] for index in group]
        if is_beside:
            _print_grid(screen, columns, layout.widths, several)
        else:
            for row in several:
                _print_record(screen, [column.removesuffix(">") for column in columns], row)


def facts(title: str, pairs: Sequence[tuple[str, str]], *, numbers: bool = False) -> None:
    """Print what is known of one thing: a name and a value on each line; numbers are right-aligned.

    Values are broken between words where the terminal is narrow, and are never cut.
    """
    screen = console()
    names = max((cell_len(name) for name, _ in pairs), default=0)
    values = max((cell_len(printable(value)) for _, value in pairs), default=0)
    _print(screen, Text(title, style="bold"))
    for name, value in pairs:
        shown = printable(value)
        fill = " " * (values - cell_len(shown)) if numbers else ""
        before = f"{name}{' ' * (names - cell_len(name))}{_GAP}"
        _hang(screen, before, f"{fill}{shown}", indent=" " * cell_len(before))


def folded(line: str, *, indent: int) -> None:
    """Print a line; on a terminal that is too narrow it is broken between words, and indented after that."""
    shown = printable(line)
    margin = len(shown) - len(shown.lstrip())
    _hang(console(), shown[:margin], shown[margin:], indent=" " * indent)


_GAP: Final = " " * GAP
_INDENT: Final = "  "


def _print_grid(
    screen: Console,
    columns: Sequence[str],
    widths: Sequence[int],
    cells: Sequence[Sequence[str]],
    *,
    header: bool = False,
) -> None:
    """Print rows, or the header of the columns, beside each other."""
    drawn = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, show_header=header, header_style="bold")
    for column, width in zip(columns, widths, strict=True):
        justify: JustifyMethod = "right" if column.endswith(">") else "left"
        drawn.add_column(column.removesuffix(">"), justify=justify, width=width)
    for row in cells:
        drawn.add_row(*map(Text, row))
    screen.width = max(screen.width, sum(widths) + GAP * len(widths))
    with screen.capture() as captured:
        screen.print(drawn)
    _write(screen, captured.get())


def _print_record(screen: Console, names: Sequence[str], row: Sequence[str]) -> None:
    """Print a row as ``name: value``, as many on a line as fit; lines after the first are indented."""
    pairs = zip(names, row, strict=True)
    items = [f"{name}: {value}" if name else value for name, value in pairs if value]
    indent, line = "", items[0] if items else ""
    for item in items[1:]:
        if cell_len(f"{indent}{line}{_GAP}{item}") <= screen.width:
            line += f"{_GAP}{item}"
        else:
            _print(screen, Text(f"{indent}{line}"))
            indent, line = _INDENT, item
    _hang(screen, indent, line, indent=2 * _INDENT)  # the last one may be a text of many words


def _hang(screen: Console, before: str, value: str, *, indent: str) -> None:
    """Print a value after what stands before it, broken between words; further lines are indented."""
    if not screen.is_terminal:
        _print(screen, Text(f"{before}{value}"))
        return
    first, *others = value.split(" ")
    line = f"{before}{first}"
    for word in others:
        if cell_len(f"{line} {word}") <= screen.width:
            line += f" {word}"
        elif word:  # a gap of two spaces ends with the line
            _print(screen, Text(line))
            line = f"{indent}{word}"
    _print(screen, Text(line))


def _print(screen: Console, line: Text) -> None:
    """Print a line without breaking it."""
    with screen.capture() as captured:
        screen.print(line, soft_wrap=True)
    _write(screen, captured.get())


def _write(screen: Console, lines: str) -> None:
    """Write lines without the spaces that fill up the last column."""
    screen.file.write("".join(f"{line.rstrip()}\n" for line in lines.splitlines()))
    screen.file.flush()


def printable(cell: str) -> str:
    """A text on one line, in which what would control a terminal is written as ``\\x1b``."""
    return cell if cell.isprintable() else "".join(map(_escaped, cell))


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode() if controls(letter) else letter


def progress(*columns: ProgressColumn, shown: bool = True, transient: bool = False) -> Progress:
    """A display of progress on stderr. Where nothing may be drawn, it prints nothing.

    A transient one vanishes at its end.
    """
    screen = console(stderr=True)
    can_draw = screen.is_terminal and not screen.is_dumb_terminal and not _is_plain()
    return Progress(
        *columns, console=screen, disable=not (shown and can_draw), transient=transient, expand=transient
    )


class Bar:
    """A progress bar on stderr, if that may be drawn on; it appears with the first progress."""

    def __init__(self, doing: str, *, shown: bool = True) -> None:
        self._doing = doing
        self._shown = shown
        self._progress: Progress | None = None

    def advance(self, fraction: float, note: str = "") -> None:
        """Show this fraction, 0 to 1, and what there is to say about it."""
        self._show(f"{self._doing} {note}" if note else self._doing, fraction)

    def wait(self, waiting: Waiting) -> None:
        """Show that it waits for memory, and for what."""
        behind = f" until {', '.join(waiting.waits_for)} can leave" if waiting.waits_for else ""
        self._show(f"{waiting.model_id} waits for memory{behind}, place {waiting.place}", 0.0)

    def _show(self, description: str, fraction: float) -> None:
        if not self._shown:
            return
        if self._progress is None:
            self._progress = progress(
                TextColumn("{task.description}", markup=False, table_column=Column(overflow="fold")),
                BarColumn(None, table_column=Column(ratio=1, max_width=40)),
                TextColumn("{task.percentage:>3.0f} %", table_column=Column(no_wrap=True, min_width=5)),
                TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=7)),
                transient=True,
            )
            self._progress.add_task(self._doing, total=1.0)
            self._progress.start()
        self._progress.update(self._progress.task_ids[0], completed=fraction, description=description)

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
    """The start of a text, on one line; in a pipe all of it. No word and no number in it is cut."""
    words = " ".join((content or "").split())
    if len(words) <= letters or not sys.stdout.isatty():
        return words
    ends = [match.start() for match in re.finditer(r"[\s,;:{}\[\]]", words[:letters])]
    return f"{words[: ends[-1] if ends else 0].rstrip()} …"


def more(cursor: str | None) -> None:
    """Tell that there are more rows than those shown."""
    if cursor is not None:
        note("there are more: see --limit, --since and --until")


def local_time(time: str) -> str:
    """Format a time of a reply in the local time zone."""
    return datetime.fromisoformat(time).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def exact(value: float | None) -> str:
    """Format a number that was given, with all its digits; empty for None."""
    if value is None:
        return ""
    return f"{value:,}".removesuffix(".0")


def number(value: float | None) -> str:
    """Format a number that was computed, to four significant digits or to the unit; empty for None."""
    if value is None:
        return ""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"


def change(value: float) -> str:
    """Format a change, as `number` does but with its sign."""
    return number(value) if value < 0 else f"+{number(value)}"


def parameters(count: int) -> str:
    """Format a model's number of parameters, to three significant digits."""
    rounded = int(float(f"{count:.3g}"))
    for unit, name in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if rounded >= unit:
            return f"{rounded / unit:g} {name}"
    return str(rounded)


def fraction(value: float) -> str:
    """Format how much of something is done; 100 % only when all of it is."""
    return f"{int(value * 100)} %"


def duration(milliseconds: float) -> str:
    """Format a duration for people, to at least two significant digits."""
    if milliseconds < 10:
        return f"{milliseconds:.3g} ms"
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    if milliseconds < 120_000:
        return f"{milliseconds / 1000:.2f} s"
    seconds = round(milliseconds / 1000)
    if seconds < 7200:
        return f"{seconds // 60} min {seconds % 60} s"
    minutes = round(seconds / 60)
    if minutes < 2880:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"
