"""A projector (mmproj): the encoder that makes embeddings of pictures for one loaded model.

llama.cpp's multimodal library does all of it; how a model is told where a picture begins and ends, and into
how many pieces it is cut, is known there. Everything blocks, and only the engine's thread may use it. To
encode a picture takes long, so it is done in slices, between which the engine makes steps (`slices`).
"""

from __future__ import annotations

import ctypes
import math
import os
import weakref
from collections.abc import Callable, Generator, Iterator
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Final

from suite.engine.bindings import last_messages, lib
from suite.engine.pictures import bindings
from suite.engine.pictures.image import Image
from suite.engine.pictures.slices import Slices
from suite.engine.pictures.tokens import EncodedPicture, Piece, stand_ins
from suite.errors import Cancelled, GenerationFailed, InvalidPicture, LoadFailed, PromptTooLong

NODES: Final = 8
"""After so many nodes of its graph an encoder can be interrupted; a layer has about thirty."""

_FLOAT_BYTES = 4
_READ_BYTES = 1 << 20


class MediaChunk:
    """A piece of a picture in llama.cpp's memory, with its embeddings. Any thread may let go of it."""

    def __init__(self, mtmd: ModuleType, handle: int, embeddings: ctypes.Array[ctypes.c_float]) -> None:
        self.handle = handle
        self.embeddings = embeddings
        weakref.finalize(self, mtmd.mtmd_input_chunk_free, handle).atexit = False


