"""Takes credentials out of texts before they are logged or reported.

This is the second net: nothing that logs or reports an error puts a credential into its text. Texts of others
may have some nevertheless, such as what the library of a server says about its address.
"""

from __future__ import annotations

import re
from typing import Final

HIDDEN: Final = "***"

_NAMES: Final = r"passw(?:or)?d|secret|api[_-]?key|authorization|(?:auth|access|refresh|api|hf)[_-]token"
"""Ends of names of what is secret. A `token` alone is that in some places only: models have tokens too."""

# Each begins where no long run of letters has to be tried again from its next letter.
_PATTERNS: Final = (
    # The user and the password in a URL; a password may have an `@`.
    (re.compile(r"://[^\s/@]+@(?:[^\s/@\"'<>]+@)*"), f"://{HIDDEN}@"),
    # An Authorization header, whatever its scheme.
    (
        re.compile(
            r"(\bauthorization[\"']?[ \t]*[:=][ \t]*[\"']?)(?:[a-z][\w-]*[ \t]+)?[^\s\"',;]+", re.IGNORECASE
        ),
        rf"\1{HIDDEN}",
    ),
    # The value of one by itself.
    (re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), rf"\1 {HIDDEN}"),
    # Keys of the gateway, and those of other services of this form.
    (re.compile(r"\bsk-[A-Za-z0-9_-]{8,}"), f"sk-{HIDDEN}"),
    # Tokens of the Hugging Face Hub.
    (re.compile(r"\bhf_[A-Za-z0-9]{20,}"), f"hf_{HIDDEN}"),
    # JSON Web Tokens, as files with credentials of NATS have one, and the seeds of keys there.
    (re.compile(r"(?<![\w-])eyJ[\w-]{8,}(?:\.[\w-]+){1,2}"), HIDDEN),
    (re.compile(r"\bS[A-Z][A-Z2-7]{50,}\b"), HIDDEN),
    # `password=...`, as in a query of a URL or a variable.
    (re.compile(rf"((?:{_NAMES}|token)=)[^\s&;,'\"]+", re.IGNORECASE), rf"\1{HIDDEN}"),
    # `"password": "..."`, as in JSON.
    (
        re.compile(rf"([\"'](?:[\w-]*(?:{_NAMES})|token)[\"']\s*:\s*[\"'])[^\"']+", re.IGNORECASE),
        rf"\1{HIDDEN}",
    ),
    # `password: ...`, as in YAML or a header.
    (re.compile(rf"((?:{_NAMES})[ \t]?:[ \t]*)[^\s\"']+", re.IGNORECASE), rf"\1{HIDDEN}"),
    # `--password ...`, as on a command line.
    (
        re.compile(rf"((?<![\w-])--[\w-]*?(?:{_NAMES}|token)[ \t]+)(?!-)[^\s\"']+", re.IGNORECASE),
        rf"\1{HIDDEN}",
    ),
)


def redacted(text: str) -> str:
    """The text with `***` in place of what looks like a password, a key or a token."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text
