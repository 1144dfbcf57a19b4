"""Fields of a GenerateTextRequest that several dialects make."""

from __future__ import annotations

from typing import Any, Final

MOST_TOKENS: Final = 2**31 - 1
"""More than any context has room for: the ``max_tokens`` of an answer whose request says nothing of it."""


def function_tool(
    *, name: str | None, description: str | None, parameters: dict[str, Any] | None, strict: bool | None
) -> dict[str, Any]:
    """A function that the model may call, as the service takes it."""
    given = {"name": name, "description": description, "parameters": parameters, "strict": strict}
    return {
        "type": "function",
        "function": {name: value for name, value in given.items() if value is not None},
    }
