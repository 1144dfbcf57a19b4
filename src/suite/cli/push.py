"""``suite push``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import click

from suite.cli.completion import model_ids
from suite.cli.exit import REFUSED
from suite.cli.model_ids import for_model
from suite.cli.options import Target, fleet_command

if TYPE_CHECKING:
    from rich.progress import TaskID

    from suite.client import Client
    from suite.messages.actions.transfers import PushedModel, PushModelReply
    from suite.messages.signals import Copying


@click.command()
@click.argument("model", shell_complete=model_ids)
@click.argument("nodes", nargs=-1, metavar="[NODE]...")
@click.option("--from", "source", metavar="NODE", help="Node to copy from.  [default: one that has it]")
@fleet_command
def push(target: Target, model: str, nodes: tuple[str, ...], source: str | None) -> int:
    """Copy MODEL from a node that has it to each NODE, or to all nodes if none is named.

    What the model needs goes with it: its projector, its draft model, and for a name that stands for a model
    with adapters the model and these. Settings are not copied; what a node lacks of them is told.

    Each copy is checked by SHA-256 before it appears in the first model directory of its node. Nothing is
    sent that a node has already, and a file of another content under the same name stays. An interrupted
    copy goes on when the same is typed again. Only the role operator may do this.

    \b
    Examples:
      suite push smollm2
      suite push smollm2 box2 box3
      suite push smollm2 box2 --from box1
      suite push pirate box2
    """
    from suite.cli.output import json_line

    async def work(client: Client, model_id: str) -> PushModelReply:
        if source is not None:
            client = client.on_node(source)
        with _shown(target.as_json) as on_progress:
            return await client.push_model(model_id, nodes, on_progress=on_progress)

    reply = target.run(lambda client: for_model(client, model, partial(work, client)))
    if target.as_json:
        json_line(reply)
    else:
        for each in reply.nodes:
            click.echo(_line(reply, each), err=each.state == "failed")
    return REFUSED if any(each.state == "failed" for each in reply.nodes) else 0


def _line(reply: PushModelReply, pushed: PushedModel) -> str:
    from suite.units import size

    but = f"; {pushed.message}" if pushed.message else ""
    match pushed.state:
        case "copied":
            name = "" if pushed.model_id in (None, reply.model_id) else f" as {pushed.model_id}"
            what = "" if pushed.copied in ((), (reply.model_id,)) else f"{', '.join(pushed.copied)} of "
            done = f"{what}{size(reply.bytes)} from {reply.node}, SHA-256 checked"
            return f"{pushed.node}: {reply.model_id} is there{name} ({done}){but}"
        case "present":
            return f"{pushed.node}: {reply.model_id} was there already, as {pushed.path}{but}"
        case _:
            return f"{pushed.node}: {pushed.message} ({pushed.code})"


@contextmanager
def _shown(as_json: bool) -> Iterator[Callable[[Copying], None]]:
    """Show on a terminal how far each node is, and how to go on when it is interrupted."""
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn

    from suite.cli.output import progress

    rows: dict[str, TaskID] = {}
    figures = TextColumn("{task.description}"), DownloadColumn(binary_units=True), TransferSpeedColumn()
    try:
        with progress(BarColumn(None), *figures, shown=not as_json) as bars:

            def show(copying: Copying) -> None:
                if copying.node not in rows:
                    rows[copying.node] = bars.add_task(copying.node, total=copying.total_bytes)
                bars.update(rows[copying.node], completed=copying.bytes)

            yield show
    except KeyboardInterrupt as interrupt:
        interrupt.add_note("stopped: type the same again, and it goes on from here")
        raise
