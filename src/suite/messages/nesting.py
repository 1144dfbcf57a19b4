"""How deeply JSON may be nested: much less than any of its readers can follow.

Those count the levels on the stack of who calls them, some thousand with all that is there already. So at
their limit one can read what another can neither write nor read again, and an event would be in the log of
which a part of its readers knows nothing.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Final

from suite.errors import InvalidJson

MOST_LEVELS: Final = 200

_BRACKETS_AND_QUOTES: Final = b'[]{}"'
_OTHERS: Final = bytes({*range(256)} - {*_BRACKETS_AND_QUOTES})
_BRACES_AS_BRACKETS: Final = bytes.maketrans(b"{}", b"[]")
_STEPS: Final = {ord("["): 1, ord("]"): -1}


def check_nesting(body: bytes) -> None:
    """Check how deeply objects and lists stand in each other in a body that is JSON. Raises InvalidJson."""
    if body.count(b"{") + body.count(b"[") > MOST_LEVELS and _levels(body) > MOST_LEVELS:
        raise InvalidJson(
            f"the JSON is nested too deeply: send {MOST_LEVELS} levels at most, objects and lists counted"
        )


def _levels(body: bytes) -> int:
    """How many levels there are. Nobody else is answered meanwhile: what can be is done without a loop."""
    unescaped = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    # What stands in texts is left out: of two quotes beside each other each ends what the other begins.
    marks = unescaped.translate(_BRACES_AS_BRACKETS, delete=_OTHERS).replace(b'""', b"")
    brackets = b"".join(marks.split(b'"')[::2])
    outer = brackets.replace(b"[]", b"")  # much less, if many stand beside each other
    inner = 1 if brackets else 0
    return inner + max(accumulate(map(_STEPS.__getitem__, outer)), default=0)
