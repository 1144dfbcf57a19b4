"""One of the answers to a request, while it is generated."""

from __future__ import annotations

from collections.abc import Sequence

from suite.engine.generation import Generation
from suite.engine.prompts.tool_calls import extract_tool_calls
from suite.messages.actions.generation import Choice, GenerateTextRequest
from suite.messages.events import Outcome
from suite.messages.logprobs import TokenLogprobs


class PendingChoice:
    """An answer as far as it has come from the engine."""

    def __init__(self, index: int, generation: Generation) -> None:
        self.index = index
        """Counts from 0."""
        self.generation = generation
        self._parts: list[str] = []
        self._logprobs: list[TokenLogprobs] = []

    def add(self, text: str, logprobs: Sequence[TokenLogprobs]) -> None:
        """Add the text and the log probabilities that came next."""
        self._parts.append(text)
        self._logprobs += logprobs

    def finished(self, asked: GenerateTextRequest, generation_id: str, outcome: Outcome) -> Choice:
        """The whole answer, with the calls of tools that it has."""
        text, calls = "".join(self._parts), None
        if asked.tools and asked.tool_choice != "none":
            names = {tool.function.name for tool in asked.tools}
            text, calls = extract_tool_calls(text, names, self._call_prefix(generation_id))
        return Choice(
            index=self.index,
            text=text,
            tool_calls=calls or None,
            finish_reason=self.generation.outcome or outcome,
            # A stream had them in its chunks, and all of them may not fit into one message.
            logprobs=None if asked.stream or asked.alternatives is None else tuple(self._logprobs),
        )

    def _call_prefix(self, generation_id: str) -> str:
        """What the ids of its calls begin with: two answers may call the same function."""
        return generation_id if self.index == 0 else f"{generation_id}-{self.index}"
