"""Pictures among tokens: each in its place, and read as llama.cpp's own program reads them."""

from __future__ import annotations

import ctypes
import math
import random
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from copy import copy
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.engine.backend import BatchEntry
from suite.engine.bindings import lib
from suite.engine.engine import Engine
from suite.engine.llama_model import ContextSettings, LlamaModel
from suite.engine.pictures import bindings
from suite.engine.pictures.image import MOST_BYTES, Image, read
from suite.engine.pictures.projector import MediaChunk
from suite.engine.pictures.tokens import (
    EncodedPicture,
    Piece,
    cells,
    is_stand_in,
    stand_ins,
    surplus_cells,
)
from suite.engine.prompts.placed_pictures import placed
from suite.engine.prompts.prompt import Prompter
from suite.engine.slots import Slots
from suite.engine.thread import EngineThread
from suite.errors import InvalidChat, InvalidPicture, PictureTooLarge, PromptTooLong
from suite.messages.actions.chat import ChatMessage
from suite.messages.actions.generation import GenerateTextRequest
from support.backend import FakeBackend
from support.generations import Asked, alone, asked, code, drain
from support.models import CHAT_TEMPLATE, tiny_model
from support.pictures import picture, png
from support.projector import END, PICTURE_TOKENS, START, tiny_projector, tiny_qwen_projector
from support.snapshots import snapshots

CONTEXT = 128
LIMIT = 0.05
"""By how much logits of the same tokens may differ where they lie elsewhere in the cache."""
NOISE = Image(40, 30, random.Random(1).randbytes(40 * 30 * 3))


