"""``suite chat``."""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from suite.cli.generate import request_fields, sampling_options, summary_line
from suite.cli.model_ids import for_model
from suite.cli.options import Target, client_command

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

    from suite.client import Client
    from suite.messages.actions.generation import GenerateTextReply


@click.command()
@click.argument("model")
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
    from anyio.from_thread import start_blocking_portal

    from suite.errors import SuiteError
    from suite.identity import new_id

    # The line editor blocks, so it runs in the main thread, and the client in the portal's thread.
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(target.connect()) as client:
        talk = _Chat(
            portal, client, model, {**request_fields(options), "conversation_id": new_id()}, target.as_json
        )
        while (line := _read_line()) is not None:
            try:
                talk.say(line)
            except SuiteError as error:
                if not sys.stdin.isatty():
                    raise
                click.echo(f"error {error.code}: {error.message}", err=True)


def _read_line() -> str | None:
    """Read the next message; None at the end of the chat."""
    prompt = ""
    if sys.stdin.isatty():
        with suppress(ImportError):
            import readline  # noqa: F401 - importing it gives input() its line editing
        prompt = "> "
    try:
        while not (line := input(prompt).strip()):
            pass
    except EOFError:
        return None
    return None if line == "/exit" else line


class _Chat:
    """The messages of a chat so far."""

    def __init__(
        self, portal: BlockingPortal, client: Client, model: str, options: dict[str, Any], as_json: bool
    ) -> None:
        self._portal = portal
        self._client = client
        self._model = model
        self._options = options
        self._as_json = as_json
        self._messages: list[dict[str, str]] = []
        self._answer: list[str] = []

    def say(self, message: str) -> None:
        """Send a message and print the answer. Ctrl-C ends the answer; the chat keeps the text so far."""
        self._answer.clear()
        messages = [*self._messages, {"role": "user", "content": message}]
        turn = self._portal.start_task_soon(self._turn, messages)
        try:
            turn.result()
        except KeyboardInterrupt:
            turn.cancel()
            click.echo(" (ended)", err=True)
        self._messages = [*messages, {"role": "assistant", "content": "".join(self._answer)}]

    async def _turn(self, messages: list[dict[str, str]]) -> None:
        await for_model(self._client, self._model, partial(self._answer_from, messages))

    async def _answer_from(self, messages: list[dict[str, str]], model_id: str) -> None:
        from suite.cli.output import Bar, json_line, note, text

        self._model = model_id
        with Bar(f"loading {model_id}", shown=not self._as_json) as bar:
            generation = self._client.generate(
                model_id, messages=messages, on_progress=bar.advance, **self._options
            )
            async with generation:
                async for chunk in generation:
                    self._answer.append(chunk.text)
                    bar.close()
                    if not self._as_json:
                        text(chunk.text)
        reply: GenerateTextReply = generation.reply
        if self._as_json:
            json_line(reply)
        else:
            text("\n")
            note(summary_line(reply))