class Projector:
    """The projector of one loaded model."""

    def __init__(
        self,
        path: Path,
        *,
        model: int,
        context: int,
        context_tokens: int,
        threads: int,
        use_gpu: bool,
        batch_tokens: int,
    ) -> None:
        """Load the file. `model` and `context` are llama.cpp's; `batch_tokens` fit into one micro-batch, and
        `context_tokens` into one sequence.

        Raises LoadFailed with llama.cpp's message.
        """
        try:
            self._mtmd = mtmd = bindings.load()
        except (ImportError, OSError) as error:
            raise LoadFailed(f"llama.cpp's multimodal library cannot be loaded: {error}") from None
        params = mtmd.mtmd_context_params_default()
        params.use_gpu, params.n_threads = use_gpu, threads
        params.print_timings = params.warmup = False
        self._slices = Slices()
        # llama.cpp calls this for as long as the projector lives, so the reference is kept here.
        self._callback = params.cb_eval = lib.ggml_backend_sched_eval_callback(_Pauses(self._slices))
        self._context = context
        self._context_tokens = context_tokens
        self._batch_tokens = batch_tokens
        self._width: int = lib.llama_model_n_embd_inp(model)
        self._content = _content(path)
        self._marker: bytes = mtmd.mtmd_default_marker()
        last_messages()
        handle = mtmd.mtmd_init_from_file(str(path).encode(), model, params)
        if not handle:
            raise LoadFailed(
                f"llama.cpp could not load {path.name}: {last_messages() or 'it gave no reason'}"
            )
        self._handle: int = handle
        self._free = weakref.finalize(self, mtmd.mtmd_free, handle)
        self._free.atexit = False
        if not mtmd.mtmd_support_vision(handle):
            self.free()
            raise LoadFailed(f"the projector {path.name} is not one for pictures")

    def free(self) -> None:
        """Free its memory. Nothing of it may be used afterwards."""
        self._free()

    def encode(
        self, image: Image, digest: bytes, *, seconds: Callable[[], float] = lambda: math.inf
    ) -> Generator[None, None, EncodedPicture]:
        """Make embeddings of a picture, which takes from a tenth of a second to many.

        The generator yields wherever it has computed for so many `seconds`, which are asked for anew each
        time. `digest` is that of the picture. Exhaust or close it before calling `encode` again. Raises
        InvalidPicture for one that llama.cpp cannot cut into pieces, PromptTooLong for one that the context
        has no room for, and GenerationFailed.
        """
        return (yield from self._slices.run(lambda: self._encode(image, digest), seconds))

    def _encode(self, image: Image, digest: bytes) -> EncodedPicture:
        tokens: list[int] = []
        pieces: list[Piece] = []
        cells = 0
        for number, part in enumerate(self._parts(image)):
            if isinstance(part, tuple):
                tokens += part
                continue
            positions: int = self._mtmd.mtmd_input_chunk_get_n_pos(part)
            own = sha256(b"%s %s %d" % (self._content, digest, number)).digest()
            count = self._tokens_of(part)
            cells += count
            self._check_room(cells)
            piece = Piece(stand_ins(own, positions, count), self._encoded(part))
            tokens += piece.tokens
            pieces.append(piece)
        return EncodedPicture(tuple(tokens), tuple(pieces), _FLOAT_BYTES * self._width * cells)

    def decode(
        self, sequence: int, position: int, piece: Piece, *, left: int | None, most: int
    ) -> int | None:
        """Go on to decode a piece of a picture whose first position this is: `LlamaModel.decode_picture`.

        None: the KV cache has no room for it. Then, and after GenerationFailed, the sequence may have a part
        of it.
        """
        chunk = piece.chunk
        assert isinstance(chunk, MediaChunk)
        if self._mtmd.mtmd_decode_use_non_causal(self._handle, chunk.handle):
            result, left = self._decode_whole(sequence, position, chunk), 0
        else:
            left = self._tokens_of(chunk.handle) if left is None else left
            count = min(left, most, self._batch_tokens)
            result = self._decode_part(sequence, position, chunk, left, count)
            left -= count
        if result not in (0, 1):
            raise GenerationFailed(f"llama.cpp could not decode a picture: {last_messages()}".rstrip(": "))
        return left if result == 0 else None

    def _decode_whole(self, sequence: int, position: int, chunk: MediaChunk) -> int:
        """Decode a piece at once, as its tokens see each other. Returns what llama_decode does."""
        end = lib.llama_pos()
        result: int = self._mtmd.mtmd_helper_decode_image_chunk(
            self._handle,
            self._context,
            chunk.handle,
            chunk.embeddings,
            position,
            sequence,
            self._batch_tokens,
            ctypes.byref(end),
            self._mtmd.mtmd_helper_post_decode_callback(0),
            None,
        )
        return result

    def _decode_part(self, sequence: int, position: int, chunk: MediaChunk, left: int, count: int) -> int:
        """Decode the first so many of those tokens of a piece that are left, as llama.cpp's helper does."""
        begin = self._tokens_of(chunk.handle) - left
        positions = self._positions(chunk, position, begin, count)
        id = lib.llama_seq_id(sequence)
        ids = (ctypes.POINTER(lib.llama_seq_id) * count)(*[ctypes.pointer(id)] * count)
        counts, logits = (ctypes.c_int32 * count)(*[1] * count), (ctypes.c_int8 * count)()
        embeddings = ctypes.byref(chunk.embeddings, _FLOAT_BYTES * self._width * begin)
        batch = lib.llama_batch(
            n_tokens=count,
            token=None,
            embd=ctypes.cast(embeddings, ctypes.POINTER(ctypes.c_float)),
            pos=ctypes.cast(positions, ctypes.POINTER(lib.llama_pos)),
            n_seq_id=ctypes.cast(counts, ctypes.POINTER(ctypes.c_int32)),
            seq_id=ctypes.cast(ids, ctypes.POINTER(ctypes.POINTER(lib.llama_seq_id))),
            logits=ctypes.cast(logits, ctypes.POINTER(ctypes.c_int8)),
        )
        result: int = lib.llama_decode(self._context, batch)
        return result

    def _positions(
        self, chunk: MediaChunk, position: int, begin: int, count: int
    ) -> ctypes.Array[ctypes.c_int32]:
        """Where tokens of a piece are: one number each, or with M-RoPE four, all first ones first."""
        own = range(begin, begin + count)
        if not self._mtmd.mtmd_decode_use_mrope(self._handle):
            return (lib.llama_pos * count)(*(position + index for index in own))
        tokens = self._mtmd.mtmd_input_chunk_get_tokens_image(chunk.handle)
        places = [self._mtmd.mtmd_image_tokens_get_decoder_pos(tokens, position, index) for index in own]
        by_dimension = (getattr(place, name) for name in ("t", "y", "x", "z") for place in places)
        return (lib.llama_pos * (4 * count))(*by_dimension)

    def _parts(self, image: Image) -> Iterator[tuple[int, ...] | int]:
        """The picture in parts: tokens of text, or the handle of a piece, valid until the next one."""
        mtmd = self._mtmd
        bitmap = mtmd.mtmd_bitmap_init(image.width, image.height, _bytes_of(image.rgb))
        chunks = mtmd.mtmd_input_chunks_init()
        try:
            text = mtmd.mtmd_input_text(
                text=self._marker, text_len=len(self._marker), add_special=False, parse_special=True
            )
            bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
            if mtmd.mtmd_tokenize(self._handle, chunks, ctypes.byref(text), bitmaps, 1) != 0:
                raise InvalidPicture(f"llama.cpp cannot use the picture: {last_messages()}".rstrip(": "))
            for index in range(mtmd.mtmd_input_chunks_size(chunks)):
                chunk = mtmd.mtmd_input_chunks_get(chunks, index)
                is_text = mtmd.mtmd_input_chunk_get_type(chunk) == mtmd.MTMD_INPUT_CHUNK_TYPE_TEXT
                yield self._text(chunk) if is_text else chunk
        finally:
            mtmd.mtmd_input_chunks_free(chunks)
            mtmd.mtmd_bitmap_free(bitmap)

    def _text(self, chunk: int) -> tuple[int, ...]:
        count = ctypes.c_size_t()
        tokens = self._mtmd.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(count))
        return tuple(tokens[: count.value])

    def _tokens_of(self, chunk: int) -> int:
        count: int = self._mtmd.mtmd_input_chunk_get_n_tokens(chunk)
        return count

    def _check_room(self, cells: int) -> None:
        if cells >= self._context_tokens:
            raise PromptTooLong(
                f"a picture takes {cells} tokens and the model's context has {self._context_tokens}: send a "
                "smaller picture, or configure a larger context_length"
            )

    def _encoded(self, chunk: int) -> MediaChunk:
        """A copy of a piece, with its embeddings."""
        mtmd, count = self._mtmd, self._tokens_of(chunk)
        if mtmd.mtmd_decode_use_non_causal(self._handle, chunk) and count > self._batch_tokens:
            raise GenerationFailed(
                f"a picture has {count} tokens, which this model has to see at once, and a batch "
                f"{self._batch_tokens}: configure a larger batch_size"
            )
        if mtmd.mtmd_encode_chunk(self._handle, chunk) != 0:
            raise GenerationFailed(f"llama.cpp could not encode a picture: {last_messages()}".rstrip(": "))
        if self._slices.is_stopped:
            raise Cancelled
        embeddings = (ctypes.c_float * (count * self._width))()
        ctypes.memmove(embeddings, mtmd.mtmd_get_output_embd(self._handle), ctypes.sizeof(embeddings))
        return MediaChunk(mtmd, mtmd.mtmd_input_chunk_copy(chunk), embeddings)


class _Pauses:
    """Interrupts the computation of a graph, where ggml asks after each of its nodes whether it may go on.

    After every node that it says yes to, ggml has all threads wait for each other. So it says so to few.
    """

    def __init__(self, slices: Slices) -> None:
        self._slices = slices
        self._nodes = 0

    def __call__(self, _node: int, asks: bool, _data: int | None) -> bool:
        """With `asks`, whether this wants to be called after that node; else whether ggml may go on."""
        if not asks:
            return self._slices.may_go_on()
        self._nodes += 1
        return self._nodes % NODES == 0 or self._slices.is_stopped


def _bytes_of(rgb: bytes) -> ctypes._Pointer[ctypes.c_uint8]:
    return ctypes.cast(ctypes.c_char_p(rgb), ctypes.POINTER(ctypes.c_uint8))


def _content(path: Path) -> bytes:
    """Tells one projector from another, on any node, without reading all of it."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        digest = sha256(b"%d" % size)
        for begin in (0, max(0, size - _READ_BYTES)):
            file.seek(begin)
            digest.update(file.read(_READ_BYTES))
    return digest.digest()
