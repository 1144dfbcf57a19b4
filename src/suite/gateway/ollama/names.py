"""Names of models as Ollama's clients send them: with a default tag, which ids here do not have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, TypeVar

import msgspec

_DEFAULT_TAG: Final = ":latest"


class _Named(Protocol):
    @property
    def model(self) -> str: ...


T = TypeVar("T", bound=_Named)


def reader(kind: type[T]) -> Callable[[bytes], T]:
    """A function that reads requests of this type, whose model has its id here afterwards."""
    decode = msgspec.json.Decoder(kind).decode

    def read(body: bytes) -> T:
        asked = decode(body)
        return msgspec.structs.replace(asked, model=asked.model.removesuffix(_DEFAULT_TAG))  # type: ignore[type-var]

    return read
