"""What has to be there before the engine can have a generation: its prompt, its grammar, its parameters.

It takes seconds for some grammars, a long text or a slow template. Nobody waits for another's: who came first
may be second in the engine's queue.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import NamedTuple

from suite.engine.generation import Order
from suite.engine.grammar.grammar import Grammars
from suite.engine.prompts.prompt import Prompter
from suite.engine.sampler import Sampling, sampling_of
from suite.messages.actions.generation import GenerateTextRequest


class Prepared(NamedTuple):
    """What came of it."""

    order: Order
    truncated_tokens: int = 0
    """Of the prompt, those that were cut."""
    warnings: tuple[str, ...] = ()


async def prepare(
    request: GenerateTextRequest,
    prompter: Prompter,
    grammars: Grammars,
    session: AsyncExitStack,
    *,
    seed: int,
    deadline: float | None,
) -> Prepared:
    """Make the order of a request. Raises what refuses its prompt, its grammar or its parameters.

    The grammar is followed in a process that ends with the `session`.
    """
    following = await session.enter_async_context(grammars.of(request))
    prompt = await asyncio.wrap_future(prompter.begin(request))
    sampling = sampling_of(
        request,
        seed=seed,
        vocabulary=prompter.vocabulary,
        grammar=None if following is None else following.session,
    )
    return Prepared(
        order_of(request, prompt.tokens, sampling, deadline),
        prompt.truncated_tokens,
        () if following is None else following.warnings,
    )


def order_of(
    request: GenerateTextRequest, prompt: list[int], sampling: Sampling, deadline: float | None
) -> Order:
    """What the engine is to do with a prompt."""
    return Order(
        prompt=prompt,
        max_tokens=request.max_tokens,
        stop=(request.stop,) if isinstance(request.stop, str) else request.stop,
        sampling=sampling,
        conversation_id=request.conversation_id,
        priority=request.priority,
        deadline=deadline,
        continues=request.continue_,
    )
