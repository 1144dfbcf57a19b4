"""What members of requests are chosen from, so that most requests get far and come back soon."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any, Final

from support.fuzzing.mutation import mutated_bytes, text
from support.fuzzing.values import Hint
from support.fuzzing.web import HostileWeb
from support.pictures import in_base64, picture, png

MODELS: Final = ("tiny", "brief", "bert", "ranks")
"""Those that each do something else."""
NAMES: Final = (*MODELS, *MODELS, "tiny", "tone", "sailor", "chat", "nobody", "TINY", "tiny:latest", "tiny@1")
"""What stands for a model: `tone` is an adapter of tiny, `sailor` is tiny with it, `chat` may be an alias."""
TRACE: Final = "a" * 32
"""A trace to which some requests say that they belong."""
_EARLY: Final = (*[None] * 6, 0, 1, "2026-01-01T00:00:00Z", "0001-01-01", -1e9, "now")
_LATE: Final = (*[None] * 6, 4e9, "2100-01-01 00:00:00", "9999-12-31T23:59:59Z", 1e300)
_GATES: Final[tuple[Any, ...]] = (
    None,
    {},
    {"evaluations": 0},
    {"canary_requests": 1, "canary_seconds": 0.1},
    {"trust": {"at_least": 0.1}, "evaluations": 1, "confidence": 0.5},
    {"latency": {"at_most_ms": 1e308}, "accuracy": {"not_worse_by": 1}},
)
_QUESTIONS: Final = (
    None,
    "",
    "{",
    '{"prompt": "x", "exact": "y", "max_tokens": 2}\n[]',
    '{"prompt": "x", "pattern": "(a|a)*b", "max_tokens": 2}',
    '{"prompt": "x", "json_schema": {"$ref": "#"}, "max_tokens": 2}',
    '{"prompt": "x", "judge": "y", "max_tokens": 2}',
)
_OPTIONS: Final[Mapping[str, Hint]] = {
    **dict.fromkeys(("model_id", "model", "name", "model_name"), NAMES),
    **dict.fromkeys(
        ("max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict"), (0, 1, 2, 3)
    ),
    **dict.fromkeys(("since", "timestamp", "evaluation_timestamp"), _EARLY),
    "until": _LATE,
    "at": (*[None] * 6, *_EARLY, *_LATE),
    **dict.fromkeys(("metric_name", "agent_name", "cycle_id"), ("a", "b", "c")),
    **dict.fromkeys(("evaluation_id", "metric_id"), (None, *"abcdefgh")),
    "node": (*[None] * 16, *["box1"] * 4, "box2"),
    "of_node": (None, None, "box1", "box2"),
    "options": ({"num_predict": 2}, {"num_predict": 1, "temperature": 0}),
    "n": (1, 1, 2),
    "role": ("system", "user", "user", "assistant", "tool", "developer"),
    "grammar": (None, None, 'root ::= [0-9]+ "."', "root ::= (", "root ::= root"),
    "load_wait_ms": (None, 0, 1, 3000),
    "keep_alive": (*[None] * 29, 60, 60, "forever", "forever", 0, "now"),
    "deadline_ms": (None, None, 1, 500),
    "wait_ms": (0, 1, 500),
    "drain_ms": (0, 1, 500),
    "min_seq": (0, 0, 1, 5),
    "conversation_id": (None, "a", "b", "c"),
    "previous_response_id": (None, "a", "resp_a"),
    "generation_id": (None, "a", "b", "c"),
    "context_length": (*[None] * 6, 512, 512, 1, 100_000),
    "adapters": (*[None] * 9, "tone", ["tone"], [{"id": "tone", "scale": 0.5}], "nobody", ["tone"] * 9),
    "speculation": (None, True, False),
    "alias": (*["chat"] * 4, "old", "old", "tiny", "tiny@1"),
    "target": ("tiny", "brief", "tiny@1", "brief@1", "sailor", "chat", "tiny@99", None),
    "canary_share": (0, 0.5, 0.99),
    "gates": _GATES,
    "id": ("x", TRACE, TRACE, TRACE[:8], "0" * 32, "1"),
    "seq": (*[None] * 6, 1, 2, 9, 2**62),
    "requests": (1, 10, 50),
    "memory_gb": ([], [0.001], [1, 2]),
    "policies": (["lru"], ["best_lately"], ["relaxed_belady", "greedy_dual"], []),
    "cursor": (*[None] * 12, "x", "e30", "WzFd"),
    "resolution_seconds": (None, 0, 60, 1e9),
    "benchmark_id": (None, "a", "b"),
    "judge": (None, "tiny", "nobody"),
    "rounds": (1, 2),
    "streams": ([], [1], [2, 1]),
    "prompt_tokens": (None, 1, 8, 8, 100_000),
    "answer_tokens": (None, 2, 4),
    "set_jsonl": _QUESTIONS,
    "tool_choice": ("auto", "auto", "none", "required"),
    "suffix": (*[None] * 6, "x"),
    "truncate": (*[None] * 6, "left"),
    "continue": (*[False] * 6, True),
    "prompt_logprobs": (*[None] * 6, 0, 5),
    "attachments": (None,),
    "purpose": ("request",),
    "only_evicting": (None,),
    "tokens": ([5, 6, 7], [], [5], [100_000]),
}


class Hints:
    """The hints of a service whose pictures of the web come from here."""

    def __init__(self, web: HostileWeb) -> None:
        self._web = web

    @property
    def by_name(self) -> Mapping[str, Hint]:
        """By the names of members, wherever they are."""
        return {**_OPTIONS, "content": self._content, "images": self._images}

    def _content(self, random: Random) -> Any:
        """What a message says; now and then with pictures, in one of the dialects."""
        if random.random() < 0.8:
            return text(random)
        dialect = random.choice((_native, _openai, _openai_url, _responses, _anthropic))
        parts = [dialect(self._picture(random), random) for _ in range(random.choice((1, 1, 2, 17)))]
        words = "input_text" if dialect is _responses else "text"
        return [*parts, {"type": words, "text": text(random)}]

    def _images(self, random: Random) -> list[str] | None:
        """As Ollama's API has them."""
        return [self._picture(random)] if random.random() < 0.2 else None

    def _picture(self, random: Random) -> str:
        """A picture: where it is, or itself."""
        match random.randrange(4):
            case 0 | 1:
                return self._web.url(random)
            case 2:
                return in_base64(some_picture(random))
        return f"data:image/png;base64,{in_base64(some_picture(random))}"


