"""``suite generate`` and ``suite cancel``."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from suite.cli import streams
from suite.cli.completion import model_ids
from suite.cli.model_ids import described, for_model
from suite.cli.options import Callback, Target, client_command
from suite.errors import GenerationNotFound
from suite.messages.actions.base import AdapterChoice
from suite.messages.actions.generation import GenerateTextRequest

if TYPE_CHECKING:
    from suite.client import Client
    from suite.messages.actions.generation import CancelGenerationReply, GenerateTextReply


_CHOSEN_BY_THE_SERVICE: Final = {"--system": "none", "--seed": "random"}


def sampling_options(command: Callback) -> Callback:
    """Add the options for sampling; the model or the service has the defaults for those not given."""
    command = click.option(
        "--no-reuse",
        "reuse",
        flag_value=False,
        default=None,
        help="Decode the whole prompt, also what is in memory: slower, and the same each time.",
    )(command)
    command = click.option(
        "--no-speculation",
        "speculation",
        flag_value=False,
        default=None,
        help="Guess no tokens ahead.",
    )(command)
    for flag, kind, meaning in reversed(
        (
            ("--system", str, "System prompt."),
            ("--max-tokens", int, "Maximum number of tokens in the answer."),
            ("--temperature", float, "Randomness; 0 always takes the likeliest token."),
            ("--top-p", float, "Sample from the likeliest tokens with this total probability."),
            ("--top-k", int, "Sample from this many of the likeliest tokens; 0: all."),
            ("--min-p", float, "Drop tokens less likely than this fraction of the likeliest."),
            ("--repeat-penalty", float, "Values over 1 make repetition less likely."),
            ("--seed", int, "With --no-reuse, the same seed gives the same text on an idle model."),
        )
    ):
        command = click.option(
            flag, type=kind, help=f"{meaning}  [default: {_default(flag)}, or the model's own]"
        )(command)
    command = click.option(
        "--stop",
        multiple=True,
        help="Stop before this text; may be repeated.  [default: none, or the model's own]",
    )(command)
    return click.option(
        "--adapter",
        "adapters",
        metavar="ID[=SCALE]",
        multiple=True,
        callback=_adapters,
        help="LoRA adapter to compute with, and how much of it; may be repeated.  [default: none; scale 1]",
    )(command)


def _adapters(
    _: click.Context, __: click.Parameter, values: tuple[str, ...]
) -> tuple[str | AdapterChoice, ...]:
    """Adapters as a request has them. Raises BadParameter."""
    return tuple(map(_adapter, values))


def _adapter(typed: str) -> str | AdapterChoice:
    id, given, scale = typed.rpartition("=")
    if not given:
        return typed
    try:
        return msgspec.convert({"id": id, "scale": float(scale)}, AdapterChoice)
    except (ValueError, msgspec.ValidationError):
        raise click.BadParameter(f"{typed!r} is not ID or ID=SCALE with a scale from -100 to 100") from None


def _default(flag: str) -> object:
    """The default of the field of the request that an option sets."""
    fields = {field.name: field.default for field in msgspec.structs.fields(GenerateTextRequest)}
    return _CHOSEN_BY_THE_SERVICE.get(flag) or fields[flag.removeprefix("--").replace("-", "_")]


def request_fields(options: dict[str, Any]) -> dict[str, Any]:
    """The given options, by the names of the request's fields."""
    given = {name: value for name, value in options.items() if value not in (None, ())}
    if "system" in given:
        given["system_prompt"] = given.pop("system")
    return given


class _PictureParam(click.Path):
    """The path of a file, or a URL of the web, which stays a text."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, checked, or the URL."""
        if isinstance(value, str) and value.lower().startswith(("https://", "http://")):
            return value
        return super().convert(value, param, ctx)


