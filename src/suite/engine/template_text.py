"""The chat template that a model's settings name."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from suite.errors import InvalidConfiguration

TEMPLATE_FILE_BYTES: Final = 1 << 20


def template_text(configured: str) -> str:
    """The template in a setting, or in the file that the setting names. Raises InvalidConfiguration."""
    if "{{" in configured or "{%" in configured:
        return configured
    try:
        with Path(configured).open("rb") as file:
            content = file.read(TEMPLATE_FILE_BYTES + 1)
        if len(content) > TEMPLATE_FILE_BYTES:
            raise ValueError(f"it has more than {TEMPLATE_FILE_BYTES} bytes")
        return content.decode()
    except (OSError, ValueError) as error:
        raise InvalidConfiguration(
            f"the model's chat_template {configured!r} cannot be read: {error}"
        ) from None
