"""Adapters, guesses, pictures and snapshots in one model at once: each answer is what it is alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import anyio

from suite.client import Client
from suite.messages.actions.generation import GenerateTextReply
from support.adapters import adapter
from support.models import CHAT_TEMPLATE, tiny_model
from support.pictures import in_base64, picture
from support.projector import END, PICTURE_TOKENS, START, tiny_projector
from support.service import service_and_client

Fields: TypeAlias = dict[str, Any]
Chat: TypeAlias = list[Fields]

CONFIGURATION = """
[models.seeing]
draft_model = "twin"
slots = 3
n_threads = 1
"""
TOKENS = 16
CLOSE = 0.02
"""How much the logarithm of a probability may differ: other adapters, or another picture, change far more."""


def asked(text: str, *pictures: bytes) -> Fields:
    shown: Chat = [{"type": "image", "data": in_base64(each)} for each in pictures]
    return {"role": "user", "content": [*shown, {"type": "text", "text": text}]}


RED, BLUE = picture((255, 0, 0)), picture((0, 0, 255))
KINDS: Mapping[str, tuple[Fields, Fields]] = {
    "plain": (asked("what is there in the sea?"), {}),
    "unguessed": (asked("what is there in the sea?"), {"speculation": False}),
    "pirate": (asked("what is there in the sea?"), {"adapters": "pirate"}),
    "red": (asked("what is there in the sea?", RED), {}),
    "blue": (asked("what is there in the sea?", BLUE), {}),
    "red pirate": (asked("what is there in the sea?", RED), {"adapters": "pirate"}),
}
"""What each conversation begins with, and what is asked for with each of its turns."""


def make_models(directory: Path) -> None:
    """A model that reads pictures, with an adapter and a draft model of the same weights."""
    directory.mkdir()
    model = tiny_model(directory / "seeing.gguf", control=[START, END], chat_template=CHAT_TEMPLATE)
    tiny_model(directory / "twin.gguf", control=[START, END], name="twin")
    tiny_projector(directory / "mmproj-seeing.gguf")
    adapter(directory / "pirate.gguf", model)


async def say(client: Client, chat: Sequence[Fields], fields: Fields, **more: Any) -> GenerateTextReply:
    return await client.generate_text(
        "seeing", messages=list(chat), temperature=0, max_tokens=TOKENS, logprobs=0, **fields, **more
    )


async def all_say(client: Client, chats: Mapping[str, Chat]) -> dict[str, GenerateTextReply]:
    """The next answer of each conversation, all at once."""
    replies: dict[str, GenerateTextReply] = {}

    async def one(kind: str) -> None:
        replies[kind] = await say(client, chats[kind], KINDS[kind][1], conversation_id=kind)

    async with anyio.create_task_group() as tasks:
        for kind in chats:
            tasks.start_soon(one, kind)
    return replies


def check_same(one: GenerateTextReply, other: GenerateTextReply) -> None:
    """As long as both say the same, and their first token at least."""
    assert one.logprobs and other.logprobs
    for place, (left, right) in enumerate(zip(one.logprobs, other.logprobs, strict=False)):
        if left.token != right.token:  # of two that are nearly as likely
            assert place and abs(left.logprob - right.logprob) < CLOSE
            return
        assert abs(left.logprob - right.logprob) < CLOSE


async def test_all_features_in_one_model_leave_each_answer_as_it_is_alone(tmp_path: Path) -> None:
    make_models(tmp_path / "models")
    config = tmp_path / "suite.toml"
    config.write_text(CONFIGURATION)
    service = service_and_client(tmp_path / "models", tmp_path / "data", "--config", str(config))
    async with service as (_, client):
        drafted = Counter[str]()
        chats: dict[str, Chat] = {kind: [beginning] for kind, (beginning, _) in KINDS.items()}
        for is_after_a_load in (False, False, True):
            if is_after_a_load:
                await client.unload_model("seeing")
            replies = await all_say(client, chats)
            for kind, reply in replies.items():
                # With `reuse` off nothing is taken from memory or from a snapshot, and nothing is guessed.
                check_same(reply, await say(client, chats[kind], KINDS[kind][1], reuse=False))
                if len(chats[kind]) > 1:
                    assert reply.usage.reused_tokens > PICTURE_TOKENS, (kind, is_after_a_load)
                chats[kind] += [{"role": "assistant", "content": reply.text}, asked("and what else?")]
                drafted[kind] += reply.usage.drafted_tokens
        assert drafted.total() and not drafted["unguessed"]
        first = {kind: reply.logprobs[0].logprob for kind, reply in replies.items() if reply.logprobs}
        assert abs(first["plain"] - first["pirate"]) > 2 * CLOSE, "adapters matter"
        assert abs(first["red"] - first["blue"]) > 2 * CLOSE, "pictures matter"
