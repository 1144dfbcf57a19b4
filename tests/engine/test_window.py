"""Running sequences next to each other: gaps are closed where that pays, and nothing else is moved."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from suite.engine.window import Exchange, closing

layouts = st.dictionaries(st.integers(0, 15), st.integers(1, 300), min_size=1, max_size=16)
lengths = st.lists(st.integers(0, 100), min_size=16, max_size=16)


def gaps(sequences: Mapping[int, int]) -> int:
    return sum(right > left + 1 for left, right in pairwise(sorted(sequences)))


class Places:
    """Sequences of some length; to move one costs a step a token."""

    def __init__(self, running: Mapping[int, int], lengths: list[int]) -> None:
        self.running = dict(running)
        self.lengths = list(lengths)
        self.paid = 0.0

    def cost(self, first: int, second: int) -> float:
        return self.lengths[first] + self.lengths[second]

    def exchange(self, first: int, second: int) -> None:
        self.paid += self.cost(first, second)
        assert first in self.running and second not in self.running
        self.running[second] = self.running.pop(first)
        held = self.lengths
        held[first], held[second] = held[second], held[first]

    def settle(self) -> None:
        while exchanges := closing(self.running, self.cost):
            before = gaps(self.running)
            for each in exchanges:
                self.exchange(*each)
            assert gaps(self.running) < before, "it comes to an end"


@given(layouts, lengths)
def test_no_gap_is_left_where_one_move_from_an_edge_pays(running: dict[int, int], lengths: list[int]) -> None:
    places = Places(running, lengths)
    places.settle()
    assert sorted(places.running.values()) == sorted(running.values())
    assert sorted(places.lengths) == sorted(lengths)
    first, last = min(places.running), max(places.running)
    for free in range(first + 1, last):
        if free in places.running or not {free - 1, free + 1} <= set(places.running):
            continue
        for edge in (first, last):
            left = max(steps for sequence, steps in places.running.items() if sequence < free)
            right = max(steps for sequence, steps in places.running.items() if sequence > free)
            assert places.cost(edge, free) >= min(left, right, places.running[edge])


@given(layouts, lengths)
def test_what_costs_nothing_leaves_no_gap_and_what_costs_too_much_moves_nothing(
    running: dict[int, int], lengths: list[int]
) -> None:
    places = Places(running, [0] * 16)
    places.settle()
    assert not gaps(places.running)
    assert not closing(running, lambda *_: 300.0)


@given(layouts, lengths)
def test_moving_costs_less_than_the_splits_that_it_avoids(
    running: dict[int, int], lengths: list[int]
) -> None:
    """Where all run for the same time, so that no gap opens later."""
    steps = max(running.values())
    places = Places(dict.fromkeys(running, steps), lengths)
    places.settle()
    assert places.paid + gaps(places.running) * steps <= gaps(running) * steps


def test_the_cheapest_edge_moves_into_the_gap() -> None:
    tokens = {0: 700, 1: 20, 3: 20, 4: 64}
    assert closing(dict.fromkeys(tokens, 1000), lambda first, _: tokens[first]) == [Exchange(4, 2)]
    assert closing(dict.fromkeys(tokens, 50), lambda first, _: tokens[first]) == []


def test_a_sequence_that_is_about_to_end_does_not_move_into_a_gap_that_lasts() -> None:
    assert closing({0: 100, 1: 100, 3: 100, 4: 2}, lambda *_: 5) == [Exchange(0, 2)]


def test_all_of_one_side_move_where_a_gap_is_wider_than_they_are_many() -> None:
    assert closing({0: 9, 5: 9, 6: 9, 7: 9}, lambda *_: 1) == [Exchange(0, 4)]
