"""``suite top``, as it is typed."""

from __future__ import annotations

import click

from suite.cli.options import Target, fleet_command


@click.command()
@click.option(
    "--interval",
    type=click.FloatRange(0.2, 60),
    default=1.0,
    show_default=True,
    help="Seconds between two looks.",
)
@fleet_command
def top(target: Target, interval: float) -> None:
    """Show what all nodes do now: memory, models, what waits and generates; and load, unload, pin, drain.

    The keys stand in the last line; ? shows all of them. Draining needs the role operator.

    \b
    Examples:
      suite top
      suite top --interval 5
    """
    import anyio

    from suite.extras import require

    if target.as_json:
        raise click.UsageError("suite top has no JSON: see `suite status --json` and `suite stats --json`")
    require("top", "suite top")
    from suite.cli.top.screen import Top

    async def shown() -> None:
        async with target.connect() as client:
            await Top(client, interval=interval).run_async()

    anyio.run(shown)
