"""What a node knows of versions and aliases decides where requests for an alias go."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec
import pytest

from suite.domain.aliases import Target
from suite.errors import VersionGone
from suite.messages.events import (
    AliasSet,
    AppliedAdapter,
    CanaryStarted,
    Event,
    ModelQuarantined,
    ModelRemoved,
    PromotionStarted,
)
from suite.node.versions import Names
from support.versions import NOON, book_of, names_of, registered

OLD, NEW = "a" * 64, "b" * 64


CANARY: tuple[Event, ...] = (
    registered(OLD, {}, model_id="old"),
    registered(NEW, {}, node="box2", model_id="new"),
    AliasSet(alias="chat", model_id="old", version=1),
    PromotionStarted(
        alias="chat",
        promotion_id="p",
        model_id="new",
        version=1,
        old_model_id="old",
        old_version=1,
        canary_share=1.0,
    ),
    CanaryStarted(alias="chat", promotion_id="p", model_id="new", version=1, canary_share=1.0, node="box2"),
)


def asked(names: Names, *nodes: str) -> str:
    """The model that answers a request in the share of the canary, with these nodes there."""
    return names.resolved("chat", partial(str, "request"), lambda: nodes)


def test_a_canary_that_is_not_there_leaves_its_requests_to_the_version_that_serves(tmp_path: Path) -> None:
    names = names_of(book_of(*CANARY), tmp_path)
    assert asked(names, "box1", "box2") == "new"
    assert asked(names, "box1") == "old", "its only node is lost"
    gone = names_of(book_of(*CANARY, ModelRemoved(model_id="new", node="box2")), tmp_path)
    assert asked(gone, "box1", "box2") == "old", "its file is gone"


def test_a_crash_loop_is_of_the_settings_that_failed() -> None:
    failed = ModelQuarantined(
        model_id="new",
        node="box1",
        content=NEW,
        settings_key="k",
        failures=2,
        until=NOON,
        instance_id="i",
        reason="killed",
    )
    book = book_of(registered(NEW, {}, model_id="new"), failed, registered(NEW, {"slots": 2}, model_id="new"))
    first, second = book.versions.of("new")
    assert (book.quarantined(first), book.quarantined(second)) == (2, 0)


def test_an_alias_goes_back_only_to_what_a_node_has(tmp_path: Path) -> None:
    names = names_of(book_of(*CANARY, ModelRemoved(model_id="old", node="box1")), tmp_path)
    names.require(Target("new", 1))
    for gone in (Target("old", 1), Target("old")):
        with pytest.raises(VersionGone, match="no node has a file of it now"):
            names.require(gone)


def test_an_alias_names_the_version_that_it_stands_for(tmp_path: Path) -> None:
    book = book_of(
        registered(OLD, {}),
        registered(NEW, {}, node="box2"),
        AliasSet(alias="chat", model_id="m", version=1),
    )
    names = names_of(book, tmp_path)
    assert names.find("chat").number == 1, "though box2 has a newer one"
    assert names.find("m").number == 2


PIRATE = msgspec.structs.replace(
    registered("c" * 64, {}, model_id="pirate"),
    base="old",
    base_sha256=OLD,
    adapters=(AppliedAdapter(id="pirate", sha256="d" * 64, scale=1.0),),
)


def test_a_model_with_adapters_is_loaded_and_fails_as_its_model(tmp_path: Path) -> None:
    failed = ModelQuarantined(
        model_id="old",
        node="box1",
        content=OLD,
        settings_key="k",
        failures=2,
        until=NOON,
        instance_id="i",
        reason="killed",
    )
    started = PromotionStarted(
        alias="chat", promotion_id="p", model_id="new", version=1, old_model_id="pirate", old_version=1
    )
    book = book_of(
        registered(OLD, {}, model_id="old"),
        registered(NEW, {}, model_id="new"),
        PIRATE,
        AliasSet(alias="chat", model_id="pirate", version=1),
        failed,
        started,
    )
    pirate = names_of(book, tmp_path).find("pirate@cccc")
    assert (pirate.name, pirate.loaded_id, pirate.loaded_sha256) == ("pirate@1", "old", OLD)
    assert book.quarantined(pirate) == 5
    its_own = msgspec.structs.replace(failed, model_id="pirate", content="c" * 64)
    alone = book_of(registered(OLD, {}, model_id="old"), PIRATE, its_own)
    assert alone.quarantined(names_of(alone, tmp_path).find("pirate")) == 3
    assert alone.quarantined(names_of(alone, tmp_path).find("old")) == 0
    assert book.serving == {"old": "chat"}
    book = book_of(PIRATE, AliasSet(alias="chat", model_id="pirate"))
    assert (book.serving, book.loaded_id(Target("pirate"))) == ({}, "old")


def test_a_model_with_adapters_that_only_another_node_has_is_found(tmp_path: Path) -> None:
    names = names_of(book_of(PIRATE), tmp_path)
    assert names.resolved("pirate@1") == "pirate"
    both = names_of(book_of(PIRATE, msgspec.structs.replace(PIRATE, node="box2", sha256="e" * 64)), tmp_path)
    assert (both.resolved("pirate@2"), both.model_of("pirate@2")) == ("pirate@2", "pirate")
