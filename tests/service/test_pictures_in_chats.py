"""Pictures in chats with a real service, whose small model has a projector beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from suite.client import Client
from suite.errors import (
    InvalidPicture,
    InvalidRequest,
    PictureNotAllowed,
    PictureTooLarge,
    PictureUnreachable,
    PromptTooLong,
    TooLarge,
    UnsupportedContent,
)
from suite.messages.actions.generation import GenerateTextReply
from support.command import Command
from support.gateway import RunningGateway
from support.models import CHAT_TEMPLATE, tiny_model
from support.pictures import in_base64, noisy_picture, picture, png
from support.projector import END, PICTURE_TOKENS, START, tiny_projector
from support.service import service_and_client
from support.web import Web, found, head, web

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
    async with (
        web({}) as site,
        service_and_client(
            models,
            tmp_path / "suite",
            "--http",
            "127.0.0.1:0",
            environ={"SUITE_PICTURES_FETCH_FROM": f"127.0.0.1:{site.port},*.example:{site.port}"},
        ) as (service, client),
    ):
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
        await check_those_of_the_web(client, site)
        await check_refusals_of_the_web(client, site)
        command = Command(service.data_dir)
        told = await command.document(
            "generate", "seeing", "what is it?", "--image", site.url("/red"), "--max-tokens", "1"
        )
        assert told["usage"]["prompt_tokens"] == (await ask(client, message(RED))).usage.prompt_tokens
        url = service.connection_file().http
        assert url is not None
        await anyio.to_thread.run_sync(check_all_apis, int(url.rpartition(":")[2]), site)
        assert "secret" not in service.errors.read_text()


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
        with pytest.raises((InvalidPicture, PictureNotAllowed), match=r"messages\[0\]\.content\[0\]' has"):
            await ask(client, {"role": "user", "content": [part]})
    with pytest.raises(PromptTooLong):
        await ask(client, message(*[RED] * 20))
    assert (await ask(client, message(BLUE))).text


def of_the_web(*urls: str, **part: Any) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": each}} for each in urls]
    return {"role": "user", "content": [*parts, *part.values(), {"type": "text", "text": "what is it?"}]}


async def check_those_of_the_web(client: Client, site: Web) -> None:
    """What is fetched is the same picture as one that is sent, also beside large ones that are sent apart."""
    noise, large = noisy_picture(seed=3), noisy_picture(seed=4)
    site.answers |= {"/red": found(RED), "/blue": found(BLUE), "/noise": found(noise)}
    sent = await ask(client, message(RED))
    fetched = await ask(client, of_the_web(site.url("/red?token=secret")))
    assert fetched.usage.reused_tokens == fetched.usage.prompt_tokens - 1 == sent.usage.prompt_tokens - 1
    native = {"type": "image", "data": site.url("/red")}
    assert (await ask(client, of_the_web(native=native))).usage == fetched.usage

    both = [await ask(client, of_the_web(native=each)) for each in parts_of(noise, site.url("/noise"))]
    assert both[0].usage.prompt_tokens == both[1].usage.prompt_tokens
    assert both[1].usage.reused_tokens == both[1].usage.prompt_tokens - 1

    before = len(site.asked)
    (apart,) = parts_of(large)
    beside = await ask(client, of_the_web(*[site.url("/blue")] * 2, site.url("/noise"), native=apart))
    assert beside.usage.prompt_tokens > 4 * PICTURE_TOKENS
    assert len(site.asked) == before + 2, "each once"


def parts_of(*pictures: bytes | str) -> list[dict[str, Any]]:
    return [
        {"type": "image_url", "image_url": each}
        if isinstance(each, str)
        else {"type": "image", "data": in_base64(each)}
        for each in pictures
    ]


async def check_refusals_of_the_web(client: Client, site: Web) -> None:
    site.answers |= {"/text": found(b"this is a text"), "/large": head(200, "content-length: 30000000")}
    refused = {
        site.url("/text"): (InvalidPicture, "no format that is known here"),
        site.url("/large"): (PictureTooLarge, "30000000 bytes and may have"),
        site.url("/gone"): (PictureUnreachable, "answered with 404"),
        "https://example.org/secret": (PictureNotAllowed, "not listed in pictures.fetch_from"),
        "http://169.254.169.254/secret": (PictureNotAllowed, "not listed in pictures.fetch_from"),
        f"http://u:secret@127.0.0.1:{site.port}/": (InvalidPicture, "a user name or a password"),
    }
    for url, (error, words) in refused.items():
        with pytest.raises(error, match=words) as told:
            await ask(client, of_the_web(url))
        assert "secret" not in told.value.message
    with pytest.raises(PictureUnreachable, match="answered with 404"):
        await ask(client, of_the_web(site.url("/red"), site.url("/gone")))
    with pytest.raises(InvalidRequest, match="17 pictures would have to be fetched, and at most 16"):
        await ask(client, of_the_web(*(site.url(f"/red?{number}") for number in range(17))))
    assert (await ask(client, of_the_web(site.url("/red")))).text


def check_all_apis(port: int, site: Web) -> None:
    """A URL in the form of each API."""
    gateway = RunningGateway("127.0.0.1", port, Path())
    url, text = site.url("/red"), {"type": "text", "text": "what is it?"}
    openai = [{"type": "image_url", "image_url": {"url": url}}, text]
    responses = [{"type": "input_image", "image_url": url}, {"type": "input_text", "text": text["text"]}]
    anthropic = [{"type": "image", "source": {"type": "url", "url": url}}, text]
    asked: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": [{"role": "user", "content": openai}], "max_tokens": 1},
        "/v1/responses": {"input": [{"role": "user", "content": responses}], "max_output_tokens": 1},
        "/v1/messages": {"messages": [{"role": "user", "content": anthropic}], "max_tokens": 1},
        "/api/chat": {
            "messages": [{"role": "user", "content": text["text"], "images": [url]}],
            "options": {"num_predict": 1},
            "stream": False,
        },
    }
    for path, body in asked.items():
        before = len(site.asked)
        answer = gateway.post(path, {"model": "seeing", **body})
        assert (answer.status, len(site.asked)) == (200, before + 1), (path, answer.body)
    body = asked["/v1/chat/completions"]
    elsewhere = json.loads(json.dumps(body).replace(url, "https://example.org/secret"))
    answer = gateway.post("/v1/chat/completions", {"model": "seeing", **elsewhere})
    assert (answer.status, answer.error["code"]) == (400, "picture_not_allowed")


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
