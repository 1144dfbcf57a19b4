"""Texts to go on with: all different, and the same for every side."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from functools import cache

WORDS = [
    *("house", "water", "light", "river", "stone", "paper", "music", "garden", "winter", "summer", "morning"),
    *("window", "street", "market", "bridge", "mountain", "forest", "island", "letter", "picture", "table"),
    *("silver", "golden", "quiet", "heavy", "broken", "hidden", "ancient", "simple", "distant", "green"),
    *("white", "black", "little", "great", "young", "open", "empty", "warm", "cold"),
]
"""Each is one token of most vocabularies."""


def scene(seed: str, words: int) -> str:
    """So many words, in no order."""
    return " ".join(random.Random(seed).choices(WORDS, k=words))


_BEGINS = iter(random.Random(0).sample(pairs := list(itertools.permutations(WORDS, 2)), len(pairs)))


@cache
def openings(seed: str, count: int) -> Sequence[str]:  # noqa: ARG001  # what the cache goes by
    """Beginnings of stories, of about 35 tokens: the same for the same seed, and no two alike in a run.

    They differ from the second word on at the latest, or servers would find one in what they keep of another.
    """
    begins = itertools.islice(_BEGINS, count)
    return [
        f"{first.capitalize()} and {second} were the words that the old lighthouse keeper had written on the "
        "wall. Every evening he climbed the stairs, looked at the sea, and thought about"
        for first, second in begins
    ]
