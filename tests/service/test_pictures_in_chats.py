"""Pictures in chats with a real service, whose small model has a projector beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from suite.client import Client
from suite.errors import (
    InvalidPicture,
    InvalidRequest,
    PictureTooLarge,
    PromptTooLong,
    TooLarge,
    UnsupportedContent,
)
from suite.messages.actions.generation import GenerateTextReply
from support.models import CHAT_TEMPLATE, tiny_model
from support.nodes import client_of_node
from support.pictures import in_base64, noisy_picture, picture, png
from support.projector import END, PICTURE_TOKENS, START, tiny_projector

RED, BLUE = picture((255, 0, 0)), picture((0, 0, 255), format="JPEG")


async def ask(client: Client, *messages: dict[str, Any], **fields: Any) -> GenerateTextReply:
    return await client.generate_text(
        "seeing", messages=list(messages), max_tokens=4, temperature=0.0, **fields
    )


def message(*pictures: bytes, text: str = "what is it?") -> dict[str, Any]:
    parts = [{"type": "image", "data": in_base64(each)} for each in pictures]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


async def test_a_model_with_a_projector_beside_it_reads_pictures(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    tiny_model(models / "seeing.gguf", control=[START, END], chat_template=CHAT_TEMPLATE, context=256)
    tiny_projector(models / "mmproj-seeing-f16.gguf")
    tiny_model(models / "blind.gguf", chat_template=CHAT_TEMPLATE)
    async with client_of_node(models, tmp_path / "suite") as client:
        status = (await client.get_model_status("seeing")).model
        assert status is not None and status.capabilities == ("chat", "vision")
        assert status.projector == str(models / "mmproj-seeing-f16.gguf")
        with pytest.raises(
            UnsupportedContent, match="is a picture, and blind reads none: it has no projector"
        ):
            await client.generate_text("blind", messages=[message(RED)])
        blind = (await client.get_model_status("blind")).model
        assert blind is not None and not blind.loaded, "that needs no load"

        text = await ask(client, message())
        red = await ask(client, message(RED))
        more = red.usage.prompt_tokens - text.usage.prompt_tokens
        assert more > PICTURE_TOKENS, "those of the picture, and the tokens around it"
        await check_reuse(client)
        await check_forms(client)
        await check_refusals(client)
        await check_large_ones(client)


async def check_reuse(client: Client) -> None:
    """What was read of a picture is used again for that picture, and for no other."""
    opening = [message(RED, BLUE)]
    first = await ask(client, *opening, conversation_id="c")
    later = [*opening, {"role": "assistant", "content": first.text}, {"role": "user", "content": "and?"}]
    second = await ask(client, *later, conversation_id="c")
    assert second.usage.reused_tokens > 2 * PICTURE_TOKENS
    other = [message(RED, RED), *later[1:]]
    third = await ask(client, *other, conversation_id="c")
    assert PICTURE_TOKENS < third.usage.reused_tokens < 2 * PICTURE_TOKENS
    new_turn = [message(BLUE, text="and this?")]
    fourth = await ask(client, *new_turn, conversation_id="c", continue_=True)
    assert fourth.usage.prompt_tokens > third.usage.prompt_tokens + PICTURE_TOKENS


async def check_forms(client: Client) -> None:
    """A data URL is the same picture, in whatever form it comes."""
    url = f"data:image/png;base64,{in_base64(RED)}"
    native = await ask(client, message(RED))
    for form in ({"url": url, "detail": "low"}, url):
        parts = [{"type": "image_url", "image_url": form}, {"type": "text", "text": "what is it?"}]
        asked = await ask(client, {"role": "user", "content": parts})
        assert asked.usage.reused_tokens == asked.usage.prompt_tokens - 1 == native.usage.prompt_tokens - 1


async def check_refusals(client: Client) -> None:
    """What is no picture gets one clear line, and the model goes on."""

    async def send(data: bytes) -> None:
        await ask(client, message(data))

    with pytest.raises(InvalidPicture, match="no pixels, or no format that is known here: send one of PNG"):
        await send(b"this is a text")
    with pytest.raises(InvalidPicture, match="no pixels"):
        await send(png(0, 10, b""))
    with pytest.raises(PictureTooLarge, match="60000 x 60000, at most 50 million"):
        await send(png(60_000, 60_000, b""))
    await send(png(16, 16, bytes(10_000_000)))  # a bomb: no more of it is unpacked than it has pixels
    for url in ("https://example.com/a.png", "file:///etc/passwd", "data:image/png,abc"):
        part = {"type": "image_url", "image_url": {"url": url}}
        with pytest.raises(InvalidPicture, match="nothing is fetched from a network"):
            await ask(client, {"role": "user", "content": [part]})
    with pytest.raises(PromptTooLong):
        await ask(client, message(*[RED] * 20))
    assert (await ask(client, message(BLUE))).text


async def check_large_ones(client: Client) -> None:
    """What does not fit into a message is sent in parts; read once, it is not sent again."""
    noise = noisy_picture(seed=1)
    assert len(noise) > 2 << 20
    first = await ask(client, message(noise))
    again = await ask(client, message(noise))
    assert again.usage.reused_tokens == first.usage.prompt_tokens - 1
    url = f"data:image/png;base64,{in_base64(noise)}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what is it?"}]
    assert (await ask(client, {"role": "user", "content": parts})).usage == again.usage
    with pytest.raises(PictureTooLarge, match="and may have 20971520"):
        await ask(client, message(bytes(21 << 20)))
    with pytest.raises(TooLarge):
        await ask(client, message(RED, text="x" * (2 << 20)))
    announced = {"type": "image", "attached": "0" * 64}
    with pytest.raises(InvalidRequest, match="attachments is missing"):
        await ask(client, {"role": "user", "content": [announced]})
