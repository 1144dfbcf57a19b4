"""A fleet of local GGUF models behind NATS, with every fact in one log.

`connect` opens a client; see `suite.client`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from suite.client import connect as connect

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # Imported when asked for: processes of the suite that are no clients do not pay for it.
    if name == "connect":
        from suite.client import connect

        return connect
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
