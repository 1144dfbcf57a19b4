"""Which rows of a table fit into a terminal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from suite.cli.layout import GAP, laid_out

COLUMNS = ("id", "value>", "text")

cells = st.text(st.sampled_from("ab1 日ü"), max_size=40)


@given(st.lists(st.tuples(cells, cells, cells), max_size=12), st.integers(1, 150))
def test_what_is_in_columns_fits_and_is_whole(rows: list[tuple[str, ...]], room: int) -> None:
    widths, beside = laid_out(COLUMNS, rows, room=room)
    assert not beside or sum(widths) + GAP * (len(COLUMNS) - 1) <= room
    for row in beside:
        *ids, text = rows[row]
        assert all(cell_len(cell) <= width for cell, width in zip(ids, widths[:-1], strict=True))
        assert all(cell_len(word) <= widths[-1] for word in text.split(" "))


@given(st.lists(st.tuples(cells, cells, cells), max_size=12))
def test_in_a_pipe_everything_is_in_columns(rows: list[tuple[str, ...]]) -> None:
    widths, beside = laid_out(COLUMNS, rows, room=None)
    assert beside == set(range(len(rows)))
    assert all(cell_len(rows[row][2]) <= widths[2] for row in beside)


def test_one_wide_row_of_many_leaves_the_others_in_columns() -> None:
    rows = [("short", "1", "") for _ in range(7)]
    assert laid_out(COLUMNS, [*rows, ("x" * 200, "1", "")], room=40).beside == set(range(7))
    assert laid_out(COLUMNS, [*rows[:1], ("x" * 200, "1", "")], room=40).beside == set()


def test_a_last_column_of_numbers_is_not_broken() -> None:
    rows = [("a" * 20, "b", "1 000 000 000 000 000 000 000 000 000 000 000")] * 2
    assert laid_out(("id", "b", "n>"), rows, room=60).beside == set()
    assert laid_out(("id", "b", "text"), rows, room=60).widths[-1] == 60 - 20 - 1 - 2 * GAP
