"""What `suite serve` prints when it is ready."""

from __future__ import annotations

import sys
from contextlib import suppress

import click

from suite import machine
from suite.catalogue import Model
from suite.cli.invocation import data_dir_arguments, typed
from suite.config import ConnectionFile
from suite.node.node import Node
from suite.units import size
from suite.version import __version__


def show_ready(node: Node) -> None:
    """Print what is served, where, within which limits, and what to type next."""
    http = () if node.gateway is None else (f"  HTTP    {node.gateway.url}/v1, as OpenAI's API",)
    lines = (
        f"suite {__version__} serves as node {node.name}; Ctrl-C stops it",
        f"  models  {_models(node)}",
        f"  NATS    {_where(node)}",
        *http,
        f"  limits  {_limits(node)}",
        f"  next    {_next(node)}",
    )
    with suppress(OSError):  # a service does not end because nobody reads this
        click.echo("\n".join(lines))
        sys.stdout.flush()


def _models(node: Node) -> str:
    models = node.catalogue.models.values()
    directories = node.catalogue.directories.items()
    where = ", ".join(
        f"{path.absolute()} ({reason})" if reason else str(path.absolute()) for path, reason in directories
    )
    invalid = sum(model.error is not None for model in models)
    remark = f", {invalid} of them cannot be loaded (see `suite models`)" if invalid else ""
    return f"{len(models) or 'none'} in {where}{remark}"


def _where(node: Node) -> str:
    own = "" if node.settings.nats.url else ", a server of its own"
    file = ConnectionFile.path(node.settings.data_dir.absolute())
    return f"{node.connection.url}{own}; clients find it by {file}"


def _limits(node: Node) -> str:
    counts = sorted(map(node.threads, node.catalogue.models.values())) or [machine.cores().value]
    threads = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    noun = "thread" if threads == "1" else "threads"
    limits = node.supervisor.residency.limit_bytes
    gpus = "".join(f" and {size(count)} on {name}" for name, count in limits.gpus.items())
    return f"{size(limits.ram)} of memory{gpus} for all loaded models, {threads} {noun} for each"


def _next(node: Node) -> str:
    options = data_dir_arguments(node.settings.data_dir)
    able = [model for model in node.catalogue.models.values() if _answers(model)]
    if able:
        smallest = min(able, key=lambda model: ("chat" not in model.capabilities, model.need_bytes))
        prompt = "What is a llama?" if "chat" in smallest.capabilities else "Once upon a time"
        return typed("run", smallest.model_id, prompt, options=options)
    if node.catalogue.models:
        return typed("models", options=options)
    directory = next(iter(node.catalogue.directories))
    return f"put a .gguf file into {directory.absolute()}, or start it with --models-dir DIR"


def _answers(model: Model) -> bool:
    return model.info is not None and model.info.generates and "embedding" not in model.capabilities
