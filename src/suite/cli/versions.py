"""``suite versions``, ``suite alias``, ``suite promote``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import click
import msgspec
from msgspec import Meta

from suite.cli.completion import model_ids
from suite.cli.model_ids import for_model
from suite.cli.options import Target, fleet_command
from suite.errors import AliasNotFound, ModelNotFound
from suite.messages.promotion import Gates, TakeBackReason

if TYPE_CHECKING:
    from suite.client import Client
    from suite.messages.actions.versions import (
        AliasInfo,
        ListVersionsReply,
        PromotionInfo,
        SetAliasReply,
        VersionInfo,
    )
    from suite.messages.promotion import Finding

_UNUSED_DAYS = 30.0
_DAY_SECONDS = 86_400.0


class PromotionFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands in a ``promotion.toml``: how versions are promoted."""

    canary_share: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    take_back: tuple[TakeBackReason, ...] = ()
    gates: Gates | None = None


@click.command()
@click.argument("model", required=False, shell_complete=model_ids)
@click.option("--unused", is_flag=True, help="Only those that nobody uses, and no alias stands for.")
@click.option(
    "--days",
    type=click.FloatRange(0),
    default=_UNUSED_DAYS,
    show_default=True,
    help="For how many days nobody has used them, with --unused.",
)
@fleet_command
def versions(target: Target, model: str | None, unused: bool, days: float) -> None:
    """List the versions of MODEL, or of all models: what the log has seen, also what is gone from disk.

    A version is a content with settings. Requests may name it as MODEL@2, or MODEL@ and a beginning of its
    digest.

    \b
    Examples:
      suite versions
      suite versions SmolLM2-135M-Instruct.Q4_1
      suite versions --unused --days 90 --json
    """
    from suite.cli.output import json_line, table

    async def work(client: Client) -> ListVersionsReply:
        ask = partial(client.list_versions, unused=unused, unused_seconds=days * _DAY_SECONDS)
        if model is None:
            return await ask()
        return await for_model(client, model, ask)

    reply = target.run(work)
    found = reply.versions
    for warning in reply.warnings:
        click.echo(f"warning: {warning}", err=True)
    if target.as_json:
        for each in found:
            json_line(each)
    elif found:
        columns = ["version", "digest", "settings", "on", "aliases", "uses>", "last used", "trust>", "seen"]
        table(columns, [_version_row(each) for each in found])
    else:
        click.echo("every version is used" if unused else "the log has seen no model yet")


@click.command()
@click.argument("name", required=False)
@click.argument("version", required=False, shell_complete=model_ids)
@click.option("--remove", is_flag=True, help="Have it stand for nothing, or for what is configured.")
@fleet_command
def alias(target: Target, name: str | None, version: str | None, remove: bool) -> None:
    """List the aliases, show that of NAME, or have NAME stand for VERSION at once.

    VERSION is a model, which the alias then follows to whichever version that is at, or MODEL@2. `suite
    promote` changes an alias without a gap. Only the role operator may change it.

    \b
    Examples:
      suite alias
      suite alias draft gemma-3-270m-it-Q4_K_M
      suite alias draft --remove
      suite alias chat SmolLM2-135M-Instruct.Q4_1@1
    """
    from suite.cli.output import json_line

    if remove and (name is None or version is not None):
        raise click.UsageError("--remove needs the name of an alias, and nothing else")
    if name is None or (version is None and not remove):
        _show_aliases(target, name)
        return
    alias_name = name

    async def work(client: Client) -> SetAliasReply:
        if version is None:
            return await client.set_alias(alias_name, None)
        return await for_model(client, version, partial(client.set_alias, alias_name))

    reply = target.run(work)
    if target.as_json:
        json_line(reply)
    else:
        click.echo(reply.message if reply.seq is None else f"{reply.message} (event {reply.seq})")


@click.command()
@click.argument("alias")
@click.argument("version", required=False, shell_complete=model_ids)
@click.option(
    "--gates",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A promotion.toml that says what evaluations must show.  [default: nothing]",
)
@click.option(
    "--canary",
    type=click.FloatRange(0, 1, max_open=True),
    help="Which part of the requests it gets before it is promoted.  [default: that of the file, or none]",
)
@click.option(
    "--take-back",
    type=click.Choice(get_args(TakeBackReason)),
    multiple=True,
    help="What takes it back by itself afterwards; may be repeated.  [default: that of the file, or nothing]",
)
@click.option(
    "--any-architecture",
    is_flag=True,
    help="Let it be of another architecture; one without a chat template still replaces none that has one.",
)
@click.option("--back", is_flag=True, help="End the promotion, or take back what was promoted last.")
@fleet_command
def promote(
    target: Target,
    alias: str,
    version: str | None,
    file: Path | None,
    canary: float | None,
    take_back: tuple[TakeBackReason, ...],
    any_architecture: bool,
    back: bool,
) -> None:
    """Promote VERSION to ALIAS: the old version serves until the new one is ready and meets the gates.

    `suite alias ALIAS` shows how far it is, and `suite explain` why. Without gates it is promoted as soon as
    it is loaded, or with --canary when it is promoted again without that. Only the role operator may do this.
    A promotion that has waited for 30 days ends.

    \b
    Examples:
      suite promote chat tuned --canary 0.1
      suite promote chat tuned --gates promotion.toml
      suite promote chat --back
    """
    from suite.cli.output import json_line

    if back == (version is not None):
        raise click.UsageError("give a VERSION to promote, or --back")
    terms = PromotionFile() if file is None else read_terms(file)

    async def work(client: Client) -> tuple[msgspec.Struct, str]:
        if version is None:
            undone = await client.take_back_alias(alias)
            return undone, f"{undone.message} (event {undone.seq})"
        promote = partial(
            client.promote_alias,
            alias,
            canary_share=terms.canary_share if canary is None else canary,
            gates=terms.gates,
            take_back=take_back or terms.take_back,
            any_architecture=any_architecture,
        )
        begun = await for_model(client, version, promote)
        if not begun.promotion_id:
            return begun, begun.message
        return begun, f"{begun.message} (event {begun.seq}); see `suite alias {alias}`"

    reply, told = target.run(work)
    if target.as_json:
        json_line(reply)
    else:
        click.echo(told)


