from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest

from suite.engine.llama_model import ContextSettings, LlamaModel
from suite.engine.prompts.prompt import SLOW_LIMIT, Prompter
from suite.engine.prompts.rendering import Renderer
from suite.engine.vocabulary import Vocabulary
from suite.errors import (
    CannotFillIn,
    EmptyPrompt,
    InvalidChat,
    InvalidConfiguration,
    InvalidRequest,
    NoChatTemplate,
    Overloaded,
    PromptTooLong,
)
from suite.messages.actions.generation import GenerateTextRequest
from support.models import CHAT_TEMPLATE, tiny_model

CONTEXT = 80
PATIENCE = 30
SETTINGS = ContextSettings(
    context_tokens=CONTEXT, cache_tokens=CONTEXT, batch_tokens=CONTEXT, gpu_layers=0, threads=1, slots=1
)
Make = Callable[..., Prompter]
SLOW = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vocabulary]:
    path = tiny_model(tmp_path_factory.mktemp("prompt") / "tiny.gguf")
    model = LlamaModel.load(str(path), SETTINGS, lambda _: None)
    yield model.vocabulary
    model.free()


@pytest.fixture
def make(plain: Vocabulary) -> Iterator[Make]:
    made: list[Prompter] = []

    def make(chat_template: str | None = CHAT_TEMPLATE) -> Prompter:
        ids = map(str, count())
        made.append(
            Prompter(
                plain,
                CONTEXT,
                lambda: datetime(2026, 5, 4, tzinfo=UTC),
                lambda: f"id-{next(ids)}",
                chat_template=chat_template,
            )
        )
        return made[-1]

    yield make
    for prompter in made:
        prompter.close()


def ask(**fields: Any) -> GenerateTextRequest:
    return msgspec.convert({"model_id": "tiny", **fields}, GenerateTextRequest)


def turns(*contents: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[index % 2], "content": content} for index, content in enumerate(contents)]


def test_a_template_is_configured_as_text_or_as_a_file(make: Make, tmp_path: Path) -> None:
    request = ask(messages=turns("hi"))
    (tmp_path / "template.jinja").write_text("file: {{ messages[0].content }}")
    assert make("text: {{ messages[0].content }}").text(request) == "text: hi"
    assert make(str(tmp_path / "template.jinja")).text(request) == "file: hi"
    with pytest.raises(InvalidConfiguration, match=r"missing\.jinja"):
        make(str(tmp_path / "missing.jinja")).text(request)


def test_without_any_template_messages_are_refused(make: Make) -> None:
    prompter = make(None)
    prompter.warm_up()
    with pytest.raises(NoChatTemplate, match="chat_template"):
        prompter.prompt(ask(messages=turns("hi")))
    assert prompter.prompt(ask(prompt="hi")).tokens


def test_tools_need_messages(make: Make) -> None:
    tools = [{"type": "function", "function": {"name": "add"}}]
    with pytest.raises(InvalidChat, match="need messages"):
        make().prompt(ask(prompt="hi", tools=tools))
    told = make("{{ tools | tojson }}").text(ask(messages=turns("hi"), tools=tools))
    assert told == '[{"type": "function", "function": {"name": "add"}}]'


SAYS_EACH = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
TAKES_NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + SAYS_EACH


@pytest.mark.parametrize("template", [SAYS_EACH, TAKES_NO_SYSTEM])
@pytest.mark.parametrize("system", [None, "Be short."])
def test_tools_are_text_where_the_template_has_no_place_for_them(
    make: Make, template: str, system: str | None
) -> None:
    tools = [{"type": "function", "function": {"name": "add"}}]
    prompter = make(template)
    asked = ask(messages=turns("hi"), tools=tools, system_prompt=system)
    text = prompter.text(asked)
    assert (system or "") in text
    assert text.index('{"type": "function", "function": {"name": "add"}}') < text.index("hi\n")
    truncated = msgspec.structs.replace(asked, truncate="left")
    assert "no place for tools" in prompter.prompt(truncated).warnings[0]
    assert prompter.call_form().marker == "<tool_call>"


