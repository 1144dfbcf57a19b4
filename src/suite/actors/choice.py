"""One of the answers to a request, while it is generated."""

from __future__ import annotations

from collections.abc import Sequence

from suite.engine.generation import Generation
from suite.engine.grammar.call_source import has_json_answer, offered_tools
from suite.engine.prompts.tool_calls import MAX_CALLS, extract_tool_calls
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
        self._reasoning: list[str] = []
        self._logprobs: list[TokenLogprobs] = []

    def add(self, text: str, reasoning: str, logprobs: Sequence[TokenLogprobs]) -> None:
        """Add the text, the reasoning and the log probabilities that came next."""
        self._parts.append(text)
        self._reasoning.append(reasoning)
        self._logprobs += logprobs

    def finished(self, asked: GenerateTextRequest, generation_id: str, outcome: Outcome) -> Choice:
        """The whole answer, with the calls of tools that it has."""
        text, calls = "".join(self._parts), None
        if tools := offered_tools(asked):
            text, calls = extract_tool_calls(
                text,
                tools,
                self._call_prefix(generation_id),
                may_be_json=not has_json_answer(asked),
                at_most=MAX_CALLS if asked.parallel_tool_calls else 1,
            )
        return Choice(
            index=self.index,
            text=text,
            reasoning="".join(self._reasoning) or None,
            tool_calls=calls or None,
            finish_reason=self.generation.outcome or outcome,
            stop_text=self.generation.stop_text,
            # A stream had them in its chunks, and all of them may not fit into one message.
            logprobs=None if asked.stream or asked.alternatives is None else tuple(self._logprobs),
        )

    def _call_prefix(self, generation_id: str) -> str:
        """What the ids of its calls begin with: two answers may call the same function."""
        return generation_id if self.index == 0 else f"{generation_id}-{self.index}"
