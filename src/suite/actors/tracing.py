"""The spans of a model's work, as OpenTelemetry's conventions for generative AI have them (version 0.1.0).

Texts of prompts and answers are in them only with ``trace_content``: see `suite.actors.trace_content`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from suite import telemetry
from suite.actors.trace_content import answered_content, asked_content
from suite.engine.grammar.call_source import has_json_answer
from suite.messages.actions.generation import Choice, GenerateTextRequest, Timings, Usage
from suite.telemetry.instruments import LLAMA_CPP


def operation_of(request: GenerateTextRequest) -> str:
    """What the conventions call such a generation."""
    return "text_completion" if request.messages is None else "chat"


def generating(request: GenerateTextRequest, model_id: str) -> AbstractContextManager[None]:
    """The span of a generation by the model in this process."""
    if not telemetry.recording.is_on:
        return nullcontext()
    operation = operation_of(request)
    return telemetry.span(
        f"{operation} {model_id}",
        {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": LLAMA_CPP,
            "gen_ai.request.model": model_id,
            "gen_ai.request.stream": request.stream,
            "gen_ai.request.max_tokens": request.max_tokens,
            "gen_ai.request.temperature": request.temperature,
            "gen_ai.request.top_p": request.top_p,
            "gen_ai.request.top_k": request.top_k,
            "gen_ai.request.presence_penalty": request.presence_penalty,
            "gen_ai.request.frequency_penalty": request.frequency_penalty,
            "gen_ai.output.type": "json" if has_json_answer(request) else "text",
            **_if_given(request),
            **(asked_content(request) if telemetry.recording.content else {}),
        },
    )


def _if_given(request: GenerateTextRequest) -> dict[str, telemetry.Attribute]:
    given: dict[str, telemetry.Attribute] = {}
    if request.n > 1:
        given["gen_ai.request.choice.count"] = request.n
    if request.seed is not None and request.seed >= 0:
        given["gen_ai.request.seed"] = request.seed
    if request.conversation_id is not None:
        given["gen_ai.conversation.id"] = request.conversation_id
    return given


def note_answer(
    generation_id: str, model_id: str, usage: Usage, timings: Timings, reasons: Sequence[str]
) -> None:
    """Add to the span of a generation what came of it."""
    if not telemetry.recording.is_on:
        return
    telemetry.annotate(
        {
            "gen_ai.response.id": generation_id,
            "gen_ai.response.model": model_id,
            "gen_ai.response.finish_reasons": list(reasons),
            "gen_ai.usage.input_tokens": usage.prompt_tokens,
            "gen_ai.usage.output_tokens": usage.completion_tokens,
            "gen_ai.usage.cache_read.input_tokens": usage.reused_tokens,
            "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
            "suite.queue_ms": timings.queue_ms,
            "suite.prompt_ms": timings.prompt_ms,
            "suite.generation_ms": timings.generation_ms,
            "suite.drafted_tokens": usage.drafted_tokens,
            "suite.accepted_tokens": usage.accepted_tokens,
        }
    )
    if timings.time_to_first_token_ms is not None:
        telemetry.annotate({"gen_ai.response.time_to_first_chunk": timings.time_to_first_token_ms / 1000})


def note_text(choices: Callable[[], Sequence[Choice]]) -> None:
    """Add the text of the answers, if that is wanted."""
    if telemetry.recording.content:
        telemetry.annotate(answered_content(choices()))


def note_tokens(tokens: int) -> None:
    """Add to the span of vectors or scores how many tokens were read."""
    telemetry.annotate({"gen_ai.usage.input_tokens": tokens})


def pooling(operation: str, model_id: str) -> AbstractContextManager[None]:
    """The span of making vectors (``embed``) or scores (``rank``) by the model in this process."""
    name = "embeddings" if operation == "embed" else operation
    return telemetry.span(
        f"{name} {model_id}",
        {
            "gen_ai.operation.name": name,
            "gen_ai.provider.name": LLAMA_CPP,
            "gen_ai.request.model": model_id,
        },
    )