def test_tools_that_may_not_be_called_are_not_told(make: Make) -> None:
    tools = [{"type": "function", "function": {"name": "add"}}]
    told = make("{{ tools is none }}").text(ask(messages=turns("hi"), tools=tools, tool_choice="none"))
    assert told == "True"


def test_a_call_and_its_answer_reach_the_template_in_transformers_shape(make: Make) -> None:
    call = {"id": "abcdefghi", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    messages: list[dict[str, Any]] = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "2", "tool_call_id": "abcdefghi", "name": "add"},
    ]
    seen = msgspec.json.decode(make("{{ messages | tojson }}").text(ask(messages=messages)))
    shown = {**call, "function": {"name": "add", "arguments": {"a": 1}}}
    assert seen == [{"role": "assistant", "content": "", "tool_calls": [shown]}, messages[1]]
    messages[0]["tool_calls"] = [{**call, "type": None}]
    tools = [{"type": None, "function": {"name": "add"}}]
    prompter = make("{{ [messages, tools] | tojson }}")
    again, told = msgspec.json.decode(prompter.text(ask(messages=messages, tools=tools)))
    assert (again, told[0]["type"]) == (seen, "function"), "null counts as left out"


def test_a_message_has_content_or_calls() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"content is missing.*messages\[0\]"):
        ask(messages=[{"role": "user"}])


def test_what_has_no_text_at_all_is_refused(make: Make) -> None:
    for request in (ask(prompt=""), ask(messages=turns("", "")), ask(messages=[])):
        with pytest.raises(EmptyPrompt):
            make().prompt(request)


def test_what_fits_is_not_cut(make: Make) -> None:
    prompt = make().prompt(ask(prompt="a " * 20, truncate="left"))
    assert prompt.truncated_tokens == 0
    assert prompt == make().prompt(ask(prompt="a " * 20))


def test_what_is_too_long_is_refused_unless_it_may_be_cut(make: Make) -> None:
    with pytest.raises(PromptTooLong, match="truncate"):
        make().prompt(ask(prompt="a " * 100))
    with pytest.raises(PromptTooLong):
        make().prompt(ask(messages=turns("a " * 100)))


