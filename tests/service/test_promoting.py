"""Versions, aliases and promotions, through a real service with several versions of a model."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import anyio
import pytest
import pytest_asyncio

import suite
from suite.client import Client
from suite.domain.aliases import Alias, evolve
from suite.errors import (
    AliasNotFound,
    AliasTaken,
    ArchitectureDiffers,
    GatesContradict,
    InvalidRequest,
    LoadFailed,
    ModelNotFound,
    NoChatTemplate,
    NotEnoughMemory,
    NothingToTakeBack,
    PromotionRunning,
    SuiteError,
    VersionGone,
    VersionNotFound,
)
from suite.messages.actions.versions import AliasInfo, VersionInfo
from suite.messages.events import Generated, InstanceLoadStarted, Promoted, TakenBack
from suite.messages.promotion import Gates, ScoreGate, TakeBackReason
from support.adapters import adapter
from support.command import Command
from support.lasting import lasting
from support.models import CHAT_TEMPLATE, tiny_model
from support.recurrent import tiny_mamba
from support.service import facts, history, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

T = TypeVar("T")
PATIENCE_SECONDS = 30.0
CONFIG = """
memory_limit_gb = 1
[models.new]
slots = 2
[models.huge]
context_length = 8000000
[models.old]
aliases = ["nick"]
[models.pirate]
base = "old"
[models.sailor]
base = "old"
adapters = "poet"
[models.mute]
base = "old"
"""
GATES = Gates(evaluations=3, accuracy=ScoreGate(not_worse_by=0.05))


class Service(NamedTuple):
    client: Client
    models: Path
    data_dir: Path

    async def version(self, name: str, number: int) -> VersionInfo:
        """A version, as soon as the log knows it."""

        async def look() -> VersionInfo | None:
            try:
                found = (await self.client.list_versions(name)).versions
            except ModelNotFound:
                return None
            return found[number - 1] if len(found) >= number else None

        return await eventually(look)

    async def alias(self, name: str, holds: Callable[[AliasInfo], bool]) -> AliasInfo:
        """An alias, as soon as this holds of it."""

        async def look() -> AliasInfo | None:
            (found,) = (await self.client.list_aliases(name)).aliases
            return found if holds(found) else None

        return await eventually(look)

    async def ask(self, model: str, id: str | None = None) -> str:
        """Who answers a request for a model."""
        reply = await self.client.generate_text(model, "Hello", max_tokens=1, generation_id=id)
        return f"{reply.model_id}@{reply.version}"

    async def evaluate(self, model: str, *accuracies: float) -> list[str]:
        """Log evaluations, and return their ids."""
        logged = [
            await self.client.log_model_evaluation(model, "cycle", 0.9, accuracy=accuracy)
            for accuracy in accuracies
        ]
        return [each.evaluation_id for each in logged]

    async def steps(self, alias: str) -> list[str]:
        return facts(await history(self.client, f"alias.{alias}.>"))

    async def instance(self, model: str) -> int:
        """The process of a loaded model."""
        status = (await self.client.get_model_status(model)).model
        assert status is not None and status.instance is not None and status.instance.pid is not None
        return status.instance.pid

    async def crash(self, model: str) -> None:
        """Load a model, and kill its process."""
        await self.client.load_model(model)
        os.kill(await self.instance(model), signal.SIGKILL)

        async def gone() -> bool | None:
            now = (await self.client.get_model_status(model)).model
            return True if now is not None and now.instance is None else None

        await eventually(gone)


async def eventually(look: Callable[[], Awaitable[T | None]]) -> T:
    with anyio.fail_after(PATIENCE_SECONDS):
        while (found := await look()) is None:
            await anyio.sleep(0.05)
        return found


def stands_for(model_id: str) -> Callable[[AliasInfo], bool]:
    return lambda alias: alias.model_id == model_id and alias.promotion is None


def is_canary(alias: AliasInfo) -> bool:
    return alias.promotion is not None and alias.promotion.state == "canary"


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Service]:
    config, models = directory / "suite.toml", directory / "models"
    config.write_text(CONFIG)
    async with (
        serving(models, directory / "data", "--config", str(config)),
        suite.connect(data_dir=directory / "data") as client,
    ):
        yield Service(client, models, directory / "data")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    directory = tmp_path_factory.mktemp("promoting")
    models = directory / "models"
    models.mkdir()
    for seed, name in enumerate(("old", "new", "next", "changing", "huge")):
        tiny_model(models / f"{name}.gguf", seed=seed)
    tiny_model(models / "talking.gguf", seed=7, chat_template=CHAT_TEMPLATE)
    broken = (models / "new.gguf").read_bytes().replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_xx.weight")
    (models / "broken.gguf").write_bytes(broken)
    tiny_mamba(models / "mamba.gguf")
    adapter(models / "pirate.gguf", models / "old.gguf")
    adapter(models / "mute.gguf", models / "old.gguf", surplus="what_is_this")
    async with lasting(running(directory)) as found:
        names = ("old", "new", "next", "changing", "huge", "broken", "mamba", "pirate", "mute", "talking")
        for name in names:
            await found.version(name, 1)
        yield found


STRANGE = [(name, "as an option or as a path") for name in ("--help", "..", "a/../b", "/a")]


async def test_a_request_may_name_a_version_by_its_number_or_its_digest(service: Service) -> None:
    version = await service.version("new", 1)
    assert (version.settings, version.source, version.nodes != ()) == ({"slots": 2}, "directory", True)
    assert await service.ask("new@1") == "new@1"
    assert await service.ask(f"nick@{(await service.version('old', 1)).sha256[:6]}") == "old@1"
    with pytest.raises(VersionNotFound, match=r"new has no version '2': it has 1 "):
        await service.ask("new@2")
    events = await history(service.client, "usage.new.generated")
    assert all(isinstance(each.data, Generated) and each.data.version == 1 for each in events)
    (used,) = (await service.client.list_versions("new", min_seq=events[-1].seq)).versions
    assert used.uses == len(events)
    assert (await service.client.list_versions("new", unused=True, unused_seconds=0)).versions == (used,)
    for seconds in (30 * 86_400, 1e12, 1e300):
        assert not (await service.client.list_versions("new", unused=True, unused_seconds=seconds)).versions


async def test_an_alias_stands_for_a_version_or_follows_a_model(service: Service) -> None:
    client = service.client
    assert (await client.set_alias("mine", "new@1")).message == "mine stands for new@1"
    assert (await client.set_alias("mine", "new@1")).seq is None
    assert await service.ask("mine") == "new@1"
    await client.set_alias("mine", "nick")
    assert await service.ask("mine") == "old@1"
    assert (await service.version("mine", 1)).aliases == ("mine",)
    assert await service.ask("nick") == "old@1"
    await client.set_alias("nick", "new")  # the log goes before what is configured
    assert await service.ask("nick") == "new@1"
    await client.set_alias("nick", None)
    assert await service.ask("nick") == "old@1"
    await client.set_alias("mine", None)
    with pytest.raises(ModelNotFound):
        await service.ask("mine")


async def test_a_model_with_adapters_has_versions_and_is_promoted(service: Service) -> None:
    client = service.client
    pirate, old = await service.version("pirate", 1), await service.version("old", 1)
    assert (pirate.base, [each.id for each in pirate.adapters]) == ("old", ["pirate"])
    assert pirate.nodes == old.nodes and pirate.sha256 != old.sha256
    assert (pirate.architecture, pirate.file_name) == (old.architecture, "pirate.gguf")
    spoken = await client.generate_text(f"pirate@{pirate.sha256[:6]}", "Hello", max_tokens=8, temperature=0)
    assert (spoken.model_id, spoken.version) == ("old", 1)
    assert (spoken.variant, spoken.variant_version) == ("pirate", 1)
    (used,) = (await client.list_versions("pirate", min_seq=spoken.seq)).versions
    assert used.uses == 1

    await client.set_alias("captain", "old@1")
    begun = await client.promote_alias("captain", "pirate", canary_share=0.5)
    await service.alias("captain", is_canary)
    instance = await service.instance("old")
    alias = Alias(name="captain")
    for recorded in await history(client, "alias.captain.>"):
        alias = evolve(alias, recorded.data)
    for number in range(6):
        id = f"{begun.promotion_id} {number}"
        reply = await client.generate_text("captain", "Hello", max_tokens=1, generation_id=id)
        assert (reply.variant or reply.model_id) == str(alias.chosen(partial(str, id))).partition("@")[0]
    assert await service.instance("old") == instance, "both are served by one process"
    (evaluation,) = await service.evaluate("pirate@1", 0.7)
    await client.promote_alias("captain", "pirate@1")
    await service.alias("captain", stands_for("pirate"))
    again = await client.generate_text("captain", "Hello", max_tokens=8, temperature=0)
    assert (again.variant, again.variant_version, again.text) == ("pirate", 1, spoken.text)
    (told,) = (await client.get_model_evaluation_scores(model_name="captain")).evaluations
    assert (told.evaluation_id, told.model_name, told.version) == (evaluation, "pirate", 1)
    (used,) = (await client.list_versions("pirate", min_seq=again.seq)).versions
    assert (used.aliases, used.evaluations, used.trust is not None) == (("captain",), 1, True)
    about = [each.type for each in (await client.explain("pirate")).events]
    assert {"suite.alias.promoted.v1", "suite.model.registered.v1"} <= set(about)
    await client.take_back_alias("captain")
    assert (await client.generate_text("captain", "Hello", max_tokens=1)).variant is None
    await client.set_alias("captain", None)


async def test_an_adapter_that_comes_changes_or_goes_makes_and_ends_versions(service: Service) -> None:
    client, poet = service.client, service.models / "poet.gguf"

    def put(seed: int) -> None:
        adapter(poet.with_suffix(".part"), service.models / "old.gguf", seed=seed).rename(poet)

    put(5)
    await service.version("sailor", 1)
    put(6)
    assert (await service.version("sailor", 2)).nodes and not (await service.version("sailor", 1)).nodes
    reply = await client.generate_text("sailor@2", "Hello", max_tokens=1)
    assert (reply.variant, reply.variant_version) == ("sailor", 2)
    with pytest.raises(VersionGone, match=r"sailor@1 .* poet\.gguf\) is history: .* it is at version 2 now"):
        await client.generate_text("sailor@1", "Hello", max_tokens=1)
    mixed = await client.generate_text("sailor", "Hello", max_tokens=1, adapters="pirate")
    assert mixed.variant is None, "with one more it is something else"
    poet.unlink()

    async def gone() -> bool | None:
        return None if (await service.version("sailor", 2)).nodes else True

    await eventually(gone)


async def test_evaluations_hang_on_the_version(service: Service) -> None:
    client = service.client
    (own,) = await service.evaluate("next", 0.5)
    reply = await client.get_model_evaluation_scores(model_name="next@1")
    assert [(each.evaluation_id, each.version) for each in reply.evaluations] == [(own, 1)]
    version = await service.version("next", 1)
    assert (version.evaluations, version.trust is not None) == (1, True)
    with pytest.raises(VersionNotFound):
        await client.log_model_evaluation("next", "cycle", 0.5, version=2)


async def test_content_that_is_gone_from_disk_is_history(service: Service) -> None:
    await service.client.set_alias("pinned", "changing@1")
    tiny_model(service.models / "changing.part", seed=9)
    (service.models / "changing.part").rename(service.models / "changing.gguf")
    assert (await service.version("changing", 2)).nodes != ()
    assert (await service.version("changing", 1)).nodes == ()
    for gone in ("changing@1", "pinned"):
        with pytest.raises(VersionGone, match=r"changing@1 .* is history: .* it is at version 2 now"):
            await service.ask(gone)
    assert await service.ask("changing@2") == "changing@2"
    with pytest.raises(VersionGone):
        await service.client.promote_alias("pinned", "changing@1")
    await service.client.set_alias("pinned", None)
    unused = (await service.client.list_versions("changing", unused=True, unused_seconds=0)).versions
    assert [each.version for each in unused] == [1, 2]


async def test_what_cannot_be_promoted_is_refused_with_the_reason(service: Service) -> None:
    client = service.client
    await client.set_alias("strict", "old@1")
    refused: list[tuple[str, type[SuiteError], str]] = [
        ("nothing@1", ModelNotFound, "nothing"),
        ("new@7", VersionNotFound, "has no version '7'"),
        ("mamba", ArchitectureDiffers, "mamba@1 is of the architecture mamba, and old@1"),
        ("huge", NotEnoughMemory, "huge@1 does not fit: with old@1"),
    ]
    for target, kind, told in refused:
        with pytest.raises(kind, match=told):
            await client.promote_alias("strict", target)
    for gates in (Gates(evaluations=1, trust=ScoreGate(at_least=1)), Gates(), Gates(canary_requests=1)):
        with pytest.raises(GatesContradict):
            await client.promote_alias("strict", "new", gates=gates)
    same = await client.promote_alias("strict", "old@1")
    assert (same.message, same.promotion_id) == (
        "strict stands for old@1 already: there is nothing to promote",
        "",
    )
    for name in ("nobody", "old@1"):
        with pytest.raises(AliasNotFound):
            await client.promote_alias(name, "new")
        with pytest.raises(AliasNotFound):
            await client.take_back_alias(name)
    with pytest.raises(AliasTaken):
        await client.set_alias("old", "new")
    for name, told in (
        ("a@b", "has an @"),
        ("bad name", "the character ' '"),
        ("bad!", "the character '!'"),
        *STRANGE,
    ):
        with pytest.raises(InvalidRequest, match=told):
            await client.set_alias(name, "new")
    for name in ("strict", "nick"):
        with pytest.raises(NothingToTakeBack):
            await client.take_back_alias(name)
    assert await service.steps("strict") == ["alias.set"]


async def test_a_model_without_a_chat_template_takes_the_place_of_none_that_has_one(service: Service) -> None:
    client = service.client
    await client.set_alias("talks", "talking@1")
    with pytest.raises(NoChatTemplate, match="old@1 has no chat template, and talking@1, which serves now"):
        await client.promote_alias("talks", "old@1", any_architecture=True)
    await client.set_alias("talks", "old@1")
    await client.promote_alias("talks", "talking@1")
    await service.alias("talks", stands_for("talking"))


async def test_what_an_alias_follows_need_not_be_promoted(service: Service) -> None:
    command = Command(service.data_dir)
    await service.client.set_alias("follows", "old")
    assert await command.output("promote", "follows", "old") == (
        "follows stands for old@1 already: there is nothing to promote\n"
    )
    assert await service.steps("follows") == ["alias.set"]


async def test_a_name_that_is_no_alias_is_refused_and_configured_ones_are_told(service: Service) -> None:
    command = Command(service.data_dir)
    assert (await command.refusal("alias", "nosuch")).startswith(
        "error alias_not_found: there is no alias 'nosuch' in the log"
    )
    assert "the configuration has it stand for old" in await command.refusal("alias", "nick")
    assert "is the id of a model" in await command.refusal("alias", "old")


async def test_a_load_for_a_promotion_is_told_as_one_and_is_no_cold_start(service: Service) -> None:
    client = service.client

    async def cold_starts(seq: int) -> int:
        return (await client.get_request_statistics("next", min_seq=seq)).total.cold_starts

    await client.set_alias("quiet", "old@1")
    await client.unload_model("next")
    begun = await client.promote_alias("quiet", "next@1")
    before = await cold_starts(begun.seq)
    await service.alias("quiet", stands_for("next"))
    *_, load = await history(client, "instance.*.next.load_started")
    assert isinstance(load.data, InstanceLoadStarted) and load.data.decision is not None
    assert load.data.decision.purpose == "promotion"
    explained = (await client.explain(seq=load.seq)).events[0].sentences
    assert explained[0].endswith("because it is being promoted.")
    assert await cold_starts(load.seq) == before


async def test_a_canary_is_as_long_as_its_gates_ask_for(service: Service) -> None:
    client = service.client
    await client.set_alias("trial", "old@1")
    gates = Gates(canary_requests=2, canary_seconds=0.1)
    await client.promote_alias("trial", "new@1", canary_share=0.01, gates=gates)
    waiting = await service.alias("trial", is_canary)
    assert waiting.promotion is not None
    assert {each.gate for each in waiting.promotion.findings} == {"canary_requests", "canary_seconds"}

    def waits_for_one_more(alias: AliasInfo) -> bool:
        running = alias.promotion
        is_waiting = running is not None and running.waits_for.endswith(", for canary_requests")
        return is_waiting and running is not None and running.canary_requests == 1

    await service.ask("new@1")
    await service.alias("trial", waits_for_one_more)
    await service.ask("new@1")
    await service.alias("trial", stands_for("new"))
    (promoted,) = [each.data for each in await history(client, "alias.trial.promoted")]
    assert isinstance(promoted, Promoted)
    assert [(each.gate, each.verdict, each.needed) for each in promoted.findings] == [
        ("canary_requests", "met", 2.0),
        ("canary_seconds", "met", 0.1),
    ]


async def test_a_version_is_promoted_by_hand_with_a_share_of_the_requests_first(service: Service) -> None:
    client = service.client
    await client.set_alias("chat", "old@1")
    await client.unload_model("new")
    begun = await client.promote_alias("chat", "new@1", canary_share=0.5)
    with pytest.raises(PromotionRunning, match="new@1 is being promoted to chat"):
        await client.promote_alias("chat", "next@1")
    await service.alias("chat", is_canary)
    alias = Alias(name="chat")
    for recorded in await history(client, "alias.chat.>"):
        alias = evolve(alias, recorded.data)
    for number in range(6):
        id = f"{begun.promotion_id} {number}"
        assert await service.ask("chat", id) == str(alias.chosen(partial(str, id)))
    await client.promote_alias("chat", "new@1")
    await service.alias("chat", stands_for("new"))
    assert await service.ask("chat") == "new@1"
    assert (await client.take_back_alias("chat")).message.startswith("chat stands for old@1")
    assert await service.ask("chat") == "old@1"
    assert await service.steps("chat") == [
        "alias.set",
        "alias.promotion_started",
        "alias.canary_started",
        "alias.promotion_started",
        "alias.promoted",
        "alias.taken_back",
    ]


async def promoted_by_gates(service: Service, alias: str, take_back: TakeBackReason) -> list[str]:
    """Have `next` promoted by what evaluations show, and return their ids."""
    client = service.client
    await client.set_alias(alias, "old@1")
    await client.promote_alias(alias, "next@1", canary_share=0.2, gates=GATES, take_back=[take_back])
    waiting = await service.alias(alias, is_canary)
    assert waiting.promotion is not None
    assert {each.verdict for each in waiting.promotion.findings} == {"open"}
    await service.evaluate("old", 0.80, 0.82, 0.81)
    assert (await service.alias(alias, is_canary)).model_id == "old", "the old version serves"
    ids = await service.evaluate("next", 0.90, 0.92, 0.91)
    assert (await service.alias(alias, stands_for("next"))).may_go_back
    return ids


async def test_gates_promote_a_version_and_a_retraction_takes_it_back(service: Service) -> None:
    client = service.client
    for earlier in (await client.get_model_evaluation_scores(model_name="next")).evaluations:
        await client.retract_model_evaluation(earlier.evaluation_id)
    first, *others = await promoted_by_gates(service, "gated", "retraction")
    (promoted,) = [each.data for each in await history(client, "alias.gated.promoted")]
    assert isinstance(promoted, Promoted)
    assert [(each.gate, each.verdict) for each in promoted.findings] == [
        ("evaluations", "met"),
        ("accuracy.not_worse_by", "met"),
    ]
    await client.retract_model_evaluation(first, reason="a bug in the set")
    await service.alias("gated", stands_for("old"))
    (back,) = await history(client, "alias.gated.taken_back")
    assert isinstance(back.data, TakenBack)
    assert back.data.reason == "retraction"
    explained = (await client.explain(seq=back.seq)).events[0].sentences
    assert explained[0] == (
        f"next@1 was taken back: gated stands for old@1 again, because evaluation {first} was retracted."
    )
    about = [each.type for each in (await client.explain("next")).events]
    assert {"suite.alias.promoted.v1", "suite.alias.taken_back.v1"} <= set(about)
    for each in others:
        await client.retract_model_evaluation(each)


async def test_gates_that_are_missed_end_a_promotion(service: Service) -> None:
    client = service.client
    await client.set_alias("bad", "old@1")
    await client.promote_alias("bad", "new@1", gates=GATES)
    await service.evaluate("old", 0.80, 0.82, 0.81)
    await service.evaluate("new", 0.10, 0.12, 0.11)
    await service.alias("bad", stands_for("old"))
    assert await service.steps("bad") == ["alias.set", "alias.promotion_started", "alias.promotion_stopped"]


async def test_a_version_that_cannot_be_loaded_is_not_promoted(service: Service) -> None:
    client = service.client
    await client.set_alias("whole", "old@1")
    await client.promote_alias("whole", "broken")
    await service.alias("whole", stands_for("old"))
    (stopped,) = await history(client, "alias.whole.promotion_stopped")
    (told,) = (await client.explain(seq=stopped.seq)).events[0].sentences
    assert told.startswith("broken@1 was not promoted to whole: it could not be loaded: ")


async def test_a_version_whose_adapter_cannot_be_loaded_is_not_promoted(service: Service) -> None:
    client = service.client
    await client.set_alias("loud", "old@1")
    await client.load_model("old")
    await client.promote_alias("loud", "mute")
    await service.alias("loud", stands_for("old"))
    (stopped,) = await history(client, "alias.loud.promotion_stopped")
    (told,) = (await client.explain(seq=stopped.seq)).events[0].sentences
    assert told.startswith("mute@1 was not promoted to loud: it could not be loaded: mute@1: llama.cpp could")
    with pytest.raises(LoadFailed, match="'what_is_this' has unexpected suffix"):
        await client.load_model("mute")
    assert (await client.load_model("pirate")).loaded


async def test_a_crash_loop_takes_a_version_back(service: Service) -> None:
    await promoted_by_gates(service, "steady", "crash_loop")
    await service.crash("next")
    await service.crash("next")
    await service.alias("steady", stands_for("old"))
    assert (await service.steps("steady"))[-1] == "alias.taken_back"
    await service.client.release_model("next")


async def test_a_promotion_goes_on_after_a_restart(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    for seed, name in enumerate(("old", "new")):
        tiny_model(models / f"{name}.gguf", seed=seed)
    async with running(tmp_path) as before:
        await before.version("old", 1)
        await before.version("new", 1)
        await before.client.set_alias("chat", "old@1")
        gates = Gates(evaluations=2, trust=ScoreGate(at_least=0.5))
        await before.client.promote_alias("chat", "new@1", gates=gates)
        await before.evaluate("new", 0.9)
    async with running(tmp_path) as after:
        assert (await after.alias("chat", lambda alias: alias.promotion is not None)).model_id == "old"
        await after.evaluate("new", 0.9)
        await after.alias("chat", stands_for("new"))
        assert await after.ask("chat") == "new@1"
