"""``suite generate`` and ``suite cancel``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from suite.cli.options import Callback, Where, client_command

if TYPE_CHECKING:
    from suite.client import Client
    from suite.messages.actions.generation import GenerateTextReply


def sampling_options(command: Callback) -> Callback:
    """The options that say how to generate; what is not given is left to the service."""
    for flag, kind, meaning in reversed(
        (
            ("--system", str, "System prompt."),
            ("--max-tokens", int, "Most tokens of the answer."),
            ("--temperature", float, "0 takes the likeliest token."),
            ("--top-p", float, "Keep the likeliest tokens of this share."),
            ("--top-k", int, "Keep this many of the likeliest tokens; 0: all."),
            ("--min-p", float, "Drop tokens less likely than this share of the likeliest."),
            ("--repeat-penalty", float, "Over 1 makes repetition less likely."),
            ("--seed", int, "The same seed gives the same text."),
        )
    ):
        command = click.option(flag, type=kind, help=meaning)(command)
    return click.option("--stop", multiple=True, help="Text before which to end; may be repeated.")(command)


def chosen(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, by the names of the request."""
    given = {name: value for name, value in options.items() if value not in (None, ())}
    if "system" in given:
        given["system_prompt"] = given.pop("system")
    return given


@click.command()
@click.argument("model")
@click.argument("prompt", required=False)
@click.option("--chat", is_flag=True, help="Send PROMPT as a message through the model's chat template.")
@click.option("--conversation", help="Id of a conversation whose tokens may be in memory.")
@click.option("--id", "generation_id", help="Id of the generation, for `suite cancel`.")
@sampling_options
@client_command
def generate(
    where: Where, model: str, prompt: str | None, chat: bool, conversation: str | None, **options: Any
) -> None:
    """Generate text with MODEL from PROMPT, or from standard input without one or with '-'.

    The text comes as it is made; Ctrl-C ends it on the server too. With --json the whole reply comes as one
    document at the end.

    \b
    Examples:
      suite generate smollm2 "Once upon a time" --max-tokens 64
      suite generate smollm2 "What is a llama?" --chat --temperature 0
      cat letter.txt | suite generate smollm2 --system "Summarise the text." --chat --json
    """
    if prompt is None or prompt == "-":
        prompt = sys.stdin.read()
    content = {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
    arguments: dict[str, Any] = {**content, **chosen(options), "conversation_id": conversation}

    async def work(client: Client) -> GenerateTextReply:
        from suite.cli.output import Bar, note, text  # bars cost start-up time that help need not pay

        if where.as_json:
            return await client.generate_text(model, **arguments)
        with Bar(f"loading {model}") as bar:
            async with client.generate(model, on_progress=bar.advance, **arguments) as generation:
                async for chunk in generation:
                    bar.close()
                    text(chunk.text)
        text("\n")
        note(figures(generation.reply))
        return generation.reply

    reply = where.run(work)
    if where.as_json:
        from suite.cli.output import json_line

        json_line(reply)


def figures(reply: GenerateTextReply) -> str:
    """What a generation took, in a line."""
    from suite.cli.output import duration

    usage, timings = reply.usage, reply.timings
    parts = [
        f"{usage.completion_tokens} tokens ({reply.finish_reason})",
        f"prompt {usage.prompt_tokens} tokens, {usage.reused_tokens} reused",
    ]
    if timings.time_to_first_token_ms is not None:
        parts.append(f"first after {duration(timings.time_to_first_token_ms)}")
    if timings.tokens_per_second is not None:
        parts.append(f"{timings.tokens_per_second:.0f} tokens/s")
    return ", ".join(parts)


@click.command()
@click.argument("generation_id")
@client_command
def cancel(where: Where, generation_id: str) -> None:
    """End the generation GENERATION_ID early; its requester gets what there is.

    \b
    Examples:
      suite cancel 0199c0de-7a52-7c3e-b2a4-1d9f6c1f0a11
    """
    from suite.cli.output import json_line

    reply = where.run(lambda client: client.cancel_generation(generation_id))
    if where.as_json:
        json_line(reply)
    else:
        click.echo(f"{reply.generation_id}: {'told to end' if reply.cancelled else 'has ended already'}")