def test_a_prompt_is_cut_at_its_beginning_but_for_bos_and_leaves_room(make: Make, plain: Vocabulary) -> None:
    text = "z " * 30 + "a " * 60
    whole = plain.tokenize(text)
    for max_tokens, room in ((5, 5), (500, CONTEXT // 4)):
        prompt = make().prompt(ask(prompt=text, truncate="left", max_tokens=max_tokens))
        assert len(prompt.tokens) == CONTEXT - room
        assert prompt.truncated_tokens == len(whole) - len(prompt.tokens)
        assert prompt.tokens[0] == whole[0] == plain.tokenize("")[0]
        assert prompt.tokens[1:] == whole[-len(prompt.tokens) + 1 :]


def test_of_a_chat_the_oldest_turns_go_and_the_system_message_stays(make: Make, plain: Vocabulary) -> None:
    contents = ("a", "b", "c", "d", "e", "f", "g")
    whole = ask(messages=turns(*contents), system_prompt="kind")
    request = msgspec.structs.replace(whole, truncate="left", max_tokens=1)
    prompt = make().prompt(request)
    kept = make().text(ask(messages=turns(*contents[2:]), system_prompt="kind"))
    assert prompt.tokens == plain.tokenize(kept)
    assert prompt.truncated_tokens == len(plain.tokenize(make().text(whole))) - len(prompt.tokens) > 0


def test_a_chat_whose_last_turn_is_too_long_is_cut_within_it(make: Make, plain: Vocabulary) -> None:
    request = ask(messages=turns("aaaa", "bbbb", "c " * 100), truncate="left", max_tokens=1)
    prompt = make().prompt(request)
    last = plain.tokenize(make().text(ask(messages=turns("c " * 100))))
    assert len(prompt.tokens) == CONTEXT - 1
    assert prompt.tokens == last[:1] + last[-CONTEXT + 2 :]


# --- far too long -----------------------------------------------------------------------------------------

FAR = "z " * 100_000


@pytest.fixture
def tokenized(plain: Vocabulary, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many characters the tokenizer was given, each time."""
    lengths: list[int] = []
    tokenize = plain.tokenize

    def spy(text: str, *, begins: bool = True) -> list[int]:
        lengths.append(len(text))
        return tokenize(text, begins=begins)

    monkeypatch.setattr(plain, "tokenize", spy)
    return lengths


def test_what_cannot_fit_is_refused_without_the_tokenizer(make: Make, tokenized: list[int]) -> None:
    continued = {"continue": True, "conversation_id": "c"}
    for request in (ask(prompt=FAR), ask(messages=turns(FAR)), ask(prompt=FAR, **continued)):
        with pytest.raises(PromptTooLong, match=r"200\d\d\d characters"):
            make().prompt(request)
    assert not tokenized


def test_of_what_may_be_cut_the_tokenizer_gets_what_may_fit(
    make: Make, plain: Vocabulary, tokenized: list[int]
) -> None:
    text = FAR + "a " * 60
    prompt = make().prompt(ask(prompt=text, truncate="left", max_tokens=5))
    assert max(tokenized) == CONTEXT * plain.longest_piece
    whole = plain.tokenize(text)
    assert prompt.tokens == whole[:1] + whole[-(CONTEXT - 6) :]
    assert 0 < prompt.truncated_tokens <= len(whole) - len(prompt.tokens)


def test_of_a_chat_that_is_far_too_long_the_last_turns_stay(make: Make, tokenized: list[int]) -> None:
    chat = turns("a", FAR, "b", FAR, "c", "d", "e")
    prompt = make().prompt(ask(messages=chat, truncate="left", max_tokens=1))
    assert prompt.tokens == make().prompt(ask(messages=chat[4:])).tokens
    assert max(tokenized) < len(FAR)


# --- going on ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", ["hi", "<answer-before>", "- - -"])
def test_a_new_turn_goes_on_from_the_end_of_the_answer_before_it(
    make: Make, plain: Vocabulary, said: str
) -> None:
    prompter = make("{% for m in messages %}[{{ m.content }}]{% endfor %}")
    prompt = prompter.prompt(ask(**{"messages": turns(said), "continue": True, "conversation_id": "c"}))
    assert prompt.tokens == plain.tokenize(f"][{said}]", begins=False)


def test_what_a_conversation_holds_is_not_cut(make: Make) -> None:
    with pytest.raises(InvalidRequest, match="truncate and continue"):
        make().prompt(ask(**{"prompt": "hi", "continue": True, "conversation_id": "c", "truncate": "left"}))


# --- many at once -----------------------------------------------------------------------------------------


def test_nobody_waits_for_a_prompt_that_takes_long(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = Renderer.__init__.__kwdefaults__ or {}
    monkeypatch.setitem(defaults, "cpu_seconds", 2.0)  # instead of 5
    prompter = make("{% if messages[0].content == 'x' %}" + SLOW + "{% endif %}{{ messages[0].content }}")
    prompter.warm_up()
    slow = prompter.submit(ask(messages=turns("x")))
    for request in (ask(prompt="hi"), ask(messages=turns("hi"))):
        assert prompter.submit(request).result().tokens
    assert not slow.done()
    with pytest.raises(InvalidChat):
        slow.result()


def test_chats_that_take_long_wait_for_each_other_and_nobody_for_them(make: Make) -> None:
    some_tenths = "{% for a in range(5000) %}{% for b in range(1000) %}{% endfor %}{% endfor %}"
    prompter = make(
        "{% if messages[0].content == 'x' %}" + some_tenths + "{% endif %}{{ messages[0].content }}"
    )
    prompter.warm_up()
    slow = [prompter.submit(ask(messages=turns("x"))) for _ in range(SLOW_LIMIT + 8)]
    for _ in range(4):
        assert prompter.submit(ask(messages=turns("hi"))).result(PATIENCE).tokens
    ended = [each for each in slow if each.done()]
    assert len(ended) <= len(slow) // 2
    assert slow[0].result(PATIENCE).tokens  # in its turn it is made like any other
    refused = [each.exception() for each in slow[1:] if each.done() and each.exception() is not None]
    assert refused
    assert all(isinstance(error, Overloaded) for error in refused)


# --- token ids, and gaps ----------------------------------------------------------------------------------


def test_token_ids_are_taken_as_they_are_if_the_model_has_them(make: Make, plain: Vocabulary) -> None:
    prompter = make()
    ids = plain.tokenize("on the shore")[1:]
    assert prompter.prompt(ask(prompt=ids)).tokens == ids
    with pytest.raises(InvalidRequest, match=f"no token {plain.size}: its token ids are 0 to"):
        prompter.prompt(ask(prompt=[1, plain.size]))
    with pytest.raises(InvalidRequest, match="taken as it is"):
        prompter.prompt(ask(prompt=ids, system_prompt="be brief"))
    with pytest.raises(PromptTooLong, match="80 tokens"):
        prompter.prompt(ask(prompt=[5] * CONTEXT))
    cut = prompter.prompt(ask(prompt=[1, *range(5, 200)], truncate="left", max_tokens=4))
    assert cut.tokens == [1, *range(200 - 75, 200)]
    assert cut.truncated_tokens == 196 - 76


def test_a_gap_is_put_between_the_marks_of_a_model_that_has_them(make: Make, tmp_path: Path) -> None:
    model = LlamaModel.load(str(tiny_model(tmp_path / "code.gguf", fills_in=True)), SETTINGS, lambda _: None)
    vocabulary, now = model.vocabulary, datetime(2026, 5, 4, tzinfo=UTC)
    prompter = Prompter(vocabulary, CONTEXT, lambda: now, lambda: "id")
    prefix, suffix, middle = range(vocabulary.size - 3, vocabulary.size)
    bos = vocabulary.tokenize("")
    before, after = (
        vocabulary.tokenize(text, begins=False, special=False)
        for text in ("a = <|fim_middle|>", "\nreturn a")
    )
    assert middle not in before, "a name of a mark in the text is text"
    whole = [*bos, prefix, *before, suffix, *after, middle]
    assert prompter.prompt(ask(prompt="a = <|fim_middle|>", suffix="\nreturn a")).tokens == whole
    assert prompter.prompt(ask(prompt=before, suffix="\nreturn a")).tokens == whole
    assert prompter.prompt(ask(suffix="\nreturn a")).tokens == [*bos, prefix, suffix, *after, middle]
    with pytest.raises(InvalidRequest, match="need a prompt before the gap"):
        prompter.prompt(ask(suffix="\nreturn a", system_prompt="be brief"))
    with pytest.raises(PromptTooLong):
        prompter.prompt(ask(prompt="a" * CONTEXT, suffix="b"))
    prompter.close()
    model.free()
    with pytest.raises(CannotFillIn):
        make().prompt(ask(prompt="a = ", suffix="b"))


def test_tokens_become_the_text_again(plain: Vocabulary) -> None:
    for text in ("on the shore", "Zoë \U0001f30a", " two  spaces", ""):
        assert plain.detokenize(plain.tokenize(text, begins=False)) == text
    assert plain.detokenize(plain.tokenize("the sea")).startswith("<s>")
    assert len(plain.tokenize("<s>", begins=False, special=False)) > 1
    with pytest.raises(InvalidRequest, match="no token -1"):
        plain.detokenize([-1])


# --- chats that a template was not written for --------------------------------------------------------------

LOOP = "{% for m in messages %}"
STRICT = (
    LOOP + "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles alternate') }}"
    "{% endif %}[{{ m.role }}] {{ m.content | trim }}\n"
    "{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)
"""Refuses all but users and assistants in turn, as Gemma's and Mistral's do."""
FORGETFUL = (
    LOOP + "{% if loop.first and m.role == 'system' %}[sys] {{ m.content }}\n"
    "{% elif m.role == 'user' %}[user] {{ m.content }}\n"
    "{% elif m.role == 'assistant' %}[assistant] {{ m.content }}\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)
"""Leaves out without a word what it has no place for, as many do."""
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}


def said(role: str, content: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **fields}


def test_a_developer_is_the_system_unless_the_template_knows_one(make: Make) -> None:
    request = ask(messages=[said("developer", "brief"), said("user", "hi")])
    assert make(FORGETFUL).text(request) == "[sys] brief\n[user] hi\n[assistant] "
    knows = LOOP + "{% if m.role == 'developer' %}<dev>{% endif %}{{ m.content }} {% endfor %}"
    assert make(knows).text(request) == "<dev>brief hi "


@pytest.mark.parametrize("template", [STRICT, FORGETFUL])
def test_a_system_message_that_has_no_place_is_the_users(make: Make, template: str) -> None:
    chat = [said("user", "hi"), said("assistant", "yes?"), said("system", "be brief"), said("user", "so")]
    prompt = make(template).prompt(ask(messages=chat))
    assert make(template).text(ask(messages=chat)) == (
        "[user] hi\n[assistant] yes?\n[user] be brief\n\nso\n[assistant] "
    )
    assert any("system message" in warning for warning in prompt.warnings)


def test_two_messages_of_a_user_are_one_for_a_template_that_wants_turns(make: Make) -> None:
    request = ask(messages=[said("user", "one"), said("user", "two")])
    assert make(STRICT).text(request) == "[user] one\n\ntwo\n[assistant] "
    assert make(STRICT).prompt(request).warnings == ()
    assert make(FORGETFUL).text(request) == "[user] one\n[user] two\n[assistant] "


@pytest.mark.parametrize("template", [STRICT, FORGETFUL])
def test_calls_that_have_no_place_are_text(make: Make, template: str) -> None:
    chat = [
        said("user", "1+1?"),
        said("assistant", tool_calls=[CALL]),
        said("tool", "2", tool_call_id="abcdefghi"),
    ]
    request = ask(messages=chat, truncate="left", max_tokens=1)
    text = make(template).text(request)
    assert '{"name": "add", "arguments": {"a": 1}}' in text
    assert "<tool_response>\n2\n</tool_response>" in text
    assert any("calls of tools" in warning for warning in make(template).prompt(request).warnings)


def test_what_is_left_out_all_the_same_is_told(make: Make) -> None:
    request = ask(messages=[said("user", "hi"), said("critic", "bad"), said("user", "so")])
    (warning,) = make(FORGETFUL).prompt(request).warnings
    assert "messages[1]" in warning
    assert "'critic'" in warning


def test_a_refusal_that_nothing_helps_has_the_templates_words(make: Make) -> None:
    with pytest.raises(InvalidChat, match="roles alternate"):
        make(STRICT).prompt(ask(messages=[said("assistant", "a"), said("user", "b")]))


def test_variables_reach_the_template_and_unknown_ones_are_told(make: Make) -> None:
    prompter = make("{{ messages[0].content }}{% if enable_thinking is false %} /no{% endif %}")
    variables = {"enable_thinking": False, "mood": "kind", "messages": [], "add_generation_prompt": 7}
    request = ask(messages=turns("hi"), chat_template_kwargs=variables)
    assert prompter.text(request) == "hi /no"
    (warning, *_) = [each for each in prompter.prompt(request).warnings if "mood" in each]
    assert "does not use" in warning


def test_text_parts_and_arguments_as_an_object_reach_the_template(make: Make) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    call = {**CALL, "function": {"name": "add", "arguments": {"a": 1}}}
    chat = [said("user", None) | {"content": parts}, said("assistant", tool_calls=[call])]
    told = msgspec.json.decode(make("{{ messages | tojson }}").text(ask(messages=chat)))
    assert told[0]["content"] == "one\ntwo"
    assert told[1]["tool_calls"] == [call]


# --- a begun answer -----------------------------------------------------------------------------------------

THINKS = (
    LOOP + "[{{ m.role }}] {% if m.role == 'assistant' and loop.last %}<think>\n"
    "{{ m.reasoning_content | default('') }}\n</think>\n\n{% endif %}{{ m.content | trim }} /end\n"
    "{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)
"""Writes an empty reasoning before a last answer, as Qwen's does."""
OPENED = (
    LOOP + "[{{ m.role }}] {{ m.content.split('</think>')[-1] }} /end\n"
    "{% endfor %}{% if add_generation_prompt %}[assistant] <think>\n{% endif %}"
)
"""Opens the reasoning in the prompt, as DeepSeek's does."""


def test_a_begun_answer_is_gone_on_with(make: Make) -> None:
    chat = [said("user", "hi"), said("assistant", "Once upon ")]
    assert make(STRICT).text(ask(messages=chat)) == "[user] hi\n[assistant] Once upon "
    assert make(STRICT).text(ask(messages=chat, continue_final_message=False)).endswith("\n[assistant] ")
    for empty in ("", None):
        begun = [said("user", "hi"), said("assistant", empty)]
        assert make(STRICT).text(ask(messages=begun)) == "[user] hi\n[assistant] "
    with pytest.raises(InvalidRequest, match="continue_final_message"):
        make(STRICT).prompt(ask(messages=turns("hi"), continue_final_message=True))


@pytest.mark.parametrize("template", [STRICT, THINKS])
def test_a_new_turn_and_a_begun_answer_go_on_together(make: Make, template: str) -> None:
    chat = [said("user", "so"), said("assistant", "Well")]
    prompt = make(template).prompt(ask(**{"messages": chat, "continue": True, "conversation_id": "c"}))
    whole = make(template).text(ask(messages=[*turns("-", "id-x"), *chat]))
    assert prompt.tokens == make(template).vocabulary.tokenize(whole.partition("id-x")[2], begins=False)


def test_a_begun_answer_of_a_thinking_model_is_past_its_reasoning(make: Make) -> None:
    chat = ask(messages=[said("user", "hi"), said("assistant", "Four")])
    assert make(THINKS).text(chat) == "[user] hi /end\n[assistant] <think>\n\n</think>\n\nFour"
    assert make(OPENED).text(chat) == "[user] hi /end\n[assistant] Four"
    for template in (THINKS, OPENED):
        reasoning = make(template).prompt(chat).reasoning
        assert reasoning is not None
        assert not reasoning.opened


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_begun_reasoning_is_gone_on_with(make: Make, field: str) -> None:
    begun = ask(messages=[said("user", "hi"), said("assistant", None, **{field: "Two and"})])
    done = ask(messages=[said("user", "hi"), said("assistant", "4", **{field: "Two and two."})])
    for template in (THINKS, OPENED):
        assert make(template).text(begun) == "[user] hi /end\n[assistant] <think>\nTwo and"
        assert make(template).text(done).endswith("<think>\nTwo and two.\n</think>\n\n4")
        opened = [make(template).prompt(each).reasoning for each in (begun, done)]
        assert [each is not None and each.opened for each in opened] == [True, False]


def test_reasoning_replaces_the_empty_one_of_a_template(make: Make) -> None:
    closes = OPENED.replace("<think>\n{% endif", "<think>\n\n</think>\n\n{% endif")
    begun = ask(messages=[said("user", "hi"), said("assistant", None, reasoning="Two and")])
    assert make(closes).text(begun) == "[user] hi /end\n[assistant] <think>\nTwo and"


def test_a_prompt_that_opens_the_reasoning_says_so(make: Make) -> None:
    def opened(template: str | None, **fields: Any) -> bool | None:
        reasoning = make(template).prompt(ask(**fields)).reasoning
        return None if reasoning is None else reasoning.opened

    assert opened(OPENED, messages=turns("hi")) is True
    assert opened(THINKS, messages=turns("hi")) is False
    assert opened(STRICT, messages=turns("hi")) is None
    assert opened(OPENED, prompt="x<think>\n") is True
    assert opened(OPENED, prompt="x<think>\n</think>") is False
    written = [said("user", "hi"), said("assistant", "<think>So")]
    assert opened(THINKS, messages=written) is True


def test_what_an_assistant_thought_reaches_the_templates_that_use_it(make: Make) -> None:
    thought = [said("user", "hi"), said("assistant", "4", reasoning="hm"), said("user", "so")]
    told = make(LOOP + "{{ m.thinking | default('-') }}{{ m.content }} {% endfor %}")
    assert told.text(ask(messages=thought)) == "-hi hm4 -so "
    seen = make("{{ messages | tojson }}").text(ask(messages=thought))
    assert "hm" not in seen
