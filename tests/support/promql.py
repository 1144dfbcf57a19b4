"""Reads expressions of Prometheus as far as dashboard and alerts use them, and evaluates them over scrapes.

It is stricter than Prometheus where that shows mistakes: an operator or a function that it does not know is
an error, and so is a rate of what is no range, or a quantile of what has no buckets.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple, TypeAlias

from prometheus_client.parser import text_string_to_metric_families

Labels: TypeAlias = frozenset[tuple[str, str]]
Vector: TypeAlias = dict[Labels, float]

_SECONDS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_STALE_SECONDS: Final = 300
_COMPUTE: Final[Mapping[str, Callable[[Sequence[float]], float]]] = {"sum": sum, "count": len}
OF_RANGES: Final = ("rate", "increase")
MAX_OVER_TIME: Final = "max_over_time"
_PRECEDENCE: Final = (("==", ">"), ("*", "/"))
_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<number>\d+(?:\.\d+)?(?![\w.]))
    |(?P<duration>\d+(?:ms|[smhdw]))
    |(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)
    |(?P<text>"(?:[^"\\]|\\.)*")
    |(?P<sign>=~|!~|==|!=|[*/>=(){}\[\],])
    |(?P<end>\Z))""",
    re.VERBOSE,
)


class ExpressionInvalid(Exception):
    """What is no expression, with the place."""


class Matcher(NamedTuple):
    label: str
    operator: str
    value: str

    def fits(self, labels: Mapping[str, str]) -> bool:
        has = labels.get(self.label, "")
        if self.operator in ("=", "!="):
            return (has == self.value) == (self.operator == "=")
        return (re.fullmatch(self.value, has) is not None) == (self.operator == "=~")


@dataclass(frozen=True)
class Number:
    value: float


@dataclass(frozen=True)
class Selector:
    name: str
    matchers: tuple[Matcher, ...]
    seconds: float | None
    """The range; None: the newest value."""


@dataclass(frozen=True)
class Rate:
    function: str
    of: Selector


@dataclass(frozen=True)
class Most:
    of: Selector


@dataclass(frozen=True)
class Quantile:
    share: float
    of: Expression


@dataclass(frozen=True)
class Aggregation:
    operator: str
    by: tuple[str, ...]
    of: Expression


@dataclass(frozen=True)
class Binary:
    operator: str
    left: Expression
    right: Expression


Expression: TypeAlias = Number | Selector | Rate | Most | Quantile | Aggregation | Binary


