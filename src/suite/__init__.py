"""A fleet of local GGUF models behind NATS, with every fact in one log.

`connect` opens a client; see `suite.client`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from suite.version import __version__ as __version__

if TYPE_CHECKING:
    from suite.client import connect as connect


def __getattr__(name: str) -> object:
    # Imported when asked for: processes of the suite that are no clients do not pay for it.
    if name == "connect":
        from suite.client import connect

        return connect
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
