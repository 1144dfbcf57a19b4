"""One service over the folders of other programs, as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from suite.actions.generation import completed
from suite.catalogue.entry import ParameterValue
from suite.errors import ModelFileInvalid
from suite.messages.actions.chat import ChatMessage
from suite.messages.actions.generation import GenerateTextRequest
from support.command import Command
from support.models import CHAT_TEMPLATE, tiny_model
from support.nodes import client_of_node
from support.stores import HuggingFaceHub, Ollama, tree, unwritable

REVISION = "0123456789abcdef" * 2 + "01234567"
CHAT = (ChatMessage(role="user", content="Hello"),)


async def test_models_of_three_programs_answer_and_their_folders_stay_as_they_are(tmp_path: Path) -> None:
    weights = tiny_model(tmp_path / "tiny.gguf", chat_template=CHAT_TEMPLATE).read_bytes()
    hub = HuggingFaceHub(tmp_path / "hub")
    hub.add("org/tiny-GGUF", REVISION, "tiny-Q4_0.gguf", weights)
    damaged = hub.add("org/damaged", REVISION, "damaged.gguf", b"").resolve()
    damaged.write_bytes(weights)
    lmstudio = tmp_path / ".lmstudio" / "models"
    studied = lmstudio / "publisher" / "tiny-GGUF" / "studied.gguf"
    studied.parent.mkdir(parents=True)
    studied.write_bytes(weights)
    ollama = Ollama(tmp_path / "ollama")
    parameters = {"num_predict": 5, "temperature": 0, "num_ctx": 128}
    library = "registry.ollama.ai/library"
    ollama.add(f"{library}/tiny/latest", weights, parameters=parameters, system="Be brief.")
    ollama.add(f"{library}/tiny/plain", weights, others={"template": b"{{ .Prompt }}"})
    folders = [hub.directory, lmstudio, ollama.directory]
    with unwritable(hub.directory), unwritable(lmstudio), unwritable(ollama.directory):
        before = [tree(folder) for folder in folders]
        async with client_of_node(folders, tmp_path / "data") as client:
            models = {model.model_id: model for model in (await client.list_models()).models}
            assert {name: (model.source, model.repository) for name, model in models.items()} == {
                "damaged": ("huggingface", "org/damaged"),
                "studied": ("lmstudio", "publisher/tiny-GGUF"),
                "tiny-Q4_0": ("huggingface", "org/tiny-GGUF"),
                "tiny:latest": ("ollama", "tiny"),
                "tiny:plain": ("ollama", "tiny"),
            }
            assert models["tiny:latest"].n_ctx == 128
            assert models["tiny:latest"].defaults == {
                "max_tokens": 5,
                "system_prompt": "Be brief.",
                "temperature": 0.0,
            }
            with pytest.raises(ModelFileInvalid, match="another SHA-256 than its name in the store says"):
                await client.load_model("damaged")
            plain = [
                await client.generate_text(model_id, "Once", max_tokens=5, temperature=0)
                for model_id in ("studied", "tiny-Q4_0")
            ]
            assert [reply.usage.completion_tokens for reply in plain] == [5, 5]
            # The weights are the same. What comes with the last model stands in for what is left out.
            assert (await client.generate_text("tiny", "Once")).text == plain[0].text
            reply = await client.generate_text("tiny", "Once", max_tokens=3)
            assert reply.usage.completion_tokens == 3
            chat = [{"role": "user", "content": "Hello"}]
            asked = [
                (await client.generate_text(model_id, messages=chat, max_tokens=1)).usage.prompt_tokens
                for model_id in ("tiny", "studied")
            ]
            assert asked[0] > asked[1], "its system prompt is a message of the chat"
            assert (await client.apply_template("tiny", chat)).tokens == asked[0]
            table = await Command(tmp_path / "data").lines("models")
            assert [line.rpartition("  ")[2] for line in table[2:]] == [
                "lmstudio publisher/tiny-GGUF",
                "huggingface org/tiny-GGUF",
                "ollama, tiny",
                "ollama",
            ]
        assert [tree(folder) for folder in folders] == before


@pytest.mark.parametrize(
    ("request_", "given", "expected"),
    [
        (GenerateTextRequest(model_id="m", messages=CHAT), ("messages",), (0.0, ("x",), "Be brief.")),
        (GenerateTextRequest(model_id="m", prompt="p"), ("prompt",), (0.0, ("x",), None)),
        (
            GenerateTextRequest(model_id="m", messages=CHAT, temperature=0.7, stop=(), system_prompt="Mine."),
            ("messages", "temperature", "stop", "system_prompt"),
            (0.7, (), "Mine."),
        ),
        (
            GenerateTextRequest(model_id="m", messages=(ChatMessage(role="system", content="Mine."), *CHAT)),
            ("messages",),
            (0.0, ("x",), None),
        ),
        (
            GenerateTextRequest(model_id="m", messages=(ChatMessage(role="developer", content="x"), *CHAT)),
            ("messages",),
            (0.0, ("x",), None),
        ),
        (
            GenerateTextRequest(model_id="m", messages=CHAT, conversation_id="c", continue_=True),
            ("messages", "conversation_id", "continue"),
            (0.0, ("x",), None),
        ),
        (
            GenerateTextRequest(model_id="m", messages=CHAT, system_prompt=None),
            ("messages", "system_prompt"),
            (0.0, ("x",), "Be brief."),
        ),
    ],
    ids=["chat", "text", "all given", "a system message", "a developer's", "a turn that follows", "null"],
)
def test_what_a_model_comes_with_stands_in_for_what_a_request_leaves_out(
    request_: GenerateTextRequest,
    given: tuple[str, ...],
    expected: tuple[float, tuple[str, ...], str | None],
) -> None:
    parameters: dict[str, ParameterValue] = {
        "temperature": 0.0,
        "stop": ("x",),
        "system_prompt": "Be brief.",
    }
    asked = completed(request_, parameters, given)
    assert (asked.temperature, asked.stop, asked.system_prompt) == expected
