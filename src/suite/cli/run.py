"""``suite run``."""

from __future__ import annotations

import sys
from typing import Any

import click

from suite.cli import streams
from suite.cli.chat import talk
from suite.cli.completion import model_ids
from suite.cli.generate import answer, sampling_options
from suite.cli.model_ids import described
from suite.cli.models import loaded
from suite.cli.options import Target, client_command


@click.command()
@click.argument("model", shell_complete=model_ids)
@click.argument("prompt", nargs=-1)
@sampling_options
@client_command
def run(target: Target, model: str, prompt: tuple[str, ...], **options: Any) -> None:
    """Answer PROMPT with MODEL, or chat with it if there is no PROMPT. The model is loaded if necessary.

    Standard input that is not a terminal is part of the prompt: it follows PROMPT. The answer uses the
    model's chat template; a model without one continues the text. In a chat each line is a message, /bye or
    Ctrl-D ends the chat, and Ctrl-C ends an answer. With --json the whole reply is printed at the end.

    \b
    Examples:
      suite run smollm2 "What is a llama?"
      suite run smollm2
      cat letter.txt | suite run smollm2 "Summarise this letter:"
      suite run smollm2 "Say hello in French." --temperature 0 --json
    """
    text = " ".join(prompt)
    if not sys.stdin.isatty():
        text = "\n\n".join(filter(None, (text, streams.read_all())))
    elif not text:
        talk(target, _loaded(target, model), options)
        return
    answer(target, model, text, chat=None, options=options)


def _loaded(target: Target, model: str) -> str:
    """Load the model before the first message is typed. Returns its id; raises NoChatTemplate."""
    from suite.errors import NoChatTemplate

    info = target.run(lambda client: described(client, model))
    if not info.has_chat_template:
        raise NoChatTemplate(f"{info.model_id} has no chat template: give it a text to continue, as PROMPT")
    return loaded(target, info.model_id).model_id