def parse(text: str) -> Expression:
    """The expression of a text. Raises ExpressionInvalid."""
    parser = _Parser(text)
    expression = parser.binary(0)
    parser.take("end")
    return expression


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(self._read())
        self._at = 0

    def _read(self) -> Iterator[tuple[str, str]]:
        place = 0
        while True:
            match = _TOKEN.match(self._text, place)
            if match is None:
                raise ExpressionInvalid(f"at {place} of {self._text!r}")
            assert match.lastgroup is not None
            yield match.lastgroup, match[match.lastgroup]
            if match.lastgroup == "end":
                return
            place = match.end()

    def peek(self) -> str:
        return self._tokens[self._at][1]

    def take(self, kind: str, *values: str) -> str:
        found, value = self._tokens[self._at]
        if found != kind or (values and value not in values):
            raise ExpressionInvalid(f"{value!r} where {values or kind} is due, in {self._text!r}")
        self._at += 1
        return value

    def has(self, value: str) -> bool:
        if self.peek() != value:
            return False
        self._at += 1
        return True

    def binary(self, level: int) -> Expression:
        if level == len(_PRECEDENCE):
            return self.operand()
        left = self.binary(level + 1)
        while (operator := self.peek()) in _PRECEDENCE[level]:
            self._at += 1
            left = Binary(operator, left, self.binary(level + 1))
        return left

    def operand(self) -> Expression:
        kind, value = self._tokens[self._at]
        if kind == "number":
            self._at += 1
            return Number(float(value))
        if self.has("("):
            inner = self.binary(0)
            self.take("sign", ")")
            return inner
        name = self.take("name")
        if name in _COMPUTE:
            return self.aggregation(name)
        if self.peek() == "(":
            return self.call(name)
        return self.selector(name)

    def aggregation(self, operator: str) -> Expression:
        by = self.names() if self.has("by") else ()
        self.take("sign", "(")
        of = self.binary(0)
        self.take("sign", ")")
        if isinstance(of, Selector) and of.seconds is not None:
            raise ExpressionInvalid(f"{operator} of a range, in {self._text!r}")
        return Aggregation(operator, by, of)

    def names(self) -> tuple[str, ...]:
        self.take("sign", "(")
        names = [self.take("name")]
        while self.has(","):
            names.append(self.take("name"))
        self.take("sign", ")")
        return tuple(names)

    def call(self, function: str) -> Expression:
        self.take("sign", "(")
        if function == "histogram_quantile":
            share = float(self.take("number"))
            self.take("sign", ",")
            of = self.binary(0)
            if not (isinstance(of, Aggregation) and "le" in of.by):
                raise ExpressionInvalid(f"a quantile of what is not summed by le, in {self._text!r}")
            self.take("sign", ")")
            return Quantile(share, of)
        if function not in (*OF_RANGES, MAX_OVER_TIME):
            raise ExpressionInvalid(f"the function {function}, in {self._text!r}")
        selector = self.selector(self.take("name"))
        self.take("sign", ")")
        if selector.seconds is None:
            raise ExpressionInvalid(f"{function} of what is no range, in {self._text!r}")
        return Most(selector) if function == MAX_OVER_TIME else Rate(function, selector)

    def selector(self, name: str) -> Selector:
        matchers: list[Matcher] = []
        if self.has("{"):
            while not self.has("}"):
                label = self.take("name")
                operator = self.take("sign", "=", "!=", "=~", "!~")
                matchers.append(Matcher(label, operator, self.take("text")[1:-1].replace('\\"', '"')))
                if not self.has(","):
                    self.take("sign", "}")
                    break
        seconds: float | None = None
        if self.has("["):
            number, unit = re.fullmatch(r"(\d+)(\w+)", self.take("duration")).groups()  # type: ignore[union-attr]
            seconds = int(number) * _SECONDS[unit]
            self.take("sign", "]")
        return Selector(name, tuple(matchers), seconds)


def selectors(expression: Expression) -> Iterator[tuple[Selector, bool]]:
    """What an expression selects, and whether it is about how that grows."""
    match expression:
        case Selector():
            yield expression, False
        case Rate(of=selector):
            yield selector, True
        case Most(of=selector):
            yield selector, False
        case Quantile(of=inner) | Aggregation(of=inner):
            yield from selectors(inner)
        case Binary(left=left, right=right):
            yield from selectors(left)
            yield from selectors(right)


def grouped_by(expression: Expression) -> Iterator[tuple[Aggregation, Selector]]:
    """Its aggregations, each with all that it is about."""
    match expression:
        case Aggregation(of=inner):
            yield from ((expression, selector) for selector, _ in selectors(inner))
            yield from grouped_by(inner)
        case Quantile(of=inner):
            yield from grouped_by(inner)
        case Binary(left=left, right=right):
            yield from grouped_by(left)
            yield from grouped_by(right)


