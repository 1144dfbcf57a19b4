"""LoRA adapters as clients get them from a real service: per request, and as models of their own name."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.from_thread import start_blocking_portal
from msgspec import UNSET

import suite
from suite.client import Client
from suite.errors import AdapterMismatch, AdapterNotFound, InvalidRequest
from suite.messages.actions.base import AdapterChoice
from suite.messages.actions.generation import GenerateTextReply
from suite.messages.events import Generated, InstanceLoaded
from support.adapters import adapter
from support.models import CHAT_TEMPLATE, tiny_model
from support.pictures import in_base64
from support.pictures import picture as picture_of
from support.projector import END, START, tiny_projector
from support.service import history, serving

SETTINGS = """
[models.plain]
projector = "../mmproj.gguf"

[models.sailor]
base = "plain"
adapters = ["pirate", {id = "poet", scale = 0.25}]
aliases = ["jack"]

[models.lost]
base = "nowhere"
"""
PROMPT = "Once upon a time there was"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters") / "models"


@pytest.fixture(scope="module")
def data_dir(place: Path) -> Iterator[Path]:
    """Of a service that goes on from test to test."""
    place.mkdir()
    plain = tiny_model(place / "plain.gguf", control=[START, END], chat_template=CHAT_TEMPLATE, context=256)
    tiny_projector(place.parent / "mmproj.gguf")
    wide = tiny_model(place / "wide.gguf", embedding=128, seed=3)
    adapter(place / "pirate.gguf", plain, seed=1)
    adapter(place / "poet.gguf", plain, seed=2)
    adapter(place / "broad.gguf", wide)
    config = place.parent / "suite.toml"
    config.write_text(SETTINGS)
    service = serving(place, place.parent / "data", "--config", str(config))
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(service):
        yield place.parent / "data"


async def said(client: Client, model: str, *, prompt: str = PROMPT, **options: Any) -> GenerateTextReply:
    return await client.generate_text(model, prompt, temperature=0.0, max_tokens=8, logprobs=0, **options)


async def is_there(client: Client, name: str) -> bool:
    return any(
        each.model_id == name and each.file_state == "present" for each in (await client.list_models()).models
    )


def chances(reply: GenerateTextReply) -> float:
    """Of the first token: with another set of weights it is another number."""
    assert reply.logprobs
    return reply.logprobs[0].logprob


async def test_an_adapter_is_applied_per_request_and_its_name_is_a_model(data_dir: Path) -> None:
    async with suite.connect(data_dir=data_dir) as client:
        plain = await said(client, "plain")
        with_it = await said(client, "plain", adapters="pirate")
        as_model = await said(client, "pirate")
        off = await said(client, "plain", adapters=(AdapterChoice(id="pirate", scale=0.0),))
        assert plain.adapters == ()
        assert with_it.adapters == as_model.adapters == (AdapterChoice(id="pirate"),)
        assert {each.model_id for each in (plain, with_it, as_model)} == {"plain"}
        assert chances(with_it) == pytest.approx(chances(as_model), abs=0.05)
        assert abs(chances(plain) - chances(with_it)) > 0.1
        assert chances(off) == pytest.approx(chances(plain), abs=0.05)
        happened = [each.data for each in await history(client, "instance")]
        loads = [each.model_id for each in happened if isinstance(each, InstanceLoaded)]
        assert loads == ["plain"], "the model is in memory once"
        (event,) = [each for each in await history(client, "usage") if each.seq == as_model.seq]
        assert isinstance(event.data, Generated) and event.data.adapters is not UNSET
        assert (event.data.variant, with_it.variant) == ("pirate", None)
        (applied,) = event.data.adapters
        assert (applied.id, applied.scale, len(applied.sha256)) == ("pirate", 1.0, 64)
        (first, *_) = [each.data for each in await history(client, "usage") if each.seq == plain.seq]
        assert isinstance(first, Generated) and first.adapters is UNSET
        counted = (await client.usage(group_by=("name",), min_seq=off.seq)).usage
        names = {each.name: (each.model_id, each.uses) for each in counted}
        assert names == {"plain": ("plain", 3), "pirate": ("plain", 1)}
        (alone,) = (await client.usage(model_id="pirate")).usage
        assert (alone.model_id, alone.uses) == ("plain", 1), "not all uses of the model"
        assert "usage of pirate" in (await client.record_usage("pirate")).message
        (recorded_too,) = (await client.usage(model_id="pirate")).usage
        assert recorded_too.uses == 2


async def test_a_configured_name_stands_for_a_model_with_several_adapters(data_dir: Path) -> None:
    async with suite.connect(data_dir=data_dir) as client:
        for name in ("sailor", "jack"):
            reply = await said(client, name)
            assert reply.model_id == "plain"
            assert reply.adapters == (AdapterChoice(id="pirate"), AdapterChoice(id="poet", scale=0.25))
        more = await said(client, "pirate", adapters=[AdapterChoice(id="poet", scale=0.25)])
        assert chances(more) == pytest.approx(chances(reply), abs=0.05)


async def test_a_model_with_adapters_is_benchmarked_under_its_own_name(data_dir: Path) -> None:
    async with suite.connect(data_dir=data_dir) as client:
        reply = await client.run_benchmark("jack", streams=(1,), rounds=1, prompt_tokens=8, answer_tokens=4)
        assert (reply.model_id, reply.state) == ("sailor", "finished")
        (listed,) = (await client.get_benchmarks("jack", min_seq=reply.seq)).benchmarks
        (evaluation,) = (
            await client.get_model_evaluation_scores(model_name="sailor", min_seq=reply.seq)
        ).evaluations
        assert (listed.evaluation_id, listed.model_id) == (evaluation.evaluation_id, "sailor")
        assert evaluation.version == 1
        uses = [each.data for each in await history(client, "usage")]
        measured = [each for each in uses if isinstance(each, Generated) and each.requester == "benchmark"]
        assert measured and all(each.adapters is not UNSET for each in measured)


async def test_a_conversation_goes_on_with_its_own_adapters_only(data_dir: Path) -> None:
    async with suite.connect(data_dir=data_dir) as client:
        prompt = f"{PROMPT} a town that nobody knew by name"
        first = await said(client, "pirate", prompt=prompt, conversation_id="c1")
        again = await said(client, "pirate", prompt=prompt, conversation_id="c1")
        assert again.usage.reused_tokens == first.usage.prompt_tokens - 1
        other = await said(client, "plain", prompt=prompt, conversation_id="c1", adapters="poet")
        assert other.usage.reused_tokens == 0
        alone = await said(client, "poet", prompt=prompt, reuse=False)
        assert chances(other) == pytest.approx(chances(alone), abs=0.05)
        assert first.text != other.text


async def test_conversations_with_pictures_come_back_with_their_own_adapters(data_dir: Path) -> None:
    """From snapshots in files, as the model was unloaded in between."""
    picture = {"type": "image", "data": in_base64(picture_of((255, 0, 0)))}
    turn = {"role": "user", "content": [picture, {"type": "text", "text": "what is it?"}]}
    names = ("plain", "pirate", "poet")
    async with suite.connect(data_dir=data_dir) as client:

        async def seen(name: str, **options: Any) -> GenerateTextReply:
            return await client.generate_text(
                name, messages=[turn], temperature=0.0, max_tokens=24, logprobs=0, **options
            )

        first = {name: await seen(name, conversation_id=f"seen by {name}") for name in names}
        await client.unload_model("plain")
        for name in names:
            again = await seen(name, conversation_id=f"seen by {name}")
            assert again.usage.reused_tokens == again.usage.prompt_tokens - 1
            assert chances(again) == pytest.approx(chances(first[name]), abs=0.05)
        fresh = [chances(await seen(name, reuse=False)) for name in names]
        assert fresh == pytest.approx([chances(first[name]) for name in names], abs=0.05)
        assert min(abs(one - two) for one, two in combinations(fresh, 2)) > 0.1


async def test_names_are_listed_and_say_what_they_stand_for(data_dir: Path) -> None:
    async with suite.connect(data_dir=data_dir) as client:
        with anyio.fail_after(30):
            listing = await client.list_models()
            while any(each.version is None for each in listing.models):
                await anyio.sleep(0.1)
                listing = await client.list_models()
        models = {each.model_id: each for each in listing.models}
        assert sorted(models) == ["broad", "pirate", "plain", "poet", "sailor", "wide"]
        pirate, sailor = models["pirate"].variant, models["sailor"].variant
        assert models["plain"].variant is None
        assert {each.model_id: each.version for each in listing.models} == dict.fromkeys(models, 1)
        assert pirate is not None and (pirate.base, pirate.rank, pirate.fits) == ("plain", 4, ("plain",))
        assert sailor is not None and [each.id for each in sailor.adapters] == ["pirate", "poet"]
        assert models["broad"].variant is not None and models["broad"].variant.base == "wide"
        assert all(each.error is None for each in listing.models)
        assert models["pirate"].instances == () and models["pirate"].need_bytes == 0
        assert any("lost has the base 'nowhere'" in each for each in listing.warnings)
        status = (await client.get_model_status("jack")).model
        assert status is not None and (status.model_id, status.variant) == ("sailor", sailor)


async def test_what_does_not_fit_is_refused_by_name(data_dir: Path) -> None:
    async with suite.connect(data_dir=data_dir) as client:
        loads = len(await history(client, "instance"))
        with pytest.raises(AdapterMismatch, match="broad does not fit plain: it changes attn_q"):
            await said(client, "plain", adapters="broad")
        with pytest.raises(AdapterMismatch, match="wide is no adapter, it is a model"):
            await said(client, "plain", adapters="wide")
        with pytest.raises(AdapterNotFound, match="no adapter 'pirat': those that fit plain are pirate"):
            await said(client, "plain", adapters="pirat")
        with pytest.raises(InvalidRequest, match="'pirate' twice"):
            await said(client, "pirate", adapters="pirate")
        assert len(await history(client, "instance")) == loads, "nothing is loaded for it"


async def test_an_adapter_that_comes_later_is_used_without_another_load(data_dir: Path, place: Path) -> None:
    async with suite.connect(data_dir=data_dir) as client:
        await said(client, "plain")
        adapter(place / "late.gguf", place / "plain.gguf", seed=9)
        with anyio.fail_after(30):
            while not await is_there(client, "late"):
                await anyio.sleep(0.1)
        before = len(await history(client, "instance"))
        reply = await said(client, "late")
        assert reply.adapters == (AdapterChoice(id="late"),)
        assert len(await history(client, "instance")) == before
