"""Keys: which there are after a log, whom a secret belongs to, and what a key may do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from suite.domain.keys import Keys, covers, create, digest, identify, require, require_model, revoke
from suite.errors import (
    ExpiredApiKey,
    InvalidApiKey,
    InvalidRequest,
    KeyExists,
    KeyNotFound,
    KeyNotPermitted,
)
from suite.messages.events import KeyCreated, KeyEvent, KeyRevoked

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


def made(number: int = 1, **changed: object) -> KeyCreated:
    key = KeyCreated(
        key_id=f"id{number}",
        name=f"key{number}",
        sha256=digest(f"secret{number}"),
        models=("*",),
        endpoints=("chat", "models"),
    )
    return replace(key, **changed)


def after(*events: KeyEvent) -> Keys:
    keys = Keys()
    for event in events:
        keys.apply(event)
    return keys


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=40))
def test_a_key_is_known_from_its_making_until_it_is_revoked_and_never_again(
    steps: list[tuple[bool, int]],
) -> None:
    keys, there, revoked = Keys(), set[int](), set[int]()
    for is_revoked, number in steps:
        keys.apply(KeyRevoked(key_id=f"id{number}", name="x") if is_revoked else made(number))
        if is_revoked:
            revoked.add(number)
        elif number not in revoked:
            there.add(number)
        there -= revoked
    assert {key.key_id for key in keys} == {f"id{number}" for number in there}
    for number in range(6):
        assert (keys.with_secret(f"secret{number}") is not None) == (number in there)
        assert keys.with_id(f"id{number}") == keys.with_secret(f"secret{number}")


def test_a_secret_names_its_key_until_that_expires() -> None:
    keys = after(made(1), made(2, expires_at=NOW))
    assert identify(keys, "secret1", NOW).name == "key1"
    assert identify(keys, "secret2", NOW - timedelta(microseconds=1)).name == "key2"
    with pytest.raises(ExpiredApiKey, match="key2"):
        identify(keys, "secret2", NOW)
    for secret in (None, "", "secret3", "secret1 ", digest("secret1"), "\ud800", "\0"):
        with pytest.raises(InvalidApiKey) as refused:
            identify(keys, secret, NOW)
        assert not secret or secret not in refused.value.message


def test_names_are_unique_until_they_are_revoked_and_are_such_as_people_can_type() -> None:
    keys = after(made(1))
    with pytest.raises(KeyExists, match="key1"):
        create(keys, made(2, name="key1"), NOW)
    again = made(2, name="key1")
    keys.apply(revoke(keys, "key1"))
    assert create(keys, again, NOW) == again
    with pytest.raises(KeyNotFound, match="nobody"):
        revoke(keys, "nobody")
    assert revoke(after(made(1)), "id1").name == "key1"
    for name in ("", " a", "a b", "-a", "a\n", "ä", "a" * 65):
        with pytest.raises(InvalidRequest, match="name"):
            create(keys, made(3, name=name), NOW)
    with pytest.raises(InvalidRequest, match="expires_at"):
        create(keys, made(3, expires_at=NOW), NOW)


def test_a_key_may_do_what_it_was_made_for() -> None:
    key = made(models=("smollm*", "gemma-3-270m-it-Q4_K_M"))
    require(key, "models")
    for model_id in ("smollm2", "gemma-3-270m-it-Q4_K_M"):
        require_model(key, model_id)
    with pytest.raises(KeyNotPermitted, match="embeddings, only for: chat, models"):
        require(key, "embeddings")
    with pytest.raises(KeyNotPermitted, match="'Smollm2', only: smollm"):
        require_model(key, "Smollm2")
    assert not covers(key, "gemma-3-270m-it-Q4_K_M.gguf")
    assert not covers(key, "my-smollm2")


def test_who_may_change_things_may_look_and_looking_is_for_all_models() -> None:
    require(made(1, endpoints=("admin",)), "view")
    with pytest.raises(KeyNotPermitted, match="view"):
        require(made(1, endpoints=("chat",)), "view")
    assert create(after(), made(1, endpoints=("view",)), NOW)
    with pytest.raises(InvalidRequest, match="models"):
        create(after(), made(1, endpoints=("view",), models=("smollm*",)), NOW)
