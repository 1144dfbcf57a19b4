"""How a process traces, which a node tells to the processes of its models, and where its metrics go."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

TraceMode: TypeAlias = Literal["off", "local", "console", "otlp"]
MetricsMode: TypeAlias = Literal["off", "console", "otlp"]
"""``off``: nobody is sent any; ``console``: lines on stderr; ``otlp``: to a collector."""


class TraceSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which spans are recorded, and where they go."""

    mode: TraceMode = "off"
    """``off``; ``local``: only into the store; ``console``: lines on stderr; ``otlp``: to a collector."""
    ratio: float = 1.0
    """The share of new traces that are exported, 0 to 1; a caller's is if the caller says so."""
    slow_seconds: float = 10.0
    """What takes as long is exported all the same, as is what fails."""
    content: bool = False
    """Whether spans have the text of prompts and answers, and of errors."""
    store: str | None = None
    """The directory of the spans that are kept on this machine; None: none are kept."""
    store_bytes: int = 0
    """The most that they may take there."""

    @property
    def keeps_spans(self) -> bool:
        """Whether spans are kept on this machine."""
        return self.mode != "off" and self.store is not None and self.store_bytes > 0
