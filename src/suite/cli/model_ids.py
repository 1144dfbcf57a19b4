"""Finds the model that a person means: by its id or an alias, or by any unique beginning of one of them.

Ids on the wire are exact. A command sends what was typed, and asks for the ids only if it is refused::

    reply = await for_model(client, "smol", lambda model_id: client.unload_model(model_id))
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

import click

from suite.domain.model_names import meant_by
from suite.errors import ModelNotFound, SuiteError

if TYPE_CHECKING:
    from suite.client import Client
    from suite.messages.actions.status import ModelInfo

T = TypeVar("T")


async def for_model(client: Client, typed: str, work: Callable[[str], Awaitable[T]]) -> T:
    """Do work for the model that was typed, or else for the one whose id begins like this.

    Raises ModelNotFound, with candidates or suggestions, and whatever the work raises.
    """
    try:
        return await work(typed)
    except ModelNotFound as refusal:
        try:
            (model_id,) = await known_ids(client, [typed])
        except ModelNotFound:
            raise
        except SuiteError:
            raise refusal from None
        if model_id == typed:
            raise
    return await work(model_id)


async def described(client: Client, typed: str) -> ModelInfo:
    """The model that was typed or is meant. Raises ModelNotFound, with candidates or suggestions."""

    async def ask(model_id: str) -> ModelInfo:
        found = (await client.get_model_status(model_id)).model
        if found is None:
            raise ModelNotFound
        return found

    return await for_model(client, typed, ask)


async def about_model(
    client: Client,
    typed: str | None,
    ask: Callable[[str | None], Awaitable[T]],
    *,
    is_empty: Callable[[T], bool],
) -> T:
    """Ask for what is known of a model, or of the one that is meant if nothing is known of what was typed.

    What was typed may be a model of elsewhere, or of the past. Raises ModelNotFound if several may be meant.
    """
    answer = await ask(typed)
    if typed is None or not is_empty(answer):
        return answer
    model_id = await meant(client, typed)
    return answer if model_id == typed else await ask(model_id)


async def meant(client: Client, typed: str) -> str:
    """The id of the model that is meant. Where there is none, it is what was typed, and stderr says so.

    Such a model may be elsewhere, or of the past. Raises ModelNotFound if several may be meant.
    """
    (model_id,) = await known_ids(client, [typed])
    if model_id == typed:
        try:
            await client.get_model_status(typed)
        except ModelNotFound as unknown:
            click.echo(f"warning: {unknown.message}", err=True)
    return model_id


async def known_ids(client: Client, typed: Iterable[str]) -> tuple[str, ...]:
    """The ids of the models that are meant; what was typed where there is none.

    Raises ModelNotFound if several may be meant.
    """
    models = (await client.list_models()).models
    names = {model.model_id: (model.model_id, *model.aliases) for model in models}
    return tuple(meant_by(each, names) for each in typed)
