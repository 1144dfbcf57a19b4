"""A conversation of which each request carries all that was said before, the answers of the server too."""

from __future__ import annotations

import random

from answers import Answer, Server
from prompts import WORDS, scene

ANSWER_TOKENS = 24


class Dialogue:
    """What was said, and how much of it a server can still hold."""

    def __init__(self, seed: str, words: int, *, conversation_id: str | None = None) -> None:
        """It begins with so many words. Without an id a server finds it by what it says."""
        self.turns = 0
        self.reused_tokens = self.reusable_tokens = 0
        """Of the last turn."""
        self._conversation_id = conversation_id
        self._chosen = random.Random(seed)
        self._text = scene(seed, words)
        self._held_tokens = 0

    async def turn(self, server: Server, answer_tokens: int = ANSWER_TOKENS) -> Answer:
        """The next question and its answer."""
        first, second = self._chosen.sample(WORDS, 2)
        self._text += f"\nQuestion: What has the {first} to do with the {second}?\nAnswer:"
        answer = await server(self._text, answer_tokens, self._conversation_id).read()
        self._text += answer.text
        self.turns += 1
        self.reused_tokens, self.reusable_tokens = answer.reused_tokens, self._held_tokens
        # The last token of an answer is sent and not decoded.
        self._held_tokens = answer.prompt_tokens + answer.tokens - 1
        return answer
