"""Which conversation a chat goes on with."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.gateway.conversations import Conversations
from support.gateway import RunningGateway

SCOPE = ("model", "")
SYSTEM = {"role": "system", "content": "You help."}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def asked(conversations: Conversations, *messages: dict[str, str], scope: Sequence[str] = SCOPE) -> str:
    with conversations.taken(scope, messages) as id:
        assert id is not None
        return id


def test_a_chat_goes_on_with_the_request_that_it_begins_with() -> None:
    known = Conversations()
    first = asked(known, SYSTEM, user("one"))
    assert asked(known, SYSTEM, user("one"), answer("1"), user("two")) == first
    assert asked(known, SYSTEM, user("one"), answer("1"), user("two"), answer("2"), user("three")) == first
    assert asked(known, SYSTEM, user("another")) != first


def test_chats_that_begin_alike_at_the_same_time_are_two() -> None:
    known = Conversations()
    with known.taken(SCOPE, [SYSTEM, user("one")]) as first:
        second = asked(known, SYSTEM, user("one"))
        assert second != first
    assert asked(known, SYSTEM, user("one"), answer("1"), user("two")) in (first, second)


def test_an_edited_chat_leaves_the_one_that_it_comes_from() -> None:
    known = Conversations()
    first = asked(known, user("one"))
    assert asked(known, user("one"), answer("1"), user("two")) == first
    edited = asked(known, user("one"), answer("1"), user("2"))
    assert edited != first
    assert asked(known, user("one"), answer("1"), user("two"), answer("2"), user("three")) == first


def test_models_keys_and_sessions_are_apart() -> None:
    known = Conversations()
    scopes = [("a", ""), ("b", ""), ("a", "key"), ("a", "", "session")]
    assert len({asked(known, user("one"), scope=scope) for scope in scopes}) == len(scopes)


def test_a_gateway_that_starts_anew_gives_the_same_ids() -> None:
    chat = [SYSTEM, user("one"), answer("1"), user("two")]
    first = asked(Conversations(), SYSTEM, user("one"))
    assert asked(Conversations(), *chat) == first


def test_raw_messages_count_as_they_stand() -> None:
    known = Conversations()
    first = asked(known, user("one"))
    raw = msgspec.Raw(msgspec.json.encode([user("one"), answer("1"), user("two")]))
    with known.taken(SCOPE, raw) as id:
        assert id == first


def test_what_is_no_list_of_messages_has_no_conversation() -> None:
    for raw in (b"1", b'"text"', b"[1]", b"[", b'[{"role": 1}]', b'[{"role": "\xff"}]'):
        with Conversations().taken(SCOPE, msgspec.Raw(raw)) as id:
            assert id is None


def test_a_request_that_fails_is_not_remembered() -> None:
    known = Conversations(most_known=2)
    first = asked(known, user("1"))
    for number in range(3):
        for messages in ([user(f"other {number}")], [user("1"), answer("-"), user(f"{number}")]):
            with pytest.raises(ZeroDivisionError), known.taken(SCOPE, messages):
                raise ZeroDivisionError
    assert asked(known, user("1"), answer("-"), user("again")) == first
    assert len(known._ids) == 1


def test_the_conversation_that_was_silent_for_the_longest_is_forgotten() -> None:
    known = Conversations(most_known=2)
    first, second = asked(known, user("1")), asked(known, user("2"))
    assert asked(known, user("1"), answer("-"), user("again")) == first
    asked(known, user("3"))
    assert asked(known, user("1"), answer("-"), user("again"), answer("-"), user("more")) == first
    assert second not in known._known
    assert known._known == set(known._ids.values())


@given(st.integers(0, 2**32))
def test_interleaved_conversations_are_never_mixed(seed: int) -> None:
    draw = random.Random(seed)
    known = Conversations()
    chats: list[list[dict[str, str]]] = [[user(f"opening {number}")] for number in range(4)]
    ids: dict[int, str] = {}
    for turn in range(20):
        number = draw.randrange(len(chats))
        id = asked(known, *chats[number])
        assert ids.setdefault(number, id) == id
        chats[number] += [answer("yes"), user(f"turn {turn}")]
    assert len(set(ids.values())) == len(ids)


def test_a_conversation_survives_the_unloading_of_its_model(gateway: RunningGateway) -> None:
    def turn(*messages: dict[str, str], **more: Any) -> dict[str, Any]:
        sent = {"model": "smollm2", "messages": messages, "max_tokens": 4, **more}
        document: dict[str, Any] = gateway.post("/v1/chat/completions", sent).document
        return document

    opening = user("Tell me of the llama: " + "where it lives, what it eats, how it looks. " * 4)
    first = turn(opening)
    said = answer(first["choices"][0]["message"]["content"])
    gateway.post("/api/generate", {"model": "smollm2", "keep_alive": 0})
    usage = turn(opening, said, user("And the alpaca?"))["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] >= first["usage"]["prompt_tokens"] - 1
