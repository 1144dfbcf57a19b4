"""One generation: from the tokens of a prompt to pieces of text, step by step.

    for piece in generation.pieces(model, slots):
        ...
    generation.outcome, generation.completion_tokens

It stops between two steps when it is cancelled, whoever cancels it in whatever thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from suite.engine.model import Model
from suite.engine.sampler import Sampler, Sampling
from suite.engine.slots import Slot, Slots
from suite.engine.text import TextStream
from suite.errors import GenerationFailed
from suite.identity import Clock
from suite.messages.events import Outcome


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be generated."""

    prompt: list[int]
    max_tokens: int
    stop: tuple[str, ...]
    sampling: Sampling
    conversation_id: str | None


class Generation:
    """One order on its way. Its figures may be read from any thread while it runs."""

    def __init__(self, order: Order, clock: Clock) -> None:
        self.order = order
        self.outcome: Outcome | None = None
        self.reused_tokens = 0
        """Of the prompt, those that were not decoded again."""
        self.completion_tokens = 0
        """Sampled, without the one that ends the answer."""
        self.started: float | None = None
        self.first_token: float | None = None
        self.ended: float | None = None
        self._clock = clock
        self._cancelled: Outcome | None = None

    def cancel(self, outcome: Outcome) -> None:
        """End it before its next step; the first outcome that is given stands."""
        self._cancelled = self._cancelled or outcome

    def drop(self) -> None:
        """Note that it was cancelled before it ever ran."""
        self.outcome = self._cancelled

    def pieces(
        self, model: Model, slots: Slots, between_steps: Callable[[], None] = lambda: None
    ) -> Iterator[str]:
        """The text as it grows. Raises GenerationFailed; the outcome is set at the end in any case.

        `between_steps` is called before each step; it must leave the model's memory as it is.
        """
        self.started = self._clock()
        try:
            with Sampler(self.order.sampling, model.vocabulary.size) as sampler:
                slot = self._place(model, slots)
                try:
                    yield from self._run(model, slots, slot, sampler, between_steps)
                except GenerationFailed:
                    model.cut(slot.sequence, 0)
                    slots.forget(slot)
                    raise
                finally:
                    slots.end(slot)
        finally:
            self.outcome = self.outcome or "failed"
            self.ended = self._clock()

    def _run(
        self, model: Model, slots: Slots, slot: Slot, sampler: Sampler, between_steps: Callable[[], None]
    ) -> Iterator[str]:
        if not self._decode_prompt(model, slots, slot, between_steps):
            self.outcome = self._cancelled
            return
        sampler.remember(self.order.prompt)
        vocabulary = model.vocabulary
        text = TextStream(self.order.stop)
        while True:
            token = sampler.next(model.context)
            if self.first_token is None:
                self.first_token = self._clock()
            if vocabulary.ends(token):
                self.outcome = "stop"
                break
            self.completion_tokens += 1
            if piece := text.push(vocabulary.shown(token)):
                yield piece
            between_steps()
            self.outcome = self._verdict(model, slot, stopped=text.stopped)
            if self.outcome is None and not _decode([token], model, slots, slot):
                self.outcome = "context_full"
            if self.outcome is not None:
                break
        if piece := text.finish():
            yield piece

    def _verdict(self, model: Model, slot: Slot, *, stopped: bool) -> Outcome | None:
        """Why to end after this token; None to go on."""
        if stopped:
            return "stop"
        if self.completion_tokens >= self.order.max_tokens:
            return "length"
        if len(slot.tokens) >= model.settings.context_tokens:
            return "context_full"
        return self._cancelled

    def _place(self, model: Model, slots: Slots) -> Slot:
        """Choose the slot and make it hold the tokens that it shares with the prompt, nothing more."""
        prompt, conversation_id = self.order.prompt, self.order.conversation_id
        plan = slots.plan(prompt, conversation_id)
        slot, reused = plan.target, plan.reused_tokens
        if plan.source is slot:
            if not model.cut(slot.sequence, reused):
                reused = 0
        else:
            model.cut(slot.sequence, 0)
            model.share(plan.source.sequence, slot.sequence, reused)
        if reused == 0 or model.length(slot.sequence) != reused:
            # The model cannot forget a part: it forgets all, and says so in the figures.
            model.cut(slot.sequence, 0)
            reused = 0
        slots.begin(slot, prompt[:reused], conversation_id)
        self.reused_tokens = reused
        return slot

    def _decode_prompt(
        self, model: Model, slots: Slots, slot: Slot, between_steps: Callable[[], None]
    ) -> bool:
        """Decode what is not there yet; False when it was cancelled on the way."""
        prompt, step = self.order.prompt, model.settings.batch_tokens
        while (done := len(slot.tokens)) < len(prompt):
            between_steps()
            if self._cancelled is not None:
                return False
            if not _decode(prompt[done : done + step], model, slots, slot):
                raise GenerationFailed(
                    f"the cache of {model.settings.context_tokens} tokens has no room for the prompt"
                )
        return self._cancelled is None


def _decode(tokens: list[int], model: Model, slots: Slots, slot: Slot) -> bool:
    """Decode at the slot's end, at the cost of slots not used for long; False if that is not enough."""
    while not model.decode(tokens, slot.sequence, len(slot.tokens)):
        other = slots.least_recently_used(besides=slot)
        if other is None:
            return False
        model.cut(other.sequence, 0)
        slots.forget(other)
    slot.tokens += tokens
    return True
