"""What a model thinks before its answer: which markers stand around it, and how it is told apart.

The markers are found in the model's chat template or its vocabulary. A template may have opened the reasoning
already, at the end of the prompt; then the answer begins within it::

    stream = AnswerStream(Reasoning(form=form, opened=False), stops=["\\n\\n"])
    stream.push(7, b"<think>")        -> Piece("", "")
    stream.push(8, b"Two and two.")   -> Piece("", "Two and two.")
    stream.push(9, b"</think>\\n4")   -> Piece("4", "")
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from suite.engine.text import TextStream

NO_TOKENS: frozenset[int] = frozenset()


class ReasoningFormat(msgspec.Struct, frozen=True, kw_only=True):
    """The markers of one family of models."""

    start: str
    end: str
    headers: tuple[str, ...] = ()
    """What may stand before the answer proper, and is no part of it."""

    @property
    def names(self) -> tuple[str, ...]:
        """The markers as they may stand in a text."""
        return (self.start.strip(), self.end)

    def opens(self, prompt: str) -> bool:
        """Whether a prompt ends within the reasoning, right after its beginning."""
        return prompt.rstrip().endswith(self.start.rstrip())

    def without_empty(self, prompt: str) -> str:
        """A prompt without the empty reasoning that a template may end with."""
        text = prompt.rstrip()
        if not text.endswith(self.end):
            return prompt
        return text.removesuffix(self.end).rstrip().removesuffix(self.start.rstrip())

    def is_open_in(self, said: str) -> bool:
        """Whether what an assistant has said so far ends within its reasoning."""
        return said.rfind(self.start.strip()) > said.rfind(self.end)


FORMATS = (
    ReasoningFormat(start="<think>", end="</think>"),
    ReasoningFormat(start="[THINK]", end="[/THINK]"),
    ReasoningFormat(start="<|START_THINKING|>", end="<|END_THINKING|>"),
    ReasoningFormat(start="<seed:think>", end="</seed:think>"),
    ReasoningFormat(start="<mm:think>", end="</mm:think>"),
    ReasoningFormat(start="<|inner_prefix|>", end="<|inner_suffix|>"),
    ReasoningFormat(start="<|channel>thought\n", end="<channel|>"),
    ReasoningFormat(
        start="<|channel|>analysis<|message|>",
        end="<|end|>",
        headers=("<|start|>assistant<|channel|>final<|message|>", "<|channel|>final<|message|>"),
    ),
)
"""Those of DeepSeek, Qwen and many more; Mistral; Cohere; Seed; MiniMax; Apertus; Gemma 4; gpt-oss."""


def format_of(template: str, tokens: Collection[str]) -> ReasoningFormat | None:
    """The format of a model by its chat template and the names of its special tokens; None: it has none."""
    for known in FORMATS:
        if all(name in template or name in tokens for name in known.names):
            return known
    return None


class Reasoning(msgspec.Struct, frozen=True, kw_only=True):
    """How the reasoning of one answer is told apart."""

    form: ReasoningFormat
    opened: bool
    """Whether the prompt ends within it."""
    tokens: Mapping[int, bytes] = {}
    """The names of the control tokens that its markers are made of: they have no text of their own."""


def marker_tokens(form: ReasoningFormat, named: Mapping[str, int]) -> dict[int, bytes]:
    """Those of these tokens that the markers of a format are made of, with their names."""
    markers = (form.start, form.end, *form.headers)
    return {
        token: name.encode() for name, token in named.items() if any(name in marker for marker in markers)
    }


Phase: TypeAlias = Literal["begin", "reasoning", "header", "answer"]
"""Where an answer is: at its beginning, within its reasoning, between that and the answer proper, there."""


class Piece(NamedTuple):
    """The next piece of an answer, and of the reasoning before it."""

    text: str
    reasoning: str = ""


class AnswerStream:
    """One answer as it grows, apart from its reasoning. The result is the same however the bytes are split.

    Stop strings end the answer; they mean nothing in the reasoning. White space around the reasoning is left
    out, and so are the markers.
    """

    def __init__(self, reasoning: Reasoning | None = None, stops: Sequence[str] = ()) -> None:
        self.reasoning_tokens = 0
        """How many tokens were reasoning, its markers included."""
        self._text = TextStream(stops)
        self._thought = TextStream()
        self._names: dict[Phase, dict[int, bytes]] = {}
        """The names of control tokens that count in each phase."""
        self._start = self._end = b""
        self._headers: tuple[bytes, ...] = ()
        self._phase: Phase = "answer"
        self._held = b""
        """Bytes of which it is not known yet what they are."""
        self._is_held_unseen = False
        """Whether they began with the token of a marker, which the grammar of the answer has not seen."""
        self._space = ""
        """White space of the reasoning that is left out if the reasoning ends with it."""
        self._began = False
        """Whether the reasoning has had anything but white space."""
        self._tokens = 0
        if reasoning is not None:
            form = reasoning.form
            self._start, self._end = form.start.strip().encode(), form.end.encode()
            self._headers = tuple(header.encode() for header in form.headers)
            self._phase = "reasoning" if reasoning.opened else "begin"
            markers: dict[Phase, tuple[bytes, ...]] = {
                "begin": (self._start, *self._headers),
                "reasoning": (self._end,),
                "header": self._headers,
            }
            for phase, names in markers.items():
                self._names[phase] = _parts(reasoning.tokens, names)

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found; the text ends before it, and later bytes are ignored."""
        return self._text.stopped

    @property
    def stop_text(self) -> str | None:
        """The stop string that was found."""
        return self._text.stop_text

    @property
    def hidden(self) -> bytes:
        """The bytes from the stop string on, which are not part of the text."""
        return self._text.hidden

    @property
    def exempt(self) -> Collection[int] | None:
        """The tokens that come next without counting for the grammar of the answer; None: any does.

        Once the grammar has seen the first token of what may be a marker, it sees the rest of it too.
        """
        if self._phase == "answer":
            return NO_TOKENS
        if self._phase == "reasoning":
            return None
        if self._held.strip():
            return None if self._is_held_unseen else NO_TOKENS
        openers = (*self._headers, self._start) if self._phase == "begin" else self._headers
        names = self._names[self._phase]
        return {token for token, name in names.items() if any(each.startswith(name) for each in openers)}

    def push(self, token: int, data: bytes) -> Piece:
        """Add a token and its bytes; return what is certain by now, which is often empty."""
        if self._phase == "answer":
            return Piece(self._text.push(data))
        self._tokens += 1
        if not self._held.strip():
            self._is_held_unseen = token in (self.exempt or ())
        self._held += self._names[self._phase].get(token, data)
        return self._advance()

    def finish(self) -> Piece:
        """End the answer; return what was held back, with U+FFFD for an incomplete character."""
        reasoning = ""
        if self._phase == "reasoning":
            self.reasoning_tokens = self._tokens
            reasoning = self._shown(self._thought.push(self._held) + self._thought.finish())
        elif self._held.strip() or self._phase == "begin":
            return Piece(self._text.push(self._held) + self._text.finish(), reasoning)
        return Piece(self._text.finish(), reasoning)

    def _advance(self) -> Piece:
        text = reasoning = ""
        if self._phase == "begin":
            text = self._begin()
        if self._phase == "reasoning":
            reasoning = self._think()
        if self._phase == "header":
            text += self._head()
        return Piece(text, reasoning)

    def _begin(self) -> str:
        """See whether the answer begins with reasoning; return its text if it does not."""
        held = self._held.lstrip()
        if held.startswith(self._start):
            self._held = held[len(self._start) :]
            self._phase = "reasoning"
        elif held.startswith(self._headers):
            self._phase = "header"
        elif not any(marker.startswith(held) for marker in (self._start, *self._headers)):
            return self._answer(self._held)
        return ""

    def _think(self) -> str:
        """Take what is certain to be reasoning."""
        thought, end, rest = self._held.partition(self._end)
        if end:
            self._phase, self._held, self._is_held_unseen = "header", rest, True
            self.reasoning_tokens = self._tokens
            said = self._shown(self._thought.push(thought) + self._thought.finish())
            self._space = ""
            return said
        kept = _overlap(self._held, self._end)
        thought, self._held = self._held[: len(self._held) - kept], self._held[len(self._held) - kept :]
        self.reasoning_tokens = self._tokens
        return self._shown(self._thought.push(thought))

    def _head(self) -> str:
        """Leave out what stands between the reasoning and the answer; return the beginning of the answer."""
        held = self._held.lstrip()
        for header in self._headers:
            if held.startswith(header):
                return self._answer(held[len(header) :])
        if held and not any(header.startswith(held) for header in self._headers):
            return self._answer(held)
        return ""

    def _answer(self, data: bytes) -> str:
        self._phase, self._held = "answer", b""
        return self._text.push(data)

    def _shown(self, thought: str) -> str:
        """The reasoning without the white space at its beginning and, as far as it is known, at its end."""
        if not self._began:
            thought = thought.lstrip()
            self._began = bool(thought)
        thought = self._space + thought
        shown = thought.rstrip()
        self._space = thought[len(shown) :]
        return shown


def _parts(tokens: Mapping[int, bytes], markers: Sequence[bytes]) -> dict[int, bytes]:
    """The tokens that these markers are made of."""
    return {token: name for token, name in tokens.items() if any(name in marker for marker in markers)}


def _overlap(data: bytes, marker: bytes) -> int:
    """The length of the longest end of the data that the marker begins with."""
    return next((size for size in range(len(marker) - 1, 0, -1) if data.endswith(marker[:size])), 0)
