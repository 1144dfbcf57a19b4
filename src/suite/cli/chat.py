"""``suite chat``."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from suite.cli import streams
from suite.cli.completion import model_ids
from suite.cli.generate import request_fields, sampling_options, summary_line
from suite.cli.options import Target, client_command

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

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
    from anyio.from_thread import start_blocking_portal

    from suite.identity import new_id

    # The line editor blocks, so it runs in the main thread, and the client in the portal's thread.
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(target.connect()) as client:
        talk = _Chat(
            portal, client, model, {**request_fields(options), "conversation_id": new_id()}, target.as_json
        )
        interrupted = _converse(talk)
    if interrupted:  # told only now: raised through the portal, it would end its thread in the middle of work
        raise KeyboardInterrupt


def _converse(talk: _Chat) -> bool:
    """Answer each message until the end of the chat. Returns whether Ctrl-C at the prompt ended it."""
    from suite.errors import SuiteError

    try:
        while (line := _read_line()) is not None:
            try:
                talk.say(line)
            except SuiteError as error:
                if not sys.stdin.isatty():
                    raise
                click.echo(f"error {error.code}: {error.message}", err=True)
    except KeyboardInterrupt:
        return True
    return False


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
        from suite.cli.output import Bar, json_line, note, text

        with Bar(f"loading {self._model}", shown=not self._as_json) as bar:
            generation = self._client.generate(
                self._model, messages=messages, on_progress=bar.advance, **self._options
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
