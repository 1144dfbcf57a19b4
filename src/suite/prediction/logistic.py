"""Logistic regression that learns one example at a time (gradient descent with the rates of Adagrad)."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, sqrt
from operator import mul
from typing import Final

LEARNING_RATE: Final = 0.005
_FIRST_SQUARES: Final = 0.16
"""Keeps the first steps small."""
_LIMIT: Final = 30.0
"""Scores beyond it are certainties; it keeps `exp` in its range."""


def chance(score: float) -> float:
    """The probability of a score (its log odds)."""
    if score > _LIMIT:
        score = _LIMIT
    elif score < -_LIMIT:
        score = -_LIMIT
    return 1.0 / (1.0 + exp(-score))


class OnlineLogistic:
    """Learns the probability of a yes from small numbers, such as logarithms. At first it says one half."""

    __slots__ = ("_rate", "_squares", "weights")

    def __init__(self, features: int, *, rate: float = LEARNING_RATE) -> None:
        self.weights = [0.0] * features
        self._squares = [_FIRST_SQUARES] * features
        """Of each weight, the sum of the squares of its gradients."""
        self._rate = rate

    def score(self, features: Sequence[float]) -> float:
        """The log odds of a yes."""
        return sum(map(mul, self.weights, features), 0.0)

    def learn(self, features: Sequence[float], answer: bool) -> None:
        """Correct the weights by one example whose answer has become known."""
        error = chance(self.score(features)) - answer
        squares, weights, rate = self._squares, self.weights, self._rate
        for index, feature in enumerate(features):
            gradient = error * feature
            squares[index] = square = squares[index] + gradient * gradient
            weights[index] -= rate * gradient / sqrt(square)
