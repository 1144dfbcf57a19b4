"""What people's fingers type: `suite run`, parts of ids, filters with ids as they are, `suite cancel`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import anyio
import click
import pytest
from anyio.from_thread import start_blocking_portal

import suite
from suite.cli.main import COMMANDS, commands, main
from suite.client import Client
from suite.errors import error_classes
from suite.messages.actions.status import GenerationInfo
from suite.messages.jsonschema import action_types
from suite.tasks import background
from support.command import Command
from support.models import CHAT_TEMPLATE, slow_model, tiny_model
from support.service import serving
from support.terminal import terminal

SMOL = "SmolLM2-135M.Q4_1"
"""Has a chat template."""
RAW = "smolvlm.base"
"""Has none."""
SLOW = "slow.Q8"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("typed")
    models = directory / "models"
    models.mkdir()
    tiny_model(models / f"{SMOL}.gguf", chat_template=CHAT_TEMPLATE, context=1024)
    tiny_model(models / f"{RAW}.gguf", context=1024, seed=1)
    slow_model(models / f"{SLOW}.gguf")
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serving(models, directory / "data")),
    ):
        yield directory / "data"


@pytest.fixture
def command(data_dir: Path) -> Command:
    return Command(data_dir)


ONE_TOKEN = ("--max-tokens", "1", "--temperature", "0")


async def prompt_tokens(command: Command, *arguments: str, input: str = "") -> int:
    """How long the prompt of a generation was for the model."""
    document = await command.document(*arguments, *ONE_TOKEN, input=input)
    tokens = document["usage"]["prompt_tokens"]
    assert isinstance(tokens, int)
    return tokens


async def test_an_answer_uses_the_template_of_a_model_that_has_one(command: Command) -> None:
    question = "What is a llama?"
    chat = await prompt_tokens(command, "generate", SMOL, question, "--chat")
    raw = await prompt_tokens(command, "generate", SMOL, question, "--raw")
    assert chat > raw
    assert await prompt_tokens(command, "generate", SMOL, question) == chat
    assert await prompt_tokens(command, "run", SMOL, *question.split()) == chat
    assert await prompt_tokens(command, "run", RAW, question) == raw
    assert await prompt_tokens(command, "generate", RAW, question) == raw
    assert "error no_chat_template: " in await command.refusal("generate", RAW, question, "--chat")


async def test_standard_input_follows_the_prompt(command: Command) -> None:
    both = await prompt_tokens(command, "run", SMOL, "Summarise:\n\na letter")
    assert await prompt_tokens(command, "run", SMOL, "Summarise:", input="a letter") == both
    assert await prompt_tokens(command, "run", SMOL, input="Summarise:\n\na letter") == both
    assert "error empty_prompt: " in await command.refusal("run", SMOL)


async def test_a_prompt_in_memory_is_decoded_anew_when_asked(command: Command) -> None:
    asked = ("generate", SMOL, "What is in memory is reused.", *ONE_TOKEN)
    for _ in range(2):
        reused = (await command.document(*asked))["usage"]["reused_tokens"]
    assert reused > 0
    assert (await command.document(*asked, "--no-reuse"))["usage"]["reused_tokens"] == 0


async def test_any_unique_beginning_of_an_id_will_do(command: Command) -> None:
    for typed in ("SmolLM2", "smollm2", "SMOLL", SMOL.lower()):
        assert (await command.document("status", typed))["model"]["model_id"] == SMOL
    assert await command.output("load", "smoll") == await command.output("load", SMOL)
    assert (await command.document("preload", "smoll", "smolv"))["results"].keys() == {SMOL, RAW}
    await command.output("log-evaluation", SMOL, "2026-w07", "0.8")
    assert (await command.document("compare", "smoll"))["models"][0]["evaluations"] == 1
    await command.output("run", "smollm2", "Hello", *ONE_TOKEN)
    for name, rows in (("usage", "usage"), ("evaluations", "evaluations")):
        assert (await command.document(name, "--model", "smollm2"))[rows]
    assert await command.output("errors", "--model", "smollm2") == "nothing went wrong\n"
    assert "are forgotten" in await command.output("clear", "smollm2")
    assert await command.output("clear", "--model", "smollm2") == "there was nothing to forget\n"
    assert (await command.run("clear", SMOL, "--model", SMOL)).returncode == 2
    chatted = await command.output("chat", "smollm2", *ONE_TOKEN, input="Hello\nAgain\n")
    assert len(chatted.splitlines()) == 2
    assert await command.output("unload", "smollm2") != f"{SMOL} is not loaded\n"


async def test_a_beginning_of_several_ids_lists_them_and_another_gets_suggestions(command: Command) -> None:
    takers = [["load"], ["unload"], ["status"], ["generate"], ["run"], ["chat"], ["preload"], ["compare"]]
    takers += [[name, "--model"] for name in ("clear", "usage", "errors", "evaluations", "events")]
    for taker in takers:
        done = await command.run(*taker, "smol", input="Hello")
        assert (done.returncode, done.stdout) == (1, ""), taker
        assert done.stderr == f"error model_not_found: 'smol' may be {SMOL} or {RAW}: type more of it\n"
    assert f"did you mean {SMOL!r}" in await command.refusal("load", "smolm2")
    assert "(`suite models`)" in await command.refusal("load", "xyz")


async def test_a_name_that_no_model_here_has_is_said_to_be_unknown(command: Command) -> None:
    assert (await command.document("record-usage", "smoll"))["status"] == "success"
    await command.output("log-evaluation", "smollm2", "2026-w07", "0.8")
    assert not {"smoll", "smollm2"} & {
        each["model_id"] for each in (await command.document("usage"))["usage"]
    }
    unknown = [("usage", "--model"), ("errors", "--model"), ("events", "--model"), ("compare",)]
    for taker in (*unknown, ("record-usage",), ("log-evaluation", "--f1", "1")):
        rest = ("2026-w07", "0.8") if taker[0] == "log-evaluation" else ()
        done = await command.run(*taker, "smolvlm.bsae", *rest)
        assert done.returncode == 0
        assert done.stderr.startswith(f"warning: no model 'smolvlm.bsae': did you mean {RAW!r}?\n"), taker


async def test_a_chat_goes_on_when_its_context_is_full(command: Command) -> None:
    done = await command.run("chat", SMOL, *ONE_TOKEN, input=3 * f"{'word ' * 120}\n")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 3)
    assert done.stderr == "the model's context is full: the oldest messages are left out from now on\n"


def test_what_can_be_typed_in_a_chat(data_dir: Path) -> None:
    keys = (b"Hello\r", b"/clear\r", b'"""Hel\r', b'lo"""\r', b"/?\r", b"/etc\r", b" /etc\r", b"/bye\r")
    with terminal(["chat", SMOL, "--json", *ONE_TOKEN, "--data-dir", str(data_dir)]) as screen:
        screen.until("/bye ends the chat")
        for line in keys:
            screen.type(line)
        assert screen.ended() == 0
    tokens = re.findall(r'"prompt_tokens":(\d+)', "".join(screen.rows))
    assert len(tokens) == 3
    assert int(tokens[1]) <= int(tokens[0]) + 2  # a chat that begins anew
    assert "/clear  forget the messages so far" in screen.text
    assert "no command /etc: /? lists them" in screen.text


async def test_filters_take_ids_as_they_are(command: Command) -> None:
    await command.run("run", SMOL, "Hello", *ONE_TOKEN)
    subject = f"suite.event.usage.{SMOL.replace('.', '%2E')}.generated"
    for filter in (f"usage.{SMOL}.>", f"usage.{SMOL}", f"usage.{SMOL}.generated", subject):
        assert subject in await command.output("events", "--filter", filter)
    assert await command.output("events", "--filter", f"instance.*.{SMOL}.loaded") != ""
    assert subject in await command.output("events", "--model", "smollm2")
    assert RAW not in await command.output("events", "--model", "smollm2")
    none = await command.run("events", "--filter", "usage.nobody.>")
    assert (none.returncode, none.stdout) == (0, "")
    assert none.stderr == "no event matches usage.nobody.> so far\n"
    assert "did you mean 'usage'?" in await command.refusal("events", "--filter", "usages")
    assert (await command.run("events", "--filter", "usage", "--model", SMOL)).returncode == 2


async def generations(client: Client, model_id: str | None = None) -> tuple[GenerationInfo, ...]:
    return (await client.get_model_status(model_id)).generations


async def test_running_generations_are_shown_and_cancelled_by_a_beginning(
    data_dir: Path, command: Command
) -> None:
    async with suite.connect(data_dir=data_dir, name="a test") as client, background() as tasks:
        ids = ("poem-one", "poem-two", "song")
        for id in ids:
            generation = client.generate(
                SLOW, "A secret", max_tokens=4000, generation_id=id, conversation_id=f"of {id}"
            )
            tasks.start_soon(generation.finish)
        with anyio.fail_after(30):
            while [each.state for each in await generations(client)] != ["generating"] * len(ids):
                await anyio.sleep(0.05)
        shown = await command.output("status", "slow")
        for words in (*ids, "generating", "of song", "a test"):
            assert words in shown
        assert "A secret" not in str(await command.document("status"))
        assert all(each.completion_tokens is not None for each in await generations(client, SLOW))
        assert await generations(client, SMOL) == ()
        assert "'poem' may be poem-one or poem-two" in await command.refusal("cancel", "poem")
        assert "`suite status` lists" in await command.refusal("cancel", "nothing")
        assert await command.output("cancel", "so") == "song: told to end\n"
        with anyio.fail_after(20):
            while len(await generations(client)) == len(ids):
                await anyio.sleep(0.05)
        tasks.cancel_scope.cancel()


def test_the_help_of_every_option_has_its_default() -> None:
    """A flag is off; what begins with "Only" leaves something out, and without it nothing is left out."""
    for name in COMMANDS:
        command = commands.get_command(click.Context(commands), name)
        assert command is not None
        for option in command.params:
            if isinstance(option, click.Option) and not option.is_flag and not option.show_default:
                help = option.help or ""
                assert help.startswith("Only") or "default: " in help.lower(), (name, option.opts)


def test_errors_and_help_name_what_a_person_can_type(capsys: pytest.CaptureFixture[str]) -> None:
    actions = {action.name for action in action_types()} - {"usage", "summary", "embed", "explain"}
    told = [kind.__doc__ or "" for kind in error_classes().values()]
    for name in COMMANDS:
        main([name, "--help"])
        told.append(capsys.readouterr().out)
    assert [text for text in told if any(action in text for action in actions)] == []
