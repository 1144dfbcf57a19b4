"""``suite demo``."""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from suite.cli.invocation import arguments, typed
from suite.cli.model_ids import known_ids
from suite.cli.options import json_option
from suite.extras import require

if TYPE_CHECKING:
    from suite.client import Client
    from suite.messages.actions.generation import GenerateTextReply

QUESTIONS = ("What is photosynthesis? Answer in one sentence.", "Why does it matter?")
MAX_TOKENS = 64
SERVE = ("--node", "demo", "--http", "127.0.0.1:0")
HTTP_QUESTION = "What is a llama? Answer in one sentence."
HTTP_SECONDS = 60.0


@click.command()
@click.option(
    "--models-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A directory with a chat model as *.gguf.  [default: that of --model]",
)
@click.option("--model", help="A model's file or id. Default: the smallest one with a chat template.")
@json_option
def demo(models_dir: Path | None, model: str | None, as_json: bool) -> None:
    """Show everything once: load a model, chat, reuse the context, unload, and list the events.

    Starts a service with its own NATS server in a temporary data directory, uses it like any client, and
    leaves nothing behind, even on Ctrl-C.

    \b
    Examples:
      suite demo --model .models/SmolLM2-135M-Instruct.Q4_1.gguf
      suite demo --models-dir ~/models --model smollm2 --json
    """
    import anyio

    require("serve", "suite demo")
    if model is not None and model.endswith(".gguf"):
        file = Path(model)
        if not file.is_file():
            raise click.BadParameter(f"there is no file {file}", param_hint="--model")
        models_dir, model = models_dir or file.parent, file.stem
    if models_dir is None:
        raise click.UsageError("no model given: add --model FILE.gguf, or --models-dir DIR")
    with tempfile.TemporaryDirectory(prefix="suite-demo-", ignore_cleanup_errors=True) as directory:
        anyio.run(_Demo(Path(directory), models_dir, model, as_json).run)