def some_picture(random: Random) -> bytes:
    """The file of a picture, most of them with a few bytes changed."""
    made = random.choice(_PICTURES)
    return mutated_bytes(made, random) if random.random() < 0.6 else made


_PICTURES: Final = (
    *(picture((255, 0, 0), format=each) for each in ("PNG", "JPEG", "GIF", "WEBP", "BMP")),
    picture((0, 0, 255), (1, 1)),
    picture((0, 0, 255), (300, 1)),
    png(7000, 7000, bytes(1000)),
    png(50_000, 50_000, bytes(1000)),
)
"""Of all formats; too long ones, and such as would unpack into far more than they have."""


def _native(made: str, random: Random) -> dict[str, Any]:
    if random.random() < 0.05:
        return {"type": "image", "attached": random.choice(("a" * 64, "", made))}
    return {"type": "image", "data": made}


def _openai(made: str, random: Random) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": made, "detail": random.choice(("low", None))}}


def _openai_url(made: str, _random: Random) -> dict[str, Any]:
    return {"type": "image_url", "image_url": made}


def _responses(made: str, _random: Random) -> dict[str, Any]:
    return {"type": "input_image", "image_url": made}


def _anthropic(made: str, _random: Random) -> dict[str, Any]:
    if ":" in made:
        return {"type": "image", "source": {"type": "url", "url": made}}
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": made}}
