"""``suite gateway``."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import anyio
import click
import msgspec

from suite.cli.options import Target, fleet_command
from suite.extras import require
from suite.messages.events import BreakerEvent
from suite.messages.gateway import GatewayEvent, GatewayNews, GatewayServes
from suite.process_log import log_to_stderr
from suite.service_manager import ServiceManager


@click.command()
@click.option("--listen", help="Address and port to listen on; 0: a free one.  [default: 127.0.0.1:8080]")
@click.option(
    "--config",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Configuration file, of which the table [http] counts.  [default: none]",
)
@click.option("--require-keys", is_flag=True, help="Let in only who has a key, also on this machine.")
@click.option(
    "--cors-origin",
    "cors_origins",
    multiple=True,
    help="The origin of web pages that may use it; may be repeated; * for all.  [default: none]",
)
@click.option(
    "--tls-certificate",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Certificate with its chain (PEM).  [default: HTTP without TLS]",
)
@click.option(
    "--tls-key",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Key of the certificate (PEM).  [default: HTTP without TLS]",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    help="How to log to stderr.  [default: text]",
)
@click.option("--socket", "inherited", type=int, hidden=True, help="Only for `suite serve`.")
@fleet_command
def gateway(
    target: Target,
    listen: str | None,
    file: Path | None,
    log_format: str | None,
    inherited: int | None,
    **given: object,
) -> None:
    """Serve the models of the service over HTTP, as OpenAI's API, until SIGTERM or Ctrl-C.

    `suite serve --http` starts one beside the node. Any number may run for one service, on any machine that
    reaches its NATS server. Settings are those of the table [http], and SUITE_HTTP_... variables.

    On an address that other machines reach, only who has a key is let in (`suite keys`): without one it does
    not start.

    \b
    Examples:
      suite gateway --listen 127.0.0.1:11435
      suite gateway --listen 127.0.0.1:11435 --config suite.toml
    """
    require("http", "suite gateway")
    from suite import telemetry
    from suite.config import load_configuration
    from suite.gateway.running import run_gateway

    of_all = _given(log_format=log_format, data_dir=target.data_dir)
    flags = {"http": _given(listen=listen, **given), **of_all}
    settings = load_configuration(file, flags=flags).settings
    log_to_stderr(settings.log_format)
    is_beside_node = inherited is not None
    node, place = settings.node, f"{settings.data_dir.absolute()} {settings.http.listen}"
    with (
        telemetry.tracing(settings.tracing, node=node, process="gateway", place=place),
        telemetry.exposing(settings.metrics, node=node, process="gateway", place=place) as exposition,
    ):
        run = functools.partial(
            run_gateway,
            settings.http,
            target.connect,
            node=node,
            exposition=exposition,
            inherited=inherited,
            on_ready=_tell_ready if is_beside_node else _show_ready,
            on_event=_tell_event if is_beside_node else _only_logged,
            manager=ServiceManager.take(os.environ),
        )
        anyio.run(run, backend_options={"use_uvloop": True})


def _given(**flags: object) -> dict[str, object]:
    """The flags that were given: those that were not must not hide the settings."""
    return {name: value for name, value in flags.items() if value not in (None, (), False)}


def _show_ready(url: str) -> None:
    click.echo(f"the models are at {url}/v1")


def _tell_ready(_: str) -> None:
    _tell(GatewayServes())


def _tell_event(event: BreakerEvent) -> None:
    _tell(GatewayEvent(event_type=event.type, body=msgspec.Raw(msgspec.json.encode(event))))


def _tell(news: GatewayNews) -> None:
    """Tell the node that this process belongs to."""
    click.echo(msgspec.json.encode(news))


def _only_logged(_: BreakerEvent) -> None:
    """A gateway of its own may not write to the log of the nodes."""
