"""Guesses of tokens, in the words of OpenAI's API."""

from __future__ import annotations

from suite.gateway.openai.usage import usage_of
from suite.messages.actions.generation import Usage


def test_right_guesses_are_tokens_of_the_answer_and_wrong_ones_are_not() -> None:
    one = Usage(prompt_tokens=10, reused_tokens=4, completion_tokens=8, drafted_tokens=7, accepted_tokens=5)
    usage = usage_of([one, one])
    assert usage.completion_tokens == 16
    assert usage.completion_tokens_details.accepted_prediction_tokens == 10
    assert usage.completion_tokens_details.rejected_prediction_tokens == 4
