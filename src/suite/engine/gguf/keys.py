"""Typed access to the values of a GGUF header. Raises Malformed for missing keys and wrong types."""

from __future__ import annotations

import math

from suite.engine.gguf.header import Array, Header, Malformed, SkippedText, Value


class Keys:
    """The keys and values of one file's header."""

    def __init__(self, header: Header) -> None:
        self._values = header.values

    def text(self, key: str, default: str | None = None) -> str:
        """A text. Raises Malformed when the key is missing and there is no default."""
        value = self._get(key, default)
        if isinstance(value, str) and value:
            return value
        raise Malformed(f"its key {key!r} is not a text" if value is not None else f"it has no key {key!r}")

    def optional_text(self, key: str) -> str | None:
        """A text; None when the key is missing, empty, or has more than a megabyte."""
        value = self._get(key)
        if value is None or isinstance(value, SkippedText):
            return None
        if not isinstance(value, str):
            raise Malformed(f"its key {key!r} is not a text")
        return value or None

    def flag(self, key: str, *, default: bool) -> bool:
        """A boolean."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise Malformed(f"its key {key!r} is neither true nor false")
        return value

    def integer(
        self, key: str, default: int | None = None, *, at_least: int | None = None, at_most: int | None = None
    ) -> int:
        """An integer within limits; the default when the key is missing."""
        value = self._get(key, default)
        if value is None:
            raise Malformed(f"it has no key {key!r}")
        return _whole(key, value, at_least=at_least, at_most=at_most)

    def by_layer(
        self, key: str, layers: int, at_most: int, *, default: int | tuple[int, ...] | None
    ) -> tuple[int, ...]:
        """An integer for each layer; files have one number for all layers, or an array."""
        value = self._values.get(key)
        if value is None:
            if default is None:
                raise Malformed(f"it has no key {key!r}")
            return default if isinstance(default, tuple) else (default,) * layers
        if not isinstance(value, Array):
            return (_whole(key, value, at_least=0, at_most=at_most),) * layers
        if value.values is None or value.length != layers:
            raise Malformed(f"its key {key!r} has {value.length} numbers for {layers} layers")
        return tuple(_whole(key, item, at_least=0, at_most=at_most) for item in value.values)

    def array_length(self, key: str, at_most: int) -> int:
        """The length of an array; 0 when the key is missing."""
        value = self._get(key)
        if value is None:
            return 0
        if not isinstance(value, Array):
            raise Malformed(f"its key {key!r} is not an array")
        if value.length > at_most:
            raise Malformed(f"its key {key!r} claims to have {value.length} elements")
        return value.length

    def check_finite(self, prefix: str) -> None:
        """Raise Malformed for NaN or infinity under a prefix: llama.cpp aborts on some of them."""
        for key, value in self._values.items():
            if key.startswith(prefix) and isinstance(value, float) and not math.isfinite(value):
                raise Malformed(f"its key {key!r} is {value}")

    def _get(self, key: str, default: Value | None = None) -> Value | None:
        return self._values.get(key, default)


def _whole(key: str, value: Value, *, at_least: int | None, at_most: int | None) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise Malformed(f"its key {key!r} is not a whole number")
    if (at_least is not None and value < at_least) or (at_most is not None and value > at_most):
        raise Malformed(f"its key {key!r} is {value}, which is impossible")
    return value
