"""JSON as it goes out, and what can go out."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

Integer: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
"""An integer that can be sent on: a larger one can be read, but not written."""

encode = msgspec.json.Encoder().encode