@pytest.fixture(scope="module", params=["gemma3", "qwen2vl"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaModel]:
    """One to which a picture is a row of tokens, and one to which they have places in it (M-RoPE)."""
    folder = tmp_path_factory.mktemp("pictures")
    is_qwen = request.param == "qwen2vl"
    path = tiny_model(folder / "seeing.gguf", control=[START, END], two_dimensional=is_qwen)
    make = tiny_qwen_projector if is_qwen else tiny_projector
    settings = ContextSettings(
        context_tokens=CONTEXT,
        cache_tokens=2 * CONTEXT,
        batch_tokens=CONTEXT,
        gpu_layers=0,
        threads=1,
        slots=2,
        projector=str(make(folder / "mmproj.gguf")),
    )
    loaded = LlamaModel.load(str(path), settings, lambda _: None)
    assert loaded.projector is not None, loaded.reads_no_pictures
    yield loaded
    loaded.free()


# --- real ones ------------------------------------------------------------------------------------------


def encoded(
    model: LlamaModel, image: Image, digest: bytes, *, between: Callable[[], object] | None = None
) -> EncodedPicture:
    """A picture as the model reads it, at once, or with something done wherever that can be interrupted."""
    assert model.projector is not None
    encoding = model.projector.encode(image, digest, seconds=lambda: 0.0 if between else math.inf)
    while True:
        try:
            next(encoding)
        except StopIteration as end:
            seen: EncodedPicture = end.value
            return seen
        assert between is not None, "it is not interrupted"
        between()


def logits(
    model: LlamaModel, sequence: int, prompt: Sequence[int], seen: EncodedPicture, *, most: int = CONTEXT
) -> list[float]:
    """Those after a prompt with one picture, which is decoded by at most so many cells at once."""
    model.truncate(sequence, 0)
    (piece,) = seen.pieces
    begin = prompt.index(piece.tokens[0])
    end = begin + len(piece.tokens)
    assert model.decode([BatchEntry(sequence, prompt[:begin], 0, wants_logits=False)])
    left = model.decode_picture(sequence, begin, piece, left=None, most=most)
    while left:
        others = BatchEntry(1 - sequence, [300], model.length(1 - sequence), wants_logits=True)
        assert model.decode([others])
        left = model.decode_picture(sequence, begin, piece, left=left, most=most)
    assert left == 0
    assert model.decode([BatchEntry(sequence, prompt[end:], end, wants_logits=True)])
    return model.logits()


def test_a_picture_is_read_as_llama_cpps_own_program_reads_it(model: LlamaModel) -> None:
    seen = encoded(model, NOISE, b"noise")
    assert 1 < sum(map(is_stand_in, seen.tokens)) <= PICTURE_TOKENS
    own = logits(model, 0, [1, 300, *seen.tokens, 301, 302], seen)
    model.truncate(0, 0)
    assert model.decode([BatchEntry(0, [1, 300], 0, wants_logits=False)])
    position = evaluated(model, NOISE)
    assert position == 2 + len(seen.tokens)
    assert model.decode([BatchEntry(0, [301, 302], position, wants_logits=True)])
    assert own == pytest.approx(model.logits(), abs=LIMIT)
    other = encoded(model, Image(40, 30, bytes(40 * 30 * 3)), b"black")
    assert own != pytest.approx(logits(model, 1, [1, 300, *other.tokens, 301, 302], other), abs=10 * LIMIT)


def evaluated(model: LlamaModel, image: Image) -> int:
    """Have llama.cpp's helper read a picture after two tokens; the position after it."""
    mtmd, projector = bindings.load(), model.projector
    assert projector is not None
    data = (ctypes.c_uint8 * len(image.rgb)).from_buffer_copy(image.rgb)
    bitmap = mtmd.mtmd_bitmap_init(image.width, image.height, data)
    chunks, marker, end = mtmd.mtmd_input_chunks_init(), mtmd.mtmd_default_marker(), lib.llama_pos()
    text = mtmd.mtmd_input_text(text=marker, text_len=len(marker), add_special=False, parse_special=True)
    handle = projector._handle
    bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
    assert mtmd.mtmd_tokenize(handle, chunks, ctypes.byref(text), bitmaps, 1) == 0
    arguments = (handle, model.context, chunks, 2, 0, CONTEXT, False, ctypes.byref(end))
    assert mtmd.mtmd_helper_eval_chunks(*arguments) == 0
    mtmd.mtmd_input_chunks_free(chunks)
    mtmd.mtmd_bitmap_free(bitmap)
    return int(end.value)


def test_it_is_the_same_when_others_decode_meanwhile(model: LlamaModel) -> None:
    """Also where an encoder that was not waited for is ended."""
    tokens = [1, 300, 301, 302, 303, 304]
    model.truncate(0, 0)
    assert model.decode([BatchEntry(0, tokens, 0, wants_logits=True)])
    expected = model.logits()
    whole = encoded(model, NOISE, b"noise")
    decoded: list[list[float]] = []

    def decode() -> None:
        model.truncate(0, 0)
        assert model.decode([BatchEntry(0, tokens, 0, wants_logits=True)])
        decoded.append(model.logits())

    assert model.projector is not None
    ended = model.projector.encode(NOISE, b"noise", seconds=lambda: 0.0)
    next(ended)
    ended.close()
    seen = encoded(model, NOISE, b"noise", between=decode)
    assert len(decoded) > 3 and all(each == expected for each in decoded)
    assert seen.tokens == whole.tokens
    for one, other in zip(seen.pieces, whole.pieces, strict=True):
        assert isinstance(one.chunk, MediaChunk) and isinstance(other.chunk, MediaChunk)
        assert list(one.chunk.embeddings) == list(other.chunk.embeddings)


def test_tokens_alone_say_how_many_cells_a_picture_takes(model: LlamaModel) -> None:
    assert model.projector is not None
    wide = encoded(model, Image(96, 48, bytes(96 * 48 * 3)), b"wide")
    (piece,) = wide.pieces
    assert isinstance(piece.chunk, MediaChunk)
    width = len(piece.chunk.embeddings) // model.projector._width
    assert wide.cells == len(wide.tokens) - len(piece.tokens) + width
    is_two_dimensional = len(piece.tokens) < width
    assert surplus_cells(wide.tokens) == (width - len(piece.tokens) if is_two_dimensional else 0)


@given(st.integers(1, 200), st.integers(1, 200))
def test_the_cells_of_a_picture_are_shared_among_its_positions(wide: int, high: int) -> None:
    positions = max(wide, high)
    tokens = stand_ins(b"picture", positions, wide * high)
    assert cells(tokens) == wide * high and len(set(tokens)) == positions
    assert all(-(2**31) <= token < 0 for token in tokens), "they fit into 32 bits"
    assert surplus_cells(tokens[:1]) == 0 or positions == 1


def test_answers_go_on_while_a_picture_is_encoded(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "seeing.gguf", control=[START, END])
    settings = ContextSettings(
        context_tokens=CONTEXT,
        cache_tokens=2 * CONTEXT,
        batch_tokens=CONTEXT,
        gpu_layers=0,
        threads=1,
        slots=2,
        projector=str(tiny_projector(tmp_path / "mmproj.gguf")),
    )
    order: list[str] = []

    def done_in_pieces(made: LlamaModel, _: Engine) -> Generator[None, None, EncodedPicture]:
        assert made.projector is not None
        order.append("begun")
        seen = yield from made.projector.encode(NOISE, b"noise", seconds=lambda: 0.0)
        order.append("encoded")
        return seen

    thread = EngineThread(str(path), settings, lambda _: None)
    thread.observe(lambda _: order.append("step"))
    neighbour = asked([1, 300], max_tokens=60)
    thread.submit(neighbour.generation, neighbour.heard)
    picture = thread.run_in_pieces(done_in_pieces)
    thread.start()
    assert picture.result(30).tokens
    meanwhile = order[order.index("begun") : order.index("encoded")]
    assert meanwhile.count("step") > 3


def test_it_is_the_same_when_it_is_decoded_in_parts(model: LlamaModel) -> None:
    seen = encoded(model, Image(64, 48, random.Random(2).randbytes(64 * 48 * 3)), b"noise")
    prompt = [1, 300, *seen.tokens, 301, 302]
    whole = logits(model, 0, prompt, seen)
    model.truncate(1, 0)
    assert whole == pytest.approx(logits(model, 0, prompt, seen, most=3), abs=LIMIT)
    (piece,) = seen.pieces
    model.truncate(0, 0)
    assert model.decode([BatchEntry(0, [1, 300], 0, wants_logits=False)])
    left = model.decode_picture(0, 2, piece, left=None, most=3)
    if left:  # what has to be seen as a whole has no parts
        assert model.truncate(0, 2) and model.length(0) == 2, "a part can be left out again"
    assert whole == pytest.approx(logits(model, 0, prompt, seen), abs=LIMIT)


def test_a_saved_conversation_has_its_picture(model: LlamaModel) -> None:
    seen = encoded(model, NOISE, b"noise")
    prompt = [1, 300, *seen.tokens, 301]
    whole_prompt = logits(model, 0, [*prompt, 302], seen)
    logits(model, 0, prompt, seen)
    state = bytes(model.save(0))
    model.truncate(1, 0)
    assert model.restore(1, state) and model.length(1) == len(prompt)
    assert model.decode([BatchEntry(1, [302], len(prompt), wants_logits=True)])
    assert whole_prompt == pytest.approx(model.logits(), abs=LIMIT)


def test_the_same_picture_has_the_same_tokens_and_another_one_others(model: LlamaModel) -> None:
    seen, again = encoded(model, NOISE, b"noise"), encoded(model, NOISE, b"noise")
    assert seen.tokens == again.tokens and seen.size == again.size > 0
    assert not set(seen.pieces[0].tokens) & set(encoded(model, NOISE, b"other").pieces[0].tokens)


def test_a_projector_that_does_not_fit_leaves_a_model_that_reads_text(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "model.gguf")
    projector = tiny_projector(tmp_path / "mmproj.gguf", embedding=32)
    settings = ContextSettings(
        context_tokens=CONTEXT,
        cache_tokens=CONTEXT,
        batch_tokens=CONTEXT,
        gpu_layers=0,
        threads=1,
        slots=1,
        projector=str(projector),
    )
    loaded = LlamaModel.load(str(path), settings, lambda _: None)
    assert loaded.projector is None and "could not load mmproj.gguf" in loaded.reads_no_pictures
    assert loaded.decode([BatchEntry(0, [1, 300], 0, wants_logits=True)])
    loaded.free()


# --- prompts --------------------------------------------------------------------------------------------


def seen_as(name: str, tokens: int = 6, cells: int | None = None) -> EncodedPicture:
    """A picture that nothing was encoded for, between the tokens 400 and 401."""
    own = stand_ins(name.encode(), tokens, cells or tokens)
    return EncodedPicture((40, *own, 41), (Piece(own, name),), 0)


def ask(*parts: str | bytes, cells: int | None = None, **fields: Any) -> GenerateTextRequest:
    """A chat of one message, whose pictures stand as what is in their base64."""
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "data": part.decode()}
        for part in parts
    ]
    messages = [{"role": "user", "content": content}]
    request = msgspec.convert(
        {"model_id": "m", "messages": messages, "max_tokens": 1, **fields}, GenerateTextRequest
    )
    ids = count()
    pictures = [each.picture or "" for message in request.messages or () for each in message.pictures]
    sent = {each: seen_as(each, cells=cells) for each in pictures}

    def place(message: ChatMessage) -> ChatMessage:
        return placed(message, sent, lambda: f"id-{next(ids)}")

    return msgspec.structs.replace(request, messages=tuple(map(place, request.messages or ())))


