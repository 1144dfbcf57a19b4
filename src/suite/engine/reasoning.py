"""What a model thinks before its answer: which markers it puts around it, and how to tell it apart.

The markers stand in the model's chat template or in its vocabulary. A template may have opened the reasoning
already, at the end of the prompt; then the answer begins within it.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec


class ReasoningFormat(msgspec.Struct, frozen=True, kw_only=True):
    """The markers of one family of models."""

    start: str
    end: str
    headers: tuple[str, ...] = ()
    """What may stand before the answer proper, and is no part of it."""

    @property
    def names(self) -> tuple[str, ...]:
        """The markers as they may stand in a text."""
        return (self.start.strip(), self.end)

    def opens(self, prompt: str) -> bool:
        """Whether a prompt ends within the reasoning, right after its beginning."""
        return prompt.rstrip().endswith(self.start.rstrip())

    def is_open_in(self, said: str) -> bool:
        """Whether what an assistant has said so far ends within its reasoning."""
        return said.rfind(self.start.strip()) > said.rfind(self.end)


FORMATS = (
    ReasoningFormat(start="<think>", end="</think>"),
    ReasoningFormat(start="[THINK]", end="[/THINK]"),
    ReasoningFormat(start="<|START_THINKING|>", end="<|END_THINKING|>"),
    ReasoningFormat(start="<seed:think>", end="</seed:think>"),
    ReasoningFormat(start="<mm:think>", end="</mm:think>"),
    ReasoningFormat(start="<|inner_prefix|>", end="<|inner_suffix|>"),
    ReasoningFormat(start="<|channel>thought\n", end="<channel|>"),
    ReasoningFormat(
        start="<|channel|>analysis<|message|>",
        end="<|end|>",
        headers=("<|start|>assistant<|channel|>final<|message|>", "<|channel|>final<|message|>"),
    ),
)
"""Those of DeepSeek, Qwen and many more; Mistral; Cohere; Seed; MiniMax; Apertus; Gemma 4; gpt-oss."""


def format_of(template: str, tokens: Collection[str]) -> ReasoningFormat | None:
    """The format of a model by its chat template and the names of its special tokens; None: it has none."""
    for known in FORMATS:
        if all(name in template or name in tokens for name in known.names):
            return known
    return None
