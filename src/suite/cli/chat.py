"""``suite chat``."""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

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
    """Chat with MODEL. Each line is a message. /bye or Ctrl-D ends the chat, Ctrl-C ends an answer.

    On a terminal /? lists what else can be typed. When the model's context is full, the oldest messages are
    left out.

    Standard input may be a file whose lines are the messages. With --json each reply is one JSON line.

    \b
    Examples:
      suite chat smollm2
      suite chat smollm2 --system "Answer in one sentence." --temperature 0
      printf 'Hello!\\nAnd again?\\n' | suite chat smollm2 --json
    """
    talk(target, model, options)


def talk(target: Target, model: str, options: dict[str, Any]) -> None:
    """Answer the messages from standard input, until /bye or its end. Raises what the service refuses."""
    target.run(_nothing)  # a service that is not there is told before the first message is typed
    chat = _Chat(target, model, request_fields(options))
    if not sys.stdin.isatty():
        while (line := _read_line()) is not None and line not in _ENDS:
            chat.say(line.strip())
        return
    click.echo("/bye ends the chat, /? lists the commands", err=True)
    while (line := _read_line()) is not None and line not in _ENDS:
        _obey(chat, line)


_ENDS: Final = ("/bye", "/exit")
_HELP: Final = """\
/bye    end the chat, as /exit and Ctrl-D do
/clear  forget the messages so far
/?      show this, as /help does
\"""     begin a message of several lines, and end it
Ctrl-C  end an answer; at the prompt, the chat"""


def _obey(chat: _Chat, line: str) -> None:
    """Do what a line that was typed says: a command, or a message. What is refused is only told."""
    from suite.errors import SuiteError

    if line == "/clear":
        chat.clear()
    elif line in ("/?", "/help"):
        click.echo(_HELP, err=True)
    elif line.startswith("/"):
        command = line.split()[0]
        click.echo(f"no command {command}: /? lists them; with a space before it, it is a message", err=True)
    else:
        try:
            chat.say(line.strip())
        except SuiteError as error:
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
            line = _whole(input("> ")) if typed else input()
        except EOFError:
            if typed:
                click.echo()  # after the prompt
            return None
        except UnicodeDecodeError as error:
            if not typed:
                raise streams.not_text(error) from None
            click.echo(f"error usage: {streams.not_text(error).message}", err=True)
            continue
        if line.strip():
            return line.rstrip()


def _whole(line: str) -> str:
    """A line that was typed, or the message of several lines that it begins."""
    if not line.startswith(_QUOTES):
        return line
    lines = [line.removeprefix(_QUOTES)]
    while not lines[-1].rstrip().endswith(_QUOTES):
        lines.append(input("... "))
    return "\n".join(lines).rstrip().removesuffix(_QUOTES)


_QUOTES: Final = '"""'


class _Chat:
    """The messages of a chat so far.

    Each answer has a connection and an event loop of its own. So while a line is typed, which blocks, nothing
    runs that Ctrl-C could disturb, and a service that was restarted in the meantime is found again.
    """

    def __init__(self, target: Target, model: str, options: dict[str, Any]) -> None:
        self._target = target
        self._model = model
        self._options = {"truncate": "left", **options}
        self._answer: list[str] = []
        self.clear()

    def clear(self) -> None:
        """Begin anew, without the messages so far."""
        from suite.identity import new_id

        self._messages: list[dict[str, str]] = []
        self._options["conversation_id"] = new_id()
        self._is_cut = False

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
        from suite.cli.output import AnswerPrinter, Bar, json_line, note, text

        self._model = model_id
        as_json = self._target.as_json
        with Bar(f"loading {model_id}", shown=not as_json) as bar:
            generation = client.generate(
                model_id, messages=messages, on_progress=bar.advance, on_waiting=bar.wait, **self._options
            )
            printer = AnswerPrinter()
            async with generation:
                async for chunk in generation:
                    self._answer.append(chunk.text)
                    bar.close()
                    if not as_json:
                        printer.add(chunk)
        reply: GenerateTextReply = generation.reply
        if as_json:
            json_line(reply)
        else:
            text("\n")
            note(summary_line(reply))
            self._tell_of_cut(reply)

    def _tell_of_cut(self, reply: GenerateTextReply) -> None:
        """Say, the first time, that the model did not see all messages."""
        if reply.truncated_tokens and not self._is_cut:
            self._is_cut = True
            click.echo("the model's context is full: the oldest messages are left out from now on", err=True)
