"""Takes credentials out of texts before they are logged or reported.

This is the second net: nothing that logs or reports an error puts a credential into its text. Texts of others
may have some nevertheless, such as what the library of a server says about its address.
"""

from __future__ import annotations

import re
from typing import Final

HIDDEN: Final = "***"

_PATTERNS: Final = (
    # The user and the password in a URL.
    (re.compile(r"://[^\s/@]+@"), f"://{HIDDEN}@"),
    # The value of an Authorization header.
    (re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), rf"\1 {HIDDEN}"),
    # Keys of the gateway, and those of other services of this form.
    (re.compile(r"\bsk-[A-Za-z0-9_-]{8,}"), f"sk-{HIDDEN}"),
    # `password=...`, as in a query of a URL or a variable, and `"password": "..."`, as in JSON.
    (
        re.compile(r"((?:password|passwd|secret|token|api[_-]?key)=)[^\s&;,'\"]+", re.IGNORECASE),
        rf"\1{HIDDEN}",
    ),
    (
        re.compile(
            r"([\"'](?:\w*password|secret|token|api[_-]?key|authorization)[\"']\s*:\s*[\"'])[^\"']+",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
)


def redacted(text: str) -> str:
    """The text with `***` in place of what looks like a password, a key or a token."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text
