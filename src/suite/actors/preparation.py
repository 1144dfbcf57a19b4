"""Prepares a generation for the engine: its prompt, its grammars, its sampling parameters.

That can take seconds, for some grammars, a long text or a slow template. Requests are prepared independently,
so one that came first may be second in the engine's queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Final, NamedTuple

import anyio

from suite.engine.adapters import NO_ADAPTERS, AdapterSet
from suite.engine.generation import EngineRequest
from suite.engine.grammar.grammar import Grammars, OpenGrammar
from suite.engine.pictures.tokens import Piece
from suite.engine.prompts.prompt import Prompter
from suite.engine.reasoning import Reasoning
from suite.engine.sampler import SamplingParams, sampling_params
from suite.messages.actions.generation import GenerateTextRequest

SEEDS = 2**32
"""How many seeds there are; after the last comes the first."""
_NO_PICTURES: Final[Mapping[int, Piece]] = {}


class PreparedRequest(NamedTuple):
    """A request that is ready for the engine."""

    requests: tuple[EngineRequest, ...]
    """One for each choice."""
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
    adapters: AdapterSet = NO_ADAPTERS,
) -> PreparedRequest:
    """Prepare a request. Raises the errors of its prompt, its grammar or its parameters.

    Each choice has a grammar of its own; they stay open, in another process, until `session` is closed. The
    seeds of the choices follow each other.
    """
    opened = await _grammars(request, prompter, grammars, session)
    prompt = await asyncio.wrap_future(prompter.submit(request))
    samplings = [
        sampling_params(
            request,
            seed=(seed + index) % SEEDS,
            vocabulary=prompter.vocabulary,
            grammar=None if grammar is None else grammar.session,
            is_grammar_optional=grammar is not None and grammar.is_optional,
        )
        for index, grammar in enumerate(opened)
    ]
    return PreparedRequest(
        tuple(
            engine_request(
                request,
                prompt.tokens,
                sampling,
                deadline,
                choice=index,
                reasoning=prompt.reasoning,
                pictures=prompt.pictures,
                adapters=adapters,
            )
            for index, sampling in enumerate(samplings)
        ),
        prompt.truncated_tokens,
        (*prompt.warnings, *(() if opened[0] is None else opened[0].warnings)),
    )


async def _grammars(
    request: GenerateTextRequest, prompter: Prompter, grammars: Grammars, session: AsyncExitStack
) -> list[OpenGrammar | None]:
    """A grammar for each choice: one that cannot be used is refused once, the others come together."""
    opened: list[OpenGrammar | None] = []

    async def open_one() -> None:
        opened.append(await session.enter_async_context(grammars.for_request(request, prompter.call_form)))

    await open_one()
    try:
        async with anyio.create_task_group() as tasks:
            for _ in range(request.n - 1):
                tasks.start_soon(open_one)
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    return opened


def engine_request(
    request: GenerateTextRequest,
    prompt: list[int],
    sampling: SamplingParams,
    deadline: float | None,
    *,
    choice: int = 0,
    reasoning: Reasoning | None = None,
    pictures: Mapping[int, Piece] = _NO_PICTURES,
    adapters: AdapterSet = NO_ADAPTERS,
) -> EngineRequest:
    """The request to the engine for one choice.

    The first one reads the prompt, and the conversation goes on from it: of the others nothing is kept.
    """
    is_first = choice == 0
    prompt_logprobs = request.prompt_logprobs if is_first else None
    return EngineRequest(
        prompt=prompt,
        pictures=pictures,
        max_tokens=request.max_tokens,
        stop=(request.stop,) if isinstance(request.stop, str) else request.stop,
        sampling=sampling,
        conversation_id=request.conversation_id if is_first else None,
        priority=request.priority,
        deadline=deadline,
        continues=request.continue_,
        # What was decoded before has no logits any more.
        reuse=request.reuse and prompt_logprobs is None,
        prompt_logprobs=prompt_logprobs,
        reasoning=reasoning,
        is_forgotten=request.conversation_id is not None and not is_first,
        adapters=adapters,
        speculates=request.speculates,
    )
