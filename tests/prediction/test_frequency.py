"""The old rule: the most used of the last hour, and of as many uses the first by id."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import anyio
import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from suite.messages.actions.prediction import PredictModelsReply
from suite.messages.events import UsageRecorded
from suite.prediction.frequency import MostUsedLastHour
from suite.prediction.policy import Policy
from suite.projections.usage import UsageHistory, UsageProjection
from support.folding import T0, fold, read_model, recorded

POLICY: Policy = MostUsedLastHour()
PROJECTION = UsageProjection()
HOUR = 3600


async def predicted(uses: list[tuple[str, int]], limit: int) -> list[str]:
    """What follows at T0 from the use of models so many seconds before."""
    log = [
        recorded(UsageRecorded(model_id=model_id, usage_type="t"), seq, at=T0 - timedelta(seconds=ago))
        for seq, (model_id, ago) in enumerate(uses, start=1)
    ]
    async with read_model(PROJECTION) as db:
        await fold(db, PROJECTION, log)
        return await POLICY.predict(UsageHistory(db), now=T0, limit=limit)


async def test_the_most_used_come_first_and_of_as_many_uses_the_first_by_id() -> None:
    uses = [("b", 60), ("c", 50), ("a", 40), ("c", 30), ("d", 20)]
    assert await predicted(uses, limit=3) == ["c", "a", "b"]
    assert await predicted(uses, limit=100) == ["c", "a", "b", "d"]


async def test_what_was_used_more_than_an_hour_ago_does_not_count() -> None:
    assert await predicted([("old", HOUR + 1), ("old", HOUR + 1), ("new", HOUR)], limit=3) == ["new"]


async def test_nothing_is_predicted_from_nothing() -> None:
    assert await predicted([], limit=3) == []


async def test_replies_call_the_policy_by_name_and_are_as_they_were_for_who_asks_no_detail() -> None:
    assert POLICY.name == "most_used_last_hour"
    reply = PredictModelsReply(predicted_models=("a", "b"), policy=POLICY.name)
    told = msgspec.json.decode(msgspec.json.encode(reply))
    of_the_fleet = {"node": "", "missing_nodes": []}
    assert told == of_the_fleet | {
        "status": "success",
        "warnings": [],
        "predicted_models": ["a", "b"],
        "policy": "most_used_last_hour",
    }


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "B", "ü", "'; --", "🦙"]), st.integers(0, 2 * HOUR)), max_size=20
    ),
    st.integers(1, 4),
)
@example([("ü", HOUR), ("a", HOUR), ("ü", HOUR + 1)], 1)
def test_it_is_the_count_of_the_last_hour(uses: list[tuple[str, int]], limit: int) -> None:
    counts = Counter(model_id for model_id, ago in uses if ago <= HOUR)
    expected = sorted(counts, key=lambda model_id: (-counts[model_id], model_id))[:limit]
    assert anyio.run(predicted, uses, limit) == expected
