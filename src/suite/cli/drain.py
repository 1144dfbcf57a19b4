"""``suite drain``: takes a node out of service, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from suite.cli.invocation import arguments
from suite.cli.options import Target, client_command

if TYPE_CHECKING:
    from suite.messages.actions.drain import DrainNodeReply
    from suite.messages.signals import Draining


@click.command()
@click.argument("node")
@click.option("--undo", is_flag=True, help="Let it take work again.")
@click.option("--no-wait", is_flag=True, help="Return as soon as it has begun.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, 86_400),
    default=900.0,
    show_default=True,
    help="Seconds to wait; then it says what the node still does, which goes on.",
)
@client_command
def drain(target: Target, node: str, undo: bool, no_wait: bool, timeout: float) -> None:
    """Take NODE out of service, and return when it has nothing to do any more.

    Other nodes load its pinned models and those that were used in the last ten minutes, where they have room.
    Then it gets no new work; what runs there ends. It can be stopped then without a failed request. It takes
    work again when it is started anew, or with --undo. Only the role operator may do this.

    \b
    Examples:
      suite drain box1
      suite drain box1 --undo
    """
    from suite.cli.output import json_line, note

    def tell(progress: Draining) -> None:
        if not target.as_json:
            note(_line(progress))

    try:
        reply = target.run(
            lambda client: client.drain_node(
                node, undo=undo, wait=not no_wait, wait_ms=round(timeout * 1000), on_progress=tell
            )
        )
    except KeyboardInterrupt as interrupt:
        undone = arguments("drain", node, "--undo")
        interrupt.add_note(f"{node} is still being drained; `suite {undone}` has it take work again")
        raise
    if target.as_json:
        json_line(reply)
    else:
        _show(reply)


def _line(progress: Draining) -> str:
    doing = [f"{progress.generations} generation{'' if progress.generations == 1 else 's'} to go"]
    if progress.loading is not None:
        doing.append(f"{progress.loading} is being loaded elsewhere")
    return f"{progress.node}: {', '.join(doing)}"


def _show(reply: DrainNodeReply) -> None:
    from suite.cli.output import folded

    folded(reply.message, indent=4)
    for each in reply.models:
        where = each.problem if each.node is None else f"loaded on {each.node}"
        folded(f"{each.model_id}: {where}", indent=4)
