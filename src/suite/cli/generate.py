"""``suite generate`` and ``suite cancel``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from suite.cli import streams
from suite.cli.completion import model_ids
from suite.cli.options import Callback, Target, client_command

if TYPE_CHECKING:
    from suite.client import Client
    from suite.messages.actions.generation import GenerateTextReply


def sampling_options(command: Callback) -> Callback:
    """Add the options for sampling; the service has defaults for those not given."""
    for flag, kind, meaning in reversed(
        (
            ("--system", str, "System prompt."),
            ("--max-tokens", int, "Maximum number of tokens in the answer."),
            ("--temperature", float, "Randomness; 0 always takes the likeliest token."),
            ("--top-p", float, "Sample from the likeliest tokens with this total probability."),
            ("--top-k", int, "Sample from this many of the likeliest tokens; 0: all."),
            ("--min-p", float, "Drop tokens less likely than this fraction of the likeliest."),
            ("--repeat-penalty", float, "Values over 1 make repetition less likely."),
            ("--seed", int, "The same seed gives the same text."),
        )
    ):
        command = click.option(flag, type=kind, help=meaning)(command)
    return click.option("--stop", multiple=True, help="Stop before this text; may be repeated.")(command)


def request_fields(options: dict[str, Any]) -> dict[str, Any]:
    """The given options, by the names of the request's fields."""
    given = {name: value for name, value in options.items() if value not in (None, ())}
    if "system" in given:
        given["system_prompt"] = given.pop("system")
    return given


@click.command()
@click.argument("model", shell_complete=model_ids)
@click.argument("prompt", required=False)
@click.option("--chat", is_flag=True, help="Send PROMPT as a chat message, with the model's chat template.")
@click.option("--conversation", help="Id of a conversation, to reuse its tokens in memory.")
@click.option("--id", "generation_id", help="Id of the generation, for `suite cancel`.")
@sampling_options
@client_command
def generate(
    target: Target, model: str, prompt: str | None, chat: bool, conversation: str | None, **options: Any
) -> None:
    """Generate text with MODEL from PROMPT, or from standard input if there is no PROMPT or it is '-'.

    The text is printed as it is generated. Ctrl-C ends the generation on the server too. With --json the
    whole reply is printed at the end.

    \b
    Examples:
      suite generate smollm2 "Once upon a time" --max-tokens 64
      suite generate smollm2 "What is a llama?" --chat --temperature 0
      cat letter.txt | suite generate smollm2 --system "Summarise the text." --chat --json
    """
    if prompt is None or prompt == "-":
        prompt = streams.read_all()
    content = {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
    arguments: dict[str, Any] = {**content, **request_fields(options), "conversation_id": conversation}

    async def work(client: Client) -> GenerateTextReply:
        from suite.cli.output import Bar, note, text  # slow to import, and not needed for --help

        if target.as_json:
            return await client.generate_text(model, **arguments)
        with Bar(f"loading {model}") as bar:
            async with client.generate(model, on_progress=bar.advance, **arguments) as generation:
                async for chunk in generation:
                    bar.close()
                    text(chunk.text)
        text("\n")
        note(summary_line(generation.reply))
        return generation.reply

    reply = target.run(work)
    if target.as_json:
        from suite.cli.output import json_line

        json_line(reply)


def summary_line(reply: GenerateTextReply) -> str:
    """Token counts and timings of a generation, on one line."""
    from suite.cli.output import duration, number

    usage, timings = reply.usage, reply.timings
    parts = [
        f"{usage.completion_tokens} tokens ({reply.finish_reason})",
        f"prompt {usage.prompt_tokens} tokens, {usage.reused_tokens} reused",
    ]
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

    \b
    Examples:
      suite cancel 0199c0de-7a52-7c3e-b2a4-1d9f6c1f0a11
    """
    from suite.cli.output import json_line

    reply = target.run(lambda client: client.cancel_generation(generation_id))
    if target.as_json:
        json_line(reply)
    else:
        click.echo(f"{reply.generation_id}: {'told to end' if reply.cancelled else 'has ended already'}")