@pytest.fixture
def prompter(model: LlamaModel) -> Iterator[Prompter]:
    ids = count()
    made = Prompter(
        model.vocabulary,
        CONTEXT,
        lambda: datetime(2026, 5, 4, tzinfo=UTC),
        lambda: f"id-{next(ids)}",
        chat_template=CHAT_TEMPLATE,
    )
    yield made
    made.close()


def test_pictures_stand_where_they_were_sent(prompter: Prompter) -> None:
    prompt = prompter.prompt(ask("before", b"one", "between", b"two", b"one", "after"))
    one, two = seen_as("one"), seen_as("two")
    stood = [token for token in prompt.tokens if is_stand_in(token)]
    assert stood == [*one.pieces[0].tokens, *two.pieces[0].tokens, *one.pieces[0].tokens]
    assert prompt.pictures == {each.pieces[0].tokens[0]: each.pieces[0] for each in (one, two)}
    plain = prompter.prompt(ask("before", "between", "after"))
    assert prompt.tokens[: prompt.tokens.index(40)] == plain.tokens[: prompt.tokens.index(40)]


def test_a_prompt_is_never_cut_within_a_picture(prompter: Prompter) -> None:
    for length in range(20, 120, 7):
        prompt = prompter.prompt(ask(b"one", b"two", "x" * length, truncate="left"))
        stood = [token for token in prompt.tokens if is_stand_in(token)]
        both = [*seen_as("one").pieces[0].tokens, *seen_as("two").pieces[0].tokens]
        assert stood in ([], both[6:], both)