class _Demo:
    """The steps of the demo, printed as text or as JSON lines."""

    def __init__(self, data_dir: Path, models_dir: Path, model: str | None, as_json: bool) -> None:
        self._data_dir = data_dir
        self._models_dir = models_dir
        self._model = model
        self._as_json = as_json

    async def run(self) -> None:
        from suite.cli.child import serve_in_child
        from suite.client import connect

        serve = arguments("serve", options=("--models-dir", str(self._models_dir)))
        self._say(f"suite {serve}  (a service of its own)")
        async with (
            serve_in_child(self._data_dir, [*SERVE, "--models-dir", str(self._models_dir)]),
            connect(data_dir=self._data_dir) as client,
        ):
            health = await client.health_check()
            self._tell("ready", f"{health.status}: node {health.node}, version {health.version}", health)
            model = await self._meant(client)
            await self._load(client, model)
            await self._talk(client, model)
            await self._ask_over_http(model)
            await self._show_status(client)
            await self._unload(client, model)
            await self._show_events(client)
        self._tell("stopped", f"\neverything is stopped\n\n{self._next(model)}", None)

    def _next(self, model: str) -> str:
        """What to type next, with the same model."""
        serve = typed("serve", options=("--models-dir", str(self._models_dir)))
        run = typed("run", model, "What is a llama?")
        return f"type next, in two terminals:\n  {serve}\n  {run}"

    def _say(self, command: str) -> None:
        """Print the command that does the same as the next step."""
        from suite.cli.output import headline

        if not self._as_json:
            headline(f"\n$ {command}")

    def _tell(self, step: str, text: str, result: Any) -> None:
        """Print the result of a step."""
        from suite.cli.output import json_line

        if self._as_json:
            json_line({"step": step, "result": result})
        else:
            click.echo(text)

    async def _meant(self, client: Client) -> str:
        if self._model is None:
            return await self._choose(client)
        (model_id,) = await known_ids(client, [self._model])
        return model_id

    async def _choose(self, client: Client) -> str:
        from suite.errors import ModelNotFound

        fit = [
            model
            for model in (await client.list_models()).models
            if model.has_chat_template and not model.error
        ]
        if not fit:
            raise ModelNotFound(f"{self._models_dir} has no chat model: put one there as *.gguf")
        return min(fit, key=lambda model: model.file_bytes).model_id

    async def _load(self, client: Client, model: str) -> None:
        from suite.cli.models import load_line
        from suite.cli.output import Bar

        self._say(f"suite {arguments('load', model)}")
        with Bar(f"loading {model}", shown=not self._as_json) as bar:
            reply = await client.load_model(model, on_progress=bar.advance, on_waiting=bar.wait)
        self._tell("load", load_line(reply), reply)

    async def _talk(self, client: Client, model: str) -> None:
        """Have a conversation of two turns; the second reuses the tokens of the first in memory."""
        from suite.cli.generate import summary_line

        messages: list[dict[str, str]] = []
        for turn, question in enumerate(QUESTIONS, 1):
            self._say(f"suite {arguments('chat', model)}   (turn {turn})\n> {question}")
            messages.append({"role": "user", "content": question})
            reply = await self._stream(client, model, messages)
            messages.append({"role": "assistant", "content": reply.text})
            self._tell("chat", f"  [{summary_line(reply)}]", reply)
            if turn > 1 and not self._as_json:
                usage = reply.usage
                click.echo(
                    f"  {usage.reused_tokens} of {usage.prompt_tokens} prompt tokens were still in memory"
                )

    async def _stream(self, client: Client, model: str, messages: list[dict[str, str]]) -> GenerateTextReply:
        from suite.cli.output import text

        async with client.generate(
            model, messages=messages, max_tokens=MAX_TOKENS, temperature=0.0, seed=1, conversation_id="demo"
        ) as generation:
            async for chunk in generation:
                if not self._as_json:
                    text(chunk.text)
        if not self._as_json:
            text("\n")
        return generation.reply

    async def _ask_over_http(self, model: str) -> None:
        """Ask as a client of OpenAI's API does."""
        import msgspec

        from suite.config import ConnectionFile

        messages = [{"role": "user", "content": HTTP_QUESTION}]
        body = {"model": model, "messages": messages, "max_tokens": MAX_TOKENS, "temperature": 0}
        url = f"{ConnectionFile.read(self._data_dir).http}/v1/chat/completions"
        self._say(f"curl {url} -d {shlex.quote(json.dumps(body))} | jq -r '.choices[0].message.content'")
        answer = msgspec.json.decode(await _post(url, json.dumps(body)))
        self._tell("http", f"{answer['choices'][0]['message']['content']}\n", answer)

    async def _show_status(self, client: Client) -> None:
        from suite.cli.output import json_line
        from suite.cli.status import show_instances

        self._say("suite status")
        reply = await client.list_models()
        if self._as_json:
            json_line({"step": "status", "result": reply})
        else:
            show_instances(reply.models)

    async def _unload(self, client: Client, model: str) -> None:
        from suite.cli.models import unload_line

        self._say(f"suite {arguments('unload', model)}")
        reply = await client.unload_model(model)
        self._tell("unload", unload_line(reply), reply)

    async def _show_events(self, client: Client) -> None:
        from suite.cli.events import show_event

        self._say("suite events")
        async for event in client.events():
            show_event(event, as_json=self._as_json)


async def _post(url: str, body: str) -> str:
    """Post a body with curl, or with Python's own client where there is no curl; return the answer."""
    import anyio
    import anyio.to_thread

    if curl := shutil.which("curl"):
        done = await anyio.run_process([curl, "--silent", "--show-error", url, "-d", body])
        return done.stdout.decode()

    def post() -> str:
        with urllib.request.urlopen(url, body.encode(), HTTP_SECONDS) as answer:
            return bytes(answer.read()).decode()

    return await anyio.to_thread.run_sync(post, abandon_on_cancel=True)
