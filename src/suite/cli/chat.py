"""``suite chat``."""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from suite.cli import signals, streams
from suite.cli.completion import model_ids
from suite.cli.generate import request_fields, sampling_options, summary_line
from suite.cli.model_ids import for_model
from suite.cli.options import Target, client_command

if TYPE_CHECKING:
    from suite.client import Client
    from suite.messages.actions.generation import GenerateTextReply


@click.command()
@click.argument("model", shell_complete=model_ids)
@sampling_options
@client_command
def chat(target: Target, model: str, **options: Any) -> None:
    """Chat with MODEL. Each line is a message. /exit or Ctrl-D ends the chat, Ctrl-C ends an answer.

    Standard input may be a file whose lines are the messages. With --json each reply is one JSON line.

    \b
    Examples:
      suite chat smollm2
      suite chat smollm2 --system "Answer in one sentence." --temperature 0
      printf 'Hello!\\nAnd again?\\n' | suite chat smollm2 --json
    """
    talk(target, model, options)


def talk(target: Target, model: str, options: dict[str, Any]) -> None:
    """Answer the messages from standard input, until /exit or its end. Raises what the service refuses."""
    from suite.errors import SuiteError
    from suite.identity import new_id

    target.run(_nothing)  # a service that is not there is told before the first message is typed
    conversation = _Chat(target, model, {**request_fields(options), "conversation_id": new_id()})
    while (line := _read_line()) is not None:
        try:
            conversation.say(line)
        except SuiteError as error:
            if not sys.stdin.isatty():
                raise
            click.echo(f"error {error.code}: {error.message}", err=True)


async def _nothing(_: Client) -> None:
    """Only connect."""


def _read_line() -> str | None:
    """Read the next message; None at the end of the chat."""
    typed = sys.stdin.isatty()
    if typed:
        with suppress(ImportError):
            import readline  # noqa: F401 - importing it gives input() its line editing
    while True:
        try:
            line = input("> " if typed else "").strip()
        except EOFError:
            if typed:
                click.echo()  # after the prompt
            return None
        except UnicodeDecodeError as error:
            if not typed:
                raise streams.not_text(error) from None
            click.echo(f"error usage: {streams.not_text(error).message}", err=True)
            continue
        if line:
            return None if line == "/exit" else line


class _Chat:
    """The messages of a chat so far.

    Each answer has a connection and an event loop of its own. So while a line is typed, which blocks, nothing
    runs that Ctrl-C could disturb, and a service that was restarted in the meantime is found again.
    """

    def __init__(self, target: Target, model: str, options: dict[str, Any]) -> None:
        self._target = target
        self._model = model
        self._options = options
        self._messages: list[dict[str, str]] = []
        self._answer: list[str] = []

    def say(self, message: str) -> None:
        """Send a message and print the answer. Ctrl-C ends the answer; the chat keeps the text so far.

        A message without an answer is not kept: templates want a text from each side in turn.
        """
        self._answer.clear()
        messages = [*self._messages, {"role": "user", "content": message}]
        try:
            self._target.run(partial(self._turn, messages))
        except KeyboardInterrupt:
            if signals.asked_to_end():
                raise
            click.echo(" (ended)", err=True)
        if answer := "".join(self._answer):
            self._messages = [*messages, {"role": "assistant", "content": answer}]

    async def _turn(self, messages: list[dict[str, str]], client: Client) -> None:
        await for_model(client, self._model, partial(self._answer_from, client, messages))

    async def _answer_from(self, client: Client, messages: list[dict[str, str]], model_id: str) -> None:
        from suite.cli.output import Bar, json_line, note, text

        self._model = model_id
        as_json = self._target.as_json
        with Bar(f"loading {model_id}", shown=not as_json) as bar:
            generation = client.generate(
                model_id, messages=messages, on_progress=bar.advance, **self._options
            )
            async with generation:
                async for chunk in generation:
                    self._answer.append(chunk.text)
                    bar.close()
                    if not as_json:
                        text(chunk.text)
        reply: GenerateTextReply = generation.reply
        if as_json:
            json_line(reply)
        else:
            text("\n")
            note(summary_line(reply))
