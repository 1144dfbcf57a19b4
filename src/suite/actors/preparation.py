"""Prepares a generation for the engine: its prompt, its grammar, its sampling parameters.

That can take seconds, for some grammars, a long text or a slow template. Requests are prepared independently,
so one that came first may be second in the engine's queue.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import NamedTuple

from suite.engine.generation import EngineRequest
from suite.engine.grammar.grammar import Grammars
from suite.engine.prompts.prompt import Prompter
from suite.engine.sampler import SamplingParams, sampling_params
from suite.messages.actions.generation import GenerateTextRequest


class PreparedRequest(NamedTuple):
    """A request that is ready for the engine."""

    request: EngineRequest
    truncated_tokens: int = 0
    """Tokens that were cut from the prompt."""
    warnings: tuple[str, ...] = ()
    """What of the request was not done as it was asked for."""


async def prepare(
    request: GenerateTextRequest,
    prompter: Prompter,
    grammars: Grammars,
    session: AsyncExitStack,
    *,
    seed: int,
    deadline: float | None,
) -> PreparedRequest:
    """Prepare a request. Raises the errors of its prompt, its grammar or its parameters.

    The grammar stays open, in a process of its own, until `session` is closed.
    """
    grammar = await session.enter_async_context(grammars.for_request(request))
    prompt = await asyncio.wrap_future(prompter.submit(request))
    sampling = sampling_params(
        request,
        seed=seed,
        vocabulary=prompter.vocabulary,
        grammar=None if grammar is None else grammar.session,
    )
    return PreparedRequest(
        engine_request(request, prompt.tokens, sampling, deadline),
        prompt.truncated_tokens,
        (*prompt.warnings, *(() if grammar is None else grammar.warnings)),
    )


def engine_request(
    request: GenerateTextRequest, prompt: list[int], sampling: SamplingParams, deadline: float | None
) -> EngineRequest:
    """The request to the engine for a prompt."""
    return EngineRequest(
        prompt=prompt,
        max_tokens=request.max_tokens,
        stop=(request.stop,) if isinstance(request.stop, str) else request.stop,
        sampling=sampling,
        conversation_id=request.conversation_id,
        priority=request.priority,
        deadline=deadline,
        continues=request.continue_,
        reuse=request.reuse,
    )
