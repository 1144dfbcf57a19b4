"""How long a model stays loaded, as Ollama's clients say it: in seconds, or as ``5m`` or ``1h30m``."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from suite.errors import InvalidRequest
from suite.gateway.generations import Fields

Stay: TypeAlias = float | Literal["forever", "now"]
"""As the service takes it."""

_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_DURATION: Final = re.compile(rf"-?(?:{_PART.pattern})+")
_NUMBER: Final = re.compile(r"-?\d+(?:\.\d+)?")
_LONGEST: Final = 1e9


class KeepAliveRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The base of all requests that load a model if necessary. Unknown fields are ignored."""

    model: Annotated[str, Meta(min_length=1)]
    keep_alive: float | str | None = None

    @property
    def stay(self) -> Stay | None:
        """How long the model stays loaded; None: as it is. Raises InvalidRequest."""
        return None if self.keep_alive is None else stay(self.keep_alive)

    @property
    def wishes(self) -> Fields:
        """The fields for the service that may need rights. Raises InvalidRequest."""
        return {"keep_alive": self.stay}


def stay(keep_alive: float | str) -> Stay:
    """The time that a model stays. Raises InvalidRequest for what is no duration."""
    seconds = keep_alive if isinstance(keep_alive, int | float) else _seconds(keep_alive.strip())
    if seconds < 0 or seconds > _LONGEST:
        return "forever"
    return seconds or "now"


def _seconds(text: str) -> float:
    if _NUMBER.fullmatch(text):
        return float(text)
    if not _DURATION.fullmatch(text):
        raise InvalidRequest(
            f"keep_alive: {text!r} is no duration: send seconds, or one such as 5m", param="keep_alive"
        )
    length = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))
    return -length if text.startswith("-") else length