@click.command()
@click.argument("model", shell_complete=model_ids)
@click.argument("prompt", required=False)
@click.option(
    "--chat/--raw",
    "chat",
    default=None,
    help="Send PROMPT as a message, with the model's chat template, or continue PROMPT as it is.  "
    "[default: --chat if the model has a template, else --raw]",
)
@click.option(
    "--image",
    "images",
    type=_PictureParam(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="Send this picture (PNG, JPEG, GIF, WebP, BMP) with PROMPT, or have the service fetch a URL; may be "
    "repeated.  [default: none]",
)
@click.option("--conversation", help="Id of a conversation, to reuse its tokens in memory.  [default: none]")
@click.option("--id", "generation_id", help="Id of the generation, for `suite cancel`.  [default: a new one]")
@sampling_options
@client_command
def generate(
    target: Target,
    model: str,
    prompt: str | None,
    chat: bool | None,
    images: tuple[Path | str, ...],
    conversation: str | None,
    **options: Any,
) -> None:
    """Answer PROMPT with MODEL; without PROMPT, or if it is '-', it is read from standard input.

    The prompt is a message for the model's chat template. A model without one continues the text as it is,
    and so does every model with --raw. The answer is printed as it is generated. Ctrl-C ends the generation
    on the server too. With --json the whole reply is printed at the end.

    \b
    Examples:
      suite generate smollm2 "What is a llama?" --temperature 0
      suite generate smollm2 "Once upon a time" --raw --max-tokens 64
      suite generate qwen2-vl "What is this?" --image photo.jpg
      suite generate smollm2 "Who are you?" --adapter pirate --adapter poet=0.5
      cat letter.txt | suite generate smollm2 --system "Summarise the text." --json
    """
    if prompt is None or prompt == "-":
        prompt = streams.read_all()
    if images and chat is False:
        raise click.UsageError("--image needs a chat: leave out --raw")
    answer(
        target,
        model,
        prompt,
        chat=True if images else chat,
        options={**options, "conversation_id": conversation},
        images=images,
    )


def answer(
    target: Target,
    model: str,
    prompt: str,
    *,
    chat: bool | None,
    options: dict[str, Any],
    images: Sequence[Path | str] = (),
) -> None:
    """Print the answer to a prompt as it is generated, or the whole reply as JSON.

    `chat` says whether the prompt is a message for the model's chat template; None: if the model has one.
    """

    pictures = [_picture(path) for path in images]

    async def work(client: Client) -> GenerateTextReply:
        if chat is not None:
            content = _content(prompt, pictures, chat=chat)
            return await for_model(client, model, partial(_generated, client, target, content, options))
        info = await described(client, model)
        content = _content(prompt, pictures, chat=info.has_chat_template)
        return await _generated(client, target, content, options, info.model_id)

    reply = target.run(work)
    if target.as_json:
        from suite.cli.output import json_line

        json_line(reply)


def _picture(path: Path | str) -> dict[str, str]:
    """The file or the URL of a picture as a part of a message."""
    if isinstance(path, str):
        return {"type": "image_url", "image_url": path}
    try:
        data = path.read_bytes()
    except OSError as error:
        raise click.FileError(str(path), error.strerror) from None
    return {"type": "image", "data": base64.b64encode(data).decode()}


def _content(prompt: str, pictures: Sequence[dict[str, str]], *, chat: bool) -> dict[str, Any]:
    """The prompt as fields of the request: as a message, or as it is."""
    if not chat or not (prompt or pictures):
        return {"prompt": prompt}
    content = [*pictures, {"type": "text", "text": prompt}] if pictures else prompt
    return {"messages": [{"role": "user", "content": content}]}


async def _generated(
    client: Client, target: Target, content: Mapping[str, Any], options: dict[str, Any], model_id: str
) -> GenerateTextReply:
    """Generate; the text is printed, unless the whole reply will be."""
    from suite.cli.output import AnswerPrinter, Bar, note, text  # slow to import, and not needed for --help

    arguments = {**content, **request_fields(options)}
    if target.as_json:
        return await client.generate_text(model_id, **arguments)
    with Bar(f"loading {model_id}") as bar:
        generation = client.generate(model_id, on_progress=bar.advance, on_waiting=bar.wait, **arguments)
        async with generation:
            printer = AnswerPrinter()
            async for chunk in generation:
                bar.close()
                printer.add(chunk)
    text("\n")
    note(summary_line(generation.reply))
    return generation.reply


def summary_line(reply: GenerateTextReply) -> str:
    """Token counts and timings of a generation, on one line."""
    from suite.cli.output import duration, number

    usage, timings = reply.usage, reply.timings
    parts = [
        f"{usage.completion_tokens} tokens ({reply.finish_reason})",
        f"prompt {usage.prompt_tokens} tokens, {usage.reused_tokens} reused",
    ]
    if usage.drafted_tokens:
        parts.append(f"{usage.accepted_tokens} of {usage.drafted_tokens} guesses right")
    if timings.time_to_first_token_ms is not None:
        parts.append(f"first after {duration(timings.time_to_first_token_ms)}")
    if timings.tokens_per_second is not None:
        parts.append(f"{number(timings.tokens_per_second)} tokens/s")
    return ", ".join(parts)


@click.command()
@click.argument("generation_id")
@client_command
def cancel(target: Target, generation_id: str) -> None:
    """End the generation GENERATION_ID early; its requester gets the text so far.

    `suite status` shows the ids of running generations. A unique beginning of an id is enough.

    \b
    Examples:
      suite cancel 0199c0de
    """
    from suite.cli.output import json_line

    async def work(client: Client) -> CancelGenerationReply:
        try:
            return await client.cancel_generation(generation_id)
        except GenerationNotFound:
            return await client.cancel_generation(await _running_id(client, generation_id))

    reply = target.run(work)
    if target.as_json:
        json_line(reply)
    else:
        click.echo(f"{reply.generation_id}: {'told to end' if reply.cancelled else 'has ended already'}")


async def _running_id(client: Client, typed: str) -> str:
    """The id of the one unfinished generation that begins like this. Raises GenerationNotFound."""
    running = [each.generation_id for each in (await client.get_model_status()).generations]
    found = [id for id in running if id.startswith(typed)]
    if len(found) == 1:
        return found[0]
    name = repr(typed[:80])
    if found:
        raise GenerationNotFound(f"{name} may be {' or '.join(sorted(found)[:3])}: type more of it")
    raise GenerationNotFound(f"no generation {name} is running: `suite status` lists those that are")
