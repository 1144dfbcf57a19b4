"""Grammars of the numbers between two bounds, digit by digit.

Such a number is written without an exponent, and with six decimals at most, or as many as its bounds have.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

LARGEST = 10**15 - 1
"""The largest bound that a grammar follows: every reader keeps so many digits exactly."""
_DECIMALS = 6
_MOST_DECIMALS = 15


def can_be_followed(bound: Decimal) -> bool:
    """Whether a grammar can be written for a number with this bound."""
    return abs(bound) <= LARGEST and _decimals_of(bound) <= _MOST_DECIMALS


def step(*bounds: Decimal) -> Decimal:
    """The smallest difference between two numbers that are written within these bounds."""
    return Decimal(1).scaleb(-max(_DECIMALS, *map(_decimals_of, bounds), 0))


def integers(low: int, high: int) -> str:
    """The GBNF of the integers from `low` to `high`."""
    signed = _signed(Decimal(low), Decimal(high))
    return _either(f"{sign}{_whole(int(first), int(last))}" for sign, first, last in signed)


def decimals(low: Decimal, high: Decimal) -> str:
    """The GBNF of the numbers from `low` to `high`."""
    places = _decimals_of(step(low, high))
    signed = _signed(low, high)
    return _either(f"{sign}{_decimal(first, last, places)}" for sign, first, last in signed)


def _decimals_of(number: Decimal) -> int:
    return max(0, -int(number.normalize().as_tuple().exponent))


def _signed(low: Decimal, high: Decimal) -> Iterator[tuple[str, Decimal, Decimal]]:
    """The sign, and the bounds of what follows it."""
    if high >= 0:
        yield "", max(low, Decimal(0)), high
    if low < 0:
        yield '"-" ', max(-high, Decimal(0)), -low


def _either(alternatives: Iterator[str]) -> str:
    return f"({' | '.join(alternatives)})"


def _whole(low: int, high: int) -> str:
    """Integers that are not negative, without leading zeros."""
    alternatives = ['"0"'] if low == 0 else []
    low = max(low, 1)
    lengths = [n for n in range(len(str(low)), len(str(high)) + 1) if low <= high]
    full = [n for n in lengths if low <= 10 ** (n - 1) and 10**n - 1 <= high]
    alternatives += [
        _digits(str(max(low, 10 ** (n - 1))), str(min(high, 10**n - 1))) for n in lengths if n not in full
    ]
    if full:
        alternatives.append(f"[1-9] [0-9]{{{full[0] - 1},{full[-1] - 1}}}")
    return _either(iter(alternatives))


def _decimal(low: Decimal, high: Decimal, places: int) -> str:
    """Numbers that are not negative."""
    first, last = int(low), int(high)
    if first == last:
        return f'"{first}" {_fraction(low - first, high - first, places)}'
    between = [f'{_whole(first + 1, last - 1)} ("." [0-9]{{1,{places}}})?'] if last - first > 1 else []
    ends = [
        f'"{first}" {_fraction(low - first, 1 - Decimal(1).scaleb(-places), places)}',
        f'"{last}" {_fraction(Decimal(0), high - last, places)}',
    ]
    return _either(iter([*between, *ends]))


def _fraction(low: Decimal, high: Decimal, places: int) -> str:
    """The decimal point and what may follow it, from `low` to `high`, which are from 0 to below 1."""
    if low == 0 and high == 1 - Decimal(1).scaleb(-places):
        return f'("." [0-9]{{1,{places}}})?'
    alternatives = ['""'] if low == 0 else []
    for count in range(1, places + 1):
        first = int(low.scaleb(count).to_integral_value(ROUND_CEILING))
        last = int(high.scaleb(count).to_integral_value(ROUND_FLOOR))
        if first <= last:
            alternatives.append(f'"." {_digits(str(first).zfill(count), str(last).zfill(count))}')
    return _either(iter(alternatives))


def _digits(low: str, high: str) -> str:
    """Texts of digits of one length, from `low` to `high`."""
    rest = len(low) - 1
    if low == high:
        return f'"{low}"'
    if low.strip("0") == "" and high.strip("9") == "":
        return f"[0-9]{{{rest + 1}}}"
    if rest == 0:
        return f"[{low}-{high}]"
    if low[0] == high[0]:
        return f'"{low[0]}" {_digits(low[1:], high[1:])}'
    first, last, alternatives = int(low[0]), int(high[0]), []
    if low[1:].strip("0"):
        alternatives.append(f'"{first}" {_digits(low[1:], "9" * rest)}')
        first += 1
    if high[1:].strip("9"):
        alternatives.append(f'"{last}" {_digits("0" * rest, high[1:])}')
        last -= 1
    if first <= last:
        alternatives.append(f"[{first}-{last}] [0-9]{{{rest}}}")
    return _either(iter(alternatives))
