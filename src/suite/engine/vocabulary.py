"""The tokenizer of a model: text to tokens and back, by the vocabulary in the model's file."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import repeat

from suite.engine.bindings import lib
from suite.errors import GenerationFailed, InvalidRequest


class Vocabulary:
    """Converts text to tokens and back. Any thread may use it, also while the model decodes."""

    def __init__(self, model: int) -> None:
        self._model = model
        self._vocab: int = lib.llama_model_get_vocab(model)
        self.size: int = lib.llama_vocab_n_tokens(self._vocab)
        self.adds_bos: bool = lib.llama_vocab_get_add_bos(self._vocab)
        self.bos = self._special(lib.llama_vocab_bos(self._vocab))
        self.eos = self._special(lib.llama_vocab_eos(self._vocab))
        self._pieces: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}

    def _special(self, token: int) -> str:
        return "" if token < 0 else self.piece(token, special=True).decode("utf-8", "replace")

    @property
    def pointer(self) -> int:
        """llama.cpp's pointer to the vocabulary, which its samplers need."""
        return self._vocab

    @property
    def chat_template(self) -> str | None:
        """The chat template in the model's file; None if it has none."""
        template = lib.llama_model_chat_template(self._model, None)
        return None if template is None else template.decode("utf-8", "replace")

    @property
    def tool_template(self) -> str | None:
        """The file's separate template for chats with tools; None if it has none."""
        template = lib.llama_model_chat_template(self._model, b"tool_use")
        return None if template is None else template.decode("utf-8", "replace")

    @property
    def rerank_template(self) -> str | None:
        """The file's template for a query and a document to be ranked; None if it has none."""
        template = lib.llama_model_chat_template(self._model, b"rerank")
        return None if template is None else template.decode("utf-8", "replace")

    def tokenize(self, text: str, *, begins: bool = True, special: bool = True) -> list[int]:
        """The tokens of a text. With `special`, names of special tokens in the text become those tokens.

        With `begins`, the tokens that the model expects at the start of a text (BOS) are added. Raises
        GenerationFailed when llama.cpp's tokenizer fails.
        """
        data = text.encode("utf-8", "replace")
        room = len(data) + 8  # a token is a byte at least, but for the few that the model adds
        tokens = (lib.llama_token * room)()
        count = lib.llama_tokenize(self._vocab, data, len(data), tokens, room, begins, special)
        if count < 0:
            raise GenerationFailed(f"the model's tokenizer failed on a text of {len(data)} bytes")
        return tokens[:count]

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of tokens, with the names of special ones; incomplete characters are shown as U+FFFD.

        Raises InvalidRequest for an id that is no token of this model.
        """
        self.check(tokens)
        ids = (lib.llama_token * len(tokens))(*tokens)
        size = 8 * len(tokens) + 8
        while True:
            buffer = ctypes.create_string_buffer(size)
            count = lib.llama_detokenize(self._vocab, ids, len(tokens), buffer, size, False, True)
            if count >= 0:
                return buffer.raw[:count].decode("utf-8", "replace")
            size = -count

    def check(self, tokens: Sequence[int]) -> None:
        """Raise InvalidRequest for an id that is no token of this model: llama.cpp aborts on some of them."""
        unknown = next((token for token in tokens if not 0 <= token < self.size), None)
        if unknown is not None:
            raise InvalidRequest(f"the model has no token {unknown}: its token ids are 0 to {self.size - 1}")

    def pair(self, first: Sequence[int], second: Sequence[int]) -> list[int]:
        """The tokens of two texts as one input, each with what the model expects after a text.

        That is how a BERT is trained, ``[CLS] first [SEP] second [SEP]``, and an XLM-RoBERTa, which has one
        more mark between them, ``<s> first </s></s> second </s>``.
        """
        empty = self.tokenize("")
        begin, end = empty[: int(self.adds_bos)], empty[int(self.adds_bos) :]
        separates = lib.llama_vocab_get_add_sep(self._vocab) and lib.llama_vocab_get_add_eos(self._vocab)
        between = [lib.llama_vocab_sep(self._vocab)] if separates else []
        return [*begin, *first, *end, *between, *second, *end]

    def filling(self, before: Sequence[int], after: Sequence[int]) -> list[int] | None:
        """The tokens of a text with a gap, as the model expects them to fill it; None: it cannot.

        Models are trained on prefix, suffix and middle in this order (Bavarian et al. 2022,
        arXiv:2207.14255).
        """
        marks = [
            find(self._vocab)
            for find in (lib.llama_vocab_fim_pre, lib.llama_vocab_fim_suf, lib.llama_vocab_fim_mid)
        ]
        if min(marks) < 0:
            return None
        prefix, suffix, middle = marks
        begin = [lib.llama_vocab_bos(self._vocab)] * self.adds_bos
        return [*begin, prefix, *before, suffix, *after, middle]

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes of one token. Those of a special token are empty, unless `special` is set."""
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            count = lib.llama_token_to_piece(self._vocab, token, buffer, size, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            size = -count

    @cached_property
    def longest_piece(self) -> int:
        """The length of the longest token, in bytes. The first call takes 0.3 s for a large vocabulary."""
        needed = map(
            lib.llama_token_to_piece,
            *(repeat(self._vocab), range(self.size), repeat(None), repeat(0), repeat(0), repeat(True)),
        )
        return int(-min(needed))  # the size of the buffer that would do

    def visible_bytes(self, token: int) -> bytes:
        """The bytes that a generated token adds to the answer; none for special tokens."""
        known = self._pieces.get(token)
        if known is None:
            known = self._pieces[token] = self.piece(token)
        return known

    def is_eog(self, token: int) -> bool:
        """Whether this token ends the generation (end of generation, EOG)."""
        known = self._ends.get(token)
        if known is None:
            known = self._ends[token] = bool(lib.llama_vocab_is_eog(self._vocab, token))
        return known

    @cached_property
    def control_tokens(self) -> Mapping[str, int]:
        """The tokens that only `special` texts can have, by their names: those that begin a turn, and so on.

        The first call takes some hundredths of a second for a large vocabulary.
        """
        return self._named(lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN)

    @cached_property
    def added_tokens(self) -> Mapping[str, int]:
        """The tokens that a text has wherever their names are in it, by these names."""
        return self._named(lib.LLAMA_TOKEN_ATTR_USER_DEFINED)

    def _named(self, attributes: int) -> dict[str, int]:
        tokens = [token for token, attribute in enumerate(self._attributes) if attribute & attributes]
        return {name: token for token in tokens if (name := self._name(token))}

    @cached_property
    def _attributes(self) -> Sequence[int]:
        return array("i", map(lib.llama_vocab_get_attr, repeat(self._vocab), range(self.size)))

    def _name(self, token: int) -> str:
        return (lib.llama_vocab_get_text(self._vocab, token) or b"").decode("utf-8", "replace")

    @property
    def texts(self) -> Sequence[bytes]:
        """The texts of all tokens as the file has them. This takes some hundredths of a second."""
        read = map(lib.llama_vocab_get_text, repeat(self._vocab), range(self.size))
        return [text or b"" for text in read]

    def strips(self, token: int) -> tuple[bool, bool]:
        """Whether this token takes away the white space before it, and that after it."""
        attributes = self._attributes[token]
        return bool(attributes & lib.LLAMA_TOKEN_ATTR_LSTRIP), bool(attributes & lib.LLAMA_TOKEN_ATTR_RSTRIP)

    def invisible_tokens(self) -> list[int]:
        """The special tokens that neither add text to an answer nor end it."""
        special = lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN
        return [
            token
            for token, attribute in enumerate(self._attributes)
            if attribute & special and not self.is_eog(token)
        ]
