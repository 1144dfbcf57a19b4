"""``suite completion``, and the completion of model ids from the running service."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import anyio
import click
from click.shell_completion import CompletionItem, get_completion_class

from suite.cli.options import COMPLETION_SECONDS, Target, target_of

if TYPE_CHECKING:
    from suite.messages.actions.status import ListModelsReply

SHELLS: Final = ("bash", "zsh", "fish")


def model_ids(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The ids and aliases that begin like this; none if the service does not answer in time."""
    # Whatever goes wrong: a message would stand in the middle of what is being typed.
    with suppress(Exception):
        return [CompletionItem(name) for name in _names(ctx) if name.startswith(incomplete)]
    return []


def _names(ctx: click.Context) -> list[str]:
    """The ids and aliases of the models of the service that the command line so far says."""
    models = anyio.run(_listed, target_of(ctx)).models
    return [name for model in models for name in (model.model_id, *model.aliases)]


async def _listed(target: Target) -> ListModelsReply:
    with anyio.fail_after(COMPLETION_SECONDS):
        async with target.connect() as client:
            return await client.list_models()


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the script with which SHELL completes commands, options and the ids of the service's models.

    The ids are those that the running service has when Tab is pressed. Put the first line below into
    ~/.bashrc; for zsh, with zsh in place of bash, into ~/.zshrc after compinit.

    \b
    Examples:
      eval "$(suite completion bash)"
      suite completion zsh > ~/.zfunc/_suite
      suite completion fish > ~/.config/fish/completions/suite.fish
    """
    from suite.cli.main import COMPLETION_VARIABLE, PROGRAM, commands

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(commands, {}, PROGRAM, COMPLETION_VARIABLE).source())
