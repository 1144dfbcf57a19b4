"""Decides which rows of a table have their cells beside each other, where there is not room for all."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Final, NamedTuple

from rich.cells import cell_len

GAP: Final = 2
"""Cells between two columns."""
_TEXT_ROOM: Final = 30
"""The fewest cells in which text is still pleasant to read."""
_FOLDED_OF: Final = 4
"""One row of so many may be too wide for the columns that the others have."""


class Layout(NamedTuple):
    """How a table is shown."""

    widths: Sequence[int]
    """Of the columns, in cells."""
    beside: Set[int]
    """The rows whose cells are beside each other, in these columns."""


def laid_out(columns: Sequence[str], cells: Sequence[Sequence[str]], *, room: int | None) -> Layout:
    """As many rows as possible in columns that fit into this room. A room of None is as wide as it takes."""
    sizes = [[cell_len(cell) for cell in row] for row in cells]
    widest = [cell_len(column.removesuffix(">")) for column in columns]
    longest_word = 0
    beside: set[int] = set()
    widths: list[int] = []
    for row in sorted(range(len(cells)), key=lambda each: sum(sizes[each])):
        widest = list(map(max, widest, sizes[row]))
        longest_word = max(longest_word, *map(cell_len, cells[row][-1].split(" ")))
        fitting = _fitting(widest, room, None if columns[-1].endswith(">") else longest_word)
        if fitting is None:  # nor will the rows fit that are wider still
            break
        widths = fitting
        beside.add(row)
    too_few = len(beside) < len(cells) - len(cells) // _FOLDED_OF
    return Layout((), frozenset()) if too_few else Layout(widths, beside)


def _fitting(widths: Sequence[int], room: int | None, longest_word: int | None) -> list[int] | None:
    """The widths with which the columns fit; None if they do not.

    The last column may be narrower than it would like to be: down to its longest word, if it has words.
    """
    if room is None:
        return list(widths)
    left = room - sum(widths[:-1]) - GAP * (len(widths) - 1)
    if widths[-1] <= left:
        return list(widths)
    if longest_word is None or left < max(longest_word, _TEXT_ROOM):
        return None
    return [*widths[:-1], left]