def test_a_prompt_is_as_long_as_the_cells_that_its_pictures_take(prompter: Prompter) -> None:
    assert prompter.prompt(ask(b"one", "x", cells=CONTEXT // 2))
    with pytest.raises(PromptTooLong):
        prompter.prompt(ask(b"one", b"two", "x", cells=CONTEXT // 2))
    cut = prompter.prompt(ask(b"one", b"two", "x" * CONTEXT, cells=CONTEXT // 2, truncate="left"))
    assert cut.truncated_tokens
    with pytest.raises(PromptTooLong):
        prompter.prompt(ask(b"one", "x", cells=CONTEXT, truncate="left"))


def test_a_picture_that_the_context_has_no_room_for_is_not_encoded(model: LlamaModel) -> None:
    assert model.projector is not None
    roomless = copy(model.projector)
    roomless._context_tokens = 3
    with pytest.raises(PromptTooLong, match="a picture takes"):
        next(roomless.encode(NOISE, b"noise"))


def test_a_chat_that_would_end_with_a_picture_is_refused(model: LlamaModel) -> None:
    bare = EncodedPicture(seen_as("one").pieces[0].tokens, seen_as("one").pieces, 0)
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    prompter = Prompter(
        model.vocabulary,
        CONTEXT,
        lambda: datetime(2026, 5, 4, tzinfo=UTC),
        lambda: "id",
        chat_template=template,
    )
    message = msgspec.convert({"role": "user", "content": [{"type": "image", "data": "one"}]}, ChatMessage)
    request = GenerateTextRequest(model_id="m", messages=(placed(message, {"one": bare}, lambda: "id"),))
    with pytest.raises(InvalidChat, match="ends with a picture"):
        prompter.prompt(request)
    prompter.close()


# --- the engine -----------------------------------------------------------------------------------------


PIECES = {name: Piece(stand_ins(name.encode(), 5), name) for name in "abc"}
BY_TOKEN = {piece.tokens[0]: piece for piece in PIECES.values()}
WIDE = {name: Piece(stand_ins(name.encode(), 5, 50), name) for name in "abc"}
WIDE_BY_TOKEN = {piece.tokens[0]: piece for piece in WIDE.values()}


def tokens_of(parts: Sequence[int | str], pieces: Mapping[str, Piece] = PIECES) -> list[int]:
    prompt: list[int] = []
    for part in parts:
        prompt += pieces[part].tokens if isinstance(part, str) else (part,)
    return prompt


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from([1, 2, "a", "b", "c"]), max_size=5),
            st.integers(0, 20),
            st.sampled_from([None, "x", "y"]),
            st.integers(1, 2),
        ),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 3),
    st.integers(60, 120),
    st.sampled_from(["whole", "window", "recurrent"]),
    st.booleans(),
)
def test_each_prompt_with_pictures_gets_its_own_answer(
    plan: list[tuple[list[int | str], int, str | None, int]],
    slots: int,
    cache: int,
    kind: str,
    separate: bool,
) -> None:
    """Together with others, followed, preempted, from snapshots: it is as if each were alone."""
    backend = FakeBackend(
        slots=slots,
        context=60,
        cache=cache,
        batch=8,
        can_share=kind != "recurrent",
        window=kind == "window",
        separate=separate,
    )
    engine = Engine(
        backend,
        Slots(slots, can_share=backend.can_share),
        prompt_step_tokens=3,
        snapshots=snapshots(memory_bytes=3000),
    )
    all_asked: list[Asked] = []
    for parts, steps, conversation, seed in plan:
        prompt = tokens_of([1, 2, *parts, 3])
        each = asked(prompt, seed=seed, conversation=conversation, pictures=BY_TOKEN)
        all_asked.append(each)
        engine.submit(each.generation, each.heard)
        for _ in range(steps):
            engine.step()
    drain(engine)
    for each in all_asked:
        order = each.generation.request
        assert each.heard.tokens == alone(order.prompt, order.max_tokens, order.sampling.seed, 60)[0]


def test_a_picture_without_room_in_its_own_cache_costs_nobody_else_anything() -> None:
    backend = FakeBackend(slots=2, context=60, cache=120, batch=8, separate=True)
    engine = Engine(backend, Slots(2), prompt_step_tokens=3)
    idle = asked([1, 2, 3], max_tokens=2, conversation="x")
    engine.submit(idle.generation, idle.heard)
    drain(engine)
    backend.has_room_for_pictures = False
    seeing = asked(tokens_of([1, "a", 2]), max_tokens=2, pictures=BY_TOKEN)
    engine.submit(seeing.generation, seeing.heard)
    drain(engine)
    assert code(seeing) == "prompt_too_long"
    assert sorted(map(len, backend.sequences)) == [0, 4]


def test_an_answer_ends_where_the_cells_of_its_pictures_fill_the_context() -> None:
    engine = Engine(FakeBackend(slots=1, context=60, cache=60, batch=8), Slots(1), prompt_step_tokens=3)
    each = asked(tokens_of([1, "a", 2], WIDE), max_tokens=40, pictures=WIDE_BY_TOKEN)
    engine.submit(each.generation, each.heard)
    drain(engine)
    assert each.generation.outcome == "context_full" and each.generation.completion_tokens < 12


@pytest.mark.parametrize("is_from_a_snapshot", [False, True])
def test_a_conversation_that_goes_on_counts_the_cells_of_earlier_pictures(is_from_a_snapshot: bool) -> None:
    engine = Engine(
        FakeBackend(slots=1, context=100, cache=200, batch=8, separate=True),
        Slots(1),
        prompt_step_tokens=3,
        snapshots=snapshots(memory_bytes=3000),
    )
    prompt = tokens_of([*[1] * 40, "a", 2], WIDE)
    first = asked(prompt, max_tokens=2, pictures=WIDE_BY_TOKEN, conversation="x")
    engine.submit(first.generation, first.heard)
    drain(engine)
    if is_from_a_snapshot:
        other = asked([7, 8, 9], max_tokens=2, conversation="y")
        engine.submit(other.generation, other.heard)
        drain(engine)
    too_long = asked([4] * 8, max_tokens=2, conversation="x", continues=True)
    engine.submit(too_long.generation, too_long.heard)
    drain(engine)
    assert code(too_long) == "prompt_too_long"
    second = asked([4], max_tokens=40, conversation="x", continues=True)
    engine.submit(second.generation, second.heard)
    drain(engine)
    assert second.generation.outcome == "context_full" and second.generation.completion_tokens < 12


def test_a_picture_is_decoded_in_parts_while_others_answer() -> None:
    """As a prompt is; and of one that is given up nothing is left."""
    backend = FakeBackend(slots=2, context=60, cache=120, batch=8)
    engine = Engine(backend, Slots(2), prompt_step_tokens=8)
    neighbour = asked([1, 2], max_tokens=30, seed=2)
    engine.submit(neighbour.generation, neighbour.heard)
    while not neighbour.heard.tokens:
        engine.step()
    seeing, given_up = (
        asked(tokens_of([1, name, 2], WIDE), max_tokens=2, pictures=WIDE_BY_TOKEN) for name in "ab"
    )
    engine.submit(seeing.generation, seeing.heard)
    before = len(neighbour.heard.tokens)
    while not backend.pictures:
        engine.step()
    assert len(neighbour.heard.tokens) >= before + 6, "50 cells, 8 in each step"
    assert seeing.generation.outcome is None
    while seeing.generation.outcome is None:
        engine.step()
    engine.submit(given_up.generation, given_up.heard)
    while not backend.parts:
        engine.step()
    given_up.generation.cancel("cancelled")
    drain(engine)
    assert not backend.parts and backend.pictures == 1
    assert given_up.generation.outcome == "cancelled"


def test_what_was_read_of_a_picture_is_reused_and_is_not_read_again() -> None:
    backend = FakeBackend(slots=2, context=60, cache=120, batch=8)
    engine = Engine(backend, Slots(2), prompt_step_tokens=3)
    first = tokens_of([1, "a", 2, "b", 3])
    for prompt, decoded, reused in (
        (first, 2, 0),
        ([*first, 4], 2, len(first)),
        (tokens_of([1, "a", 2, "c", 3]), 3, 7),
    ):
        each = asked(prompt, max_tokens=1, pictures=BY_TOKEN, conversation="x")
        engine.submit(each.generation, each.heard)
        drain(engine)
        assert (backend.pictures, each.generation.reused_tokens) == (decoded, reused)


def test_a_continued_conversation_whose_pictures_are_gone_has_to_be_sent_whole() -> None:
    backend = FakeBackend(slots=1, context=60, cache=120, batch=8)
    engine = Engine(backend, Slots(1), prompt_step_tokens=3)
    first = asked(tokens_of([1, "a", 2]), max_tokens=2, pictures=BY_TOKEN, conversation="x")
    engine.submit(first.generation, first.heard)
    drain(engine)
    second = asked([4], max_tokens=2, conversation="x", continues=True, reuse=False)
    engine.submit(second.generation, second.heard)
    drain(engine)
    assert code(second) == "conversation_gone"


# --- files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
def test_pictures_of_known_formats_are_read(format: str) -> None:
    image = read(picture((255, 0, 0), format=format))
    red, green, blue = image.rgb[:3]
    assert (image.width, image.height, len(image.rgb)) == (40, 30, 40 * 30 * 3)
    assert red > 250 and green < 5 and blue < 5


def test_a_large_picture_is_made_smaller() -> None:
    image = read(picture((0, 0, 0), (3000, 1500)))
    assert (image.width, image.height) == (2048, 1024)


READ_WITHIN = """
import os, resource, sys
from pathlib import Path
from suite.engine.pictures.image import read
from suite.process_memory import process_memory
data = sys.stdin.buffer.read()
import PIL.Image, PIL.ImageOps, PIL.PngImagePlugin  # before the limit
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
before = process_memory(os.getpid()).anonymous_bytes
assert read(data).width == 2048
after = process_memory(os.getpid()).anonymous_bytes
assert after - before < 32 << 20, (before, after)
"""
"""Reads a picture with so much more memory than the process has, and keeps none of it."""


@pytest.mark.parametrize(("color_type", "of_each"), [(2, 3), (6, 4)], ids=["RGB", "RGBA"])
def test_a_large_picture_takes_memory_for_its_pixels_and_one_copy(color_type: int, of_each: int) -> None:
    side = 4500
    data = png(side, side, bytes((1 + of_each * side) * side), color_type=color_type)
    limit = 2 * 4 * side * side + (64 << 20)
    subprocess.run([sys.executable, "-c", READ_WITHIN, str(limit)], input=data, check=True, timeout=60)


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (bytes(100_000_000), PictureTooLarge, f"has 100000000 bytes and may have {MOST_BYTES}"),
        (b"", InvalidPicture, "no pixels, or no format that is known here"),
        (b"GIF89a" + bytes(20), InvalidPicture, "no pixels"),
        (png(0, 1, b""), InvalidPicture, "no pixels"),
        (png(8000, 8000, b""), PictureTooLarge, "8000 x 8000, at most 50 million"),
        (png(1, 1000, bytes(4000)), InvalidPicture, "over 200 times as long"),
        (picture((1, 2, 3), (400, 300))[:300], InvalidPicture, "is damaged"),
        (picture((1, 2, 3), format="TIFF"), InvalidPicture, "no format that is known here"),
    ],
)
def test_what_is_no_picture_or_too_much_of_one_is_refused(
    data: bytes, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        read(data)


def test_a_bomb_is_unpacked_no_further_than_it_says() -> None:
    assert read(png(16, 16, bytes(20_000_000))).rgb == bytes(16 * 16 * 3)
