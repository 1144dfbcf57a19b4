"""A projector (mmproj): the encoder that makes embeddings of pictures for one loaded model.

llama.cpp's multimodal library does all of it; how a model is told where a picture begins and ends, and into
how many pieces it is cut, is known there. Everything blocks, and only the engine's thread may use it.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from types import ModuleType

from suite.engine.bindings import last_messages, lib
from suite.engine.pictures import bindings
from suite.engine.pictures.image import Image
from suite.engine.pictures.tokens import EncodedPicture, Piece, stand_ins
from suite.errors import GenerationFailed, InvalidPicture, LoadFailed, PromptTooLong

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

    def encode(self, image: Image, digest: bytes) -> EncodedPicture:
        """Make embeddings of a picture, which takes from a tenth of a second to many.

        `digest` is that of the picture. Raises InvalidPicture for one that llama.cpp cannot cut into pieces,
        PromptTooLong for one that the context has no room for, and GenerationFailed.
        """
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
            piece = Piece(stand_ins(own, positions), self._encoded(part), count)
            tokens += piece.tokens
            pieces.append(piece)
        return EncodedPicture(tuple(tokens), tuple(pieces), _FLOAT_BYTES * self._width * cells)

    def decode(self, sequence: int, position: int, piece: Piece) -> bool:
        """Decode a piece of a picture at this position. False: the KV cache has no room for it.

        Then, and after GenerationFailed, the sequence may have a part of it.
        """
        chunk = piece.chunk
        assert isinstance(chunk, MediaChunk)
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
        if result not in (0, 1):
            raise GenerationFailed(f"llama.cpp could not decode a picture: {last_messages()}".rstrip(": "))
        return result == 0

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
        embeddings = (ctypes.c_float * (count * self._width))()
        ctypes.memmove(embeddings, mtmd.mtmd_get_output_embd(self._handle), ctypes.sizeof(embeddings))
        return MediaChunk(mtmd, mtmd.mtmd_input_chunk_copy(chunk), embeddings)


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
