"""Made-up histories of requests: a few models in steady use, others in bursts, many now and then."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from suite.prediction.eviction.policy import Candidate
from suite.prediction.replay.history import GIGABYTE, History, Request, history

SIZE = 6 * GIGABYTE
DEFAULT = Candidate(model_id="", bytes=SIZE, reload_seconds=20.0)


def made_up(count: int, *, seed: int = 0, models: int = 16) -> list[Request]:
    """Requests in the order of time, about two a minute."""
    random = Random(seed)
    steady = [f"m{number:02}" for number in range(3)]
    others = [f"m{number:02}" for number in range(3, models)]
    burst, requests, at = others[0], [], 0.0
    for number in range(count):
        at += random.expovariate(1 / 30)
        if number % 40 == 0:
            burst = random.choice(others)
        model_id = random.choices((random.choice(steady), burst, random.choice(others)), (5, 3, 2))[0]
        requests.append(Request(at=round(at, 1), model_id=model_id, group_id="g", seconds=5.0))
    return requests


def made_up_csv(count: int) -> str:
    """The same as a file."""
    rows = (f"{each.at},{each.model_id},{each.group_id},{each.seconds}" for each in made_up(count))
    return "\n".join(("timestamp_s,model_id,group_id,duration_s", *rows)) + "\n"


def history_of(requests: Sequence[Request], *costs: Candidate) -> History:
    """A history whose models cost the same, but for those that are given."""
    return history(
        list(requests), {each.model_id: each for each in costs}, default=DEFAULT, source="the test"
    )