class Scrapes:
    """What Prometheus would have stored of some scrapes."""

    def __init__(self) -> None:
        self._series: dict[str, dict[Labels, list[tuple[float, float]]]] = {}
        self._found: dict[
            tuple[str, tuple[Matcher, ...]], Sequence[tuple[Labels, list[tuple[float, float]]]]
        ] = {}

    def add(self, at: float, text: str, **target: str) -> None:
        """Store an exposition. `target`: the labels that Prometheus adds."""
        self._found.clear()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = frozenset({**sample.labels, **target}.items())
                self._series.setdefault(sample.name, {}).setdefault(labels, []).append((at, sample.value))

    def evaluate(self, expression: Expression, at: float) -> Vector:
        """The value at a time, as a vector. A number has no labels."""
        match expression:
            case Number(value=value):
                return {frozenset(): value}
            case Selector():
                return {labels: points[-1][1] for labels, points in self._select(expression, at)}
            case Rate(function=function, of=selector):
                return dict(self._rates(function, selector, at))
            case Most(of=selector):
                found = self._select(selector, at)
                return {labels: max(value for _, value in points) for labels, points in found}
            case Aggregation(operator=operator, by=by, of=inner):
                return _aggregated(operator, by, self.evaluate(inner, at))
            case Quantile(share=share, of=inner):
                return dict(_quantiles(share, self.evaluate(inner, at)))
            case Binary(operator=operator, left=left, right=right):
                return _combined(operator, self.evaluate(left, at), self.evaluate(right, at))

    def _select(
        self, selector: Selector, at: float
    ) -> Iterator[tuple[Labels, Sequence[tuple[float, float]]]]:
        since = at - (selector.seconds or _STALE_SECONDS)
        for labels, points in self._fitting(selector):
            inside = points[bisect_left(points, (since,)) : bisect_left(points, (at, math.inf))]
            if inside:
                yield labels, inside

    def _fitting(self, selector: Selector) -> Sequence[tuple[Labels, list[tuple[float, float]]]]:
        """The series that a selector is about, which are looked for once."""
        if (selector.name, selector.matchers) not in self._found:
            self._found[selector.name, selector.matchers] = [
                (labels, points)
                for labels, points in self._series.get(selector.name, {}).items()
                if all(each.fits(dict(labels)) for each in selector.matchers)
            ]
        return self._found[selector.name, selector.matchers]

    def _rates(self, function: str, selector: Selector, at: float) -> Iterator[tuple[Labels, float]]:
        assert selector.seconds is not None
        for labels, points in self._select(selector, at):
            if len(points) < 2:
                continue
            grown = sum(
                after[1] - before[1] if after[1] >= before[1] else after[1]
                for before, after in pairwise(points)
            )
            rate = grown / (points[-1][0] - points[0][0])
            yield labels, rate if function == "rate" else rate * selector.seconds


def _aggregated(operator: str, by: Iterable[str], vector: Vector) -> Vector:
    groups: dict[Labels, list[float]] = {}
    for labels, value in vector.items():
        group = frozenset(each for each in labels if each[0] in by)
        groups.setdefault(group, []).append(value)
    return {group: _COMPUTE[operator](values) for group, values in groups.items()}


def _quantiles(share: float, buckets: Vector) -> Iterator[tuple[Labels, float]]:
    groups: dict[Labels, list[tuple[float, float]]] = {}
    for labels, count in buckets.items():
        bound = float(dict(labels)["le"])
        group = frozenset(each for each in labels if each[0] != "le")
        groups.setdefault(group, []).append((bound, count))
    for group, counts in groups.items():
        yield group, _quantile(share, sorted(counts))


def _quantile(share: float, counts: Sequence[tuple[float, float]]) -> float:
    """Within a bucket, values are taken to lie evenly, as Prometheus does."""
    wanted = share * counts[-1][1]
    if not wanted:
        return math.nan
    low, below = 0.0, 0.0
    for bound, count in counts:
        if count >= wanted:
            return low if math.isinf(bound) else low + (bound - low) * (wanted - below) / (count - below)
        low, below = bound, count
    raise AssertionError("the last bucket has all")


def _combined(operator: str, left: Vector, right: Vector) -> Vector:
    """One to one by labels; a number goes with all."""
    if list(right) == [frozenset()] and list(left) != [frozenset()]:
        right = dict.fromkeys(left, right[frozenset()])
    elif list(left) == [frozenset()] and list(right) != [frozenset()]:
        left = dict.fromkeys(right, left[frozenset()])
    both = {labels: (left[labels], right[labels]) for labels in left if labels in right}
    match operator:
        case "*":
            return {labels: a * b for labels, (a, b) in both.items()}
        case "/":
            return {labels: a / b if b else math.nan for labels, (a, b) in both.items()}
        case ">":
            return {labels: a for labels, (a, b) in both.items() if a > b}
        case "==":
            return {labels: a for labels, (a, b) in both.items() if a == b}
        case _:
            raise AssertionError(operator)