def read_terms(file: Path) -> PromotionFile:
    """What a ``promotion.toml`` says. Raises BadParameter for a file that is none."""
    try:
        return msgspec.toml.decode(file.read_bytes(), type=PromotionFile)
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise click.BadParameter(f"{file}: {error}", param_hint="--gates") from None


# --- what is shown ----------------------------------------------------------------------------------------


def _version_row(version: VersionInfo) -> tuple[str, ...]:
    from suite.cli.output import exact, local_time, number

    return (
        f"{version.model_id}@{version.version}",
        version.sha256[:12],
        "not known" if version.settings is None else _settings(version),
        " ".join(version.nodes) or "history",
        " ".join(version.aliases),
        exact(version.uses),
        "never" if version.last_used is None else local_time(version.last_used),
        number(version.trust),
        local_time(version.first_seen),
    )


def _settings(version: VersionInfo) -> str:
    """What tells it apart from other versions: of one with adapters, also what it is made of."""
    settings = [f"{name}={value}" for name, value in sorted((version.settings or {}).items())]
    return " ".join([*_made_of(version), *settings])


def _made_of(version: VersionInfo) -> Iterator[str]:
    if version.base is not None:
        yield version.base
        for each in version.adapters:
            yield f"+{each.id}" if each.scale == 1 else f"+{each.id}*{each.scale:g}"


def _show_aliases(target: Target, name: str | None) -> None:
    from suite.cli.output import json_line, table

    async def work(client: Client) -> tuple[AliasInfo, ...]:
        found = (await client.list_aliases(name)).aliases
        if name is not None and not found:
            raise await _unknown(client, name)
        return found

    found = target.run(work)
    if target.as_json:
        for each in found:
            json_line(each)
    elif not found:
        click.echo("there are no aliases in the log: `suite alias NAME MODEL` makes one")
    else:
        table(["alias", "stands for", "since event>", "promotion"], [_alias_row(each) for each in found])
        for each in found:
            if each.promotion is not None:
                _show_promotion(each.promotion)


async def _unknown(client: Client, name: str) -> AliasNotFound:
    """What is said of a name that is no alias of the log: it may be one that is configured."""
    try:
        model = (await client.get_model_status(name)).model
    except ModelNotFound:
        model = None
    if model is None:
        return AliasNotFound(f"there is no alias {name!r} in the log: `suite alias NAME MODEL` makes one")
    if model.model_id == name:
        return AliasNotFound(f"{name!r} is the id of a model, and no alias")
    return AliasNotFound(
        f"{name!r} is no alias of the log: the configuration has it stand for {model.model_id}"
    )


def _alias_row(alias: AliasInfo) -> tuple[str, ...]:
    running = alias.promotion
    stands_for = f"{alias.model_id}@{alias.version}" if alias.version else alias.model_id
    return alias.alias, stands_for, str(alias.seq), "" if running is None else _promotion(running)


def _promotion(promotion: PromotionInfo) -> str:
    from suite.explanation.words import counted, span

    what = f"{promotion.model_id}@{promotion.version}"
    if promotion.state == "canary":
        had = f"{counted(promotion.canary_requests, 'request')} in {span(promotion.canary_seconds)}"
        what = f"{what} gets {100 * promotion.canary_share:g} % of the requests, {had} so far"
    return f"{what}, waits for {promotion.waits_for}" if promotion.waits_for else what


def _show_promotion(promotion: PromotionInfo) -> None:
    from suite.cli.output import table

    if promotion.findings:
        rows = [_finding_row(each) for each in promotion.findings]
        table(["gate", "needed>", "new>", "old>", "is"], rows)


def _finding_row(finding: Finding) -> tuple[str, ...]:
    from suite.cli.output import number

    def told(which: str) -> str:
        if which == "new" and finding.found is not None:
            return number(finding.found)
        found = finding.new if which == "new" else finding.old
        if found is None:
            return ""
        interval = "" if found.low is None else f" ({number(found.low)} to {number(found.high)})"
        return f"{number(found.mean)}{interval}"

    return finding.gate, number(finding.needed), told("new"), told("old"), finding.verdict
