"""``suite cluster``: makes what several machines need for their NATS servers to become one cluster."""

from __future__ import annotations

import socket
from pathlib import Path

import click

from suite.bus.cluster import DEFAULT_PORT, ClusterFile
from suite.cli.options import json_option
from suite.identity import new_id


@click.group()
def cluster() -> None:
    """Make the NATS servers of several nodes one cluster, which survives the loss of a machine.

    The file that `suite cluster create` writes is copied to each machine. There the node is started with it:
    `suite serve --cluster-file fleet.cluster --join box1 --join box2 --join box3`.

    \b
    Examples:
      suite cluster create fleet.cluster
      suite cluster create other.cluster --host box1 --host box2 --host box3 --json
    """


@cluster.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--name", help="Name of the cluster. Default: one that no other has.")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    help="A name or address at which clients on other machines reach a server; may be given more than once.  "
    "[default: this machine's name]",
)
@json_option
def create(file: Path, name: str | None, hosts: tuple[str, ...], as_json: bool) -> None:
    """Write a new cluster file: a key, its certificate, and a password for each role.

    Copy it to each machine, and keep it as private as a password: whoever has it can join. It is made once,
    and a machine that is added later gets the same. `--host` only matters to clients on other machines.

    \b
    Examples:
      suite cluster create fleet.cluster
      suite cluster create fleet.cluster --host box1.example --host 10.0.0.2
    """
    from suite.cli.output import json_line

    made = ClusterFile.new(name or f"suite-{new_id()[-12:]}", hosts or (socket.gethostname(),))
    made.write(file)
    if as_json:
        json_line({"file": str(file), "name": made.name, "fingerprint": made.fingerprint})
        return
    click.echo(f"{file} is the file of the cluster {made.name}")
    click.echo()
    click.echo("Copy it to each machine, then start there, with the names of all machines:")
    joined = " ".join(f"--join {each}" for each in (hosts if len(hosts) > 1 else ("box1", "box2", "box3")))
    click.echo(f"  suite serve --cluster-file {file} {joined}")
    click.echo(f"Their port {DEFAULT_PORT} must be open to each other.")
