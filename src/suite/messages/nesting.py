"""How deeply JSON may be nested: much less than any of its readers can follow.

Those count the levels on the stack of who calls them, some thousand with all that is there already. So at
their limit one can read what another can neither write nor read again, and an event would be in the log of
which a part of its readers knows nothing.
"""

from __future__ import annotations

import re
from itertools import accumulate
from typing import Final

from suite.errors import InvalidJson

MOST_LEVELS: Final = 200

_no_brackets = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[^][{}"]++', re.DOTALL)
_STEPS: Final = tuple({"[": 1, "{": 1, "]": -1, "}": -1}.get(chr(each), 0) for each in range(256))


def check_nesting(body: bytes) -> None:
    """Check how deeply objects and lists stand in each other in a body that is JSON. Raises InvalidJson."""
    if body.count(b"{") + body.count(b"[") > MOST_LEVELS and _levels(body) > MOST_LEVELS:
        raise InvalidJson(
            f"the JSON is nested too deeply: send {MOST_LEVELS} levels at most, objects and lists counted"
        )


def _levels(body: bytes) -> int:
    brackets = _no_brackets.sub(b"", body)
    return max(accumulate(map(_STEPS.__getitem__, brackets)))
