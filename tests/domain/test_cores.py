"""Who of the busy models gets how many threads."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from suite.domain.cores import Claim, share

CORES = st.integers(1, 64)
CLAIM = st.builds(Claim, limit=st.integers(1, 64), reading=st.booleans(), priority=st.integers(-100, 100))
CLAIMS = st.dictionaries(st.integers(0, 999), CLAIM, min_size=1, max_size=12)

GENERATING, READING = Claim(64, False, 0), Claim(64, True, 0)


@given(CORES, CLAIMS)
def test_all_together_never_have_more_threads_than_cores_and_nobody_has_none(
    cores: int, claims: dict[int, Claim]
) -> None:
    threads = share(cores, claims)
    assert threads.keys() == claims.keys()
    assert all(1 <= threads[key] <= claim.limit for key, claim in claims.items())
    if len(claims) > 1:
        assert sum(threads.values()) <= max(cores, len(claims))


@given(CORES, CLAIMS)
def test_no_core_is_left_over_while_somebody_may_use_it(cores: int, claims: dict[int, Claim]) -> None:
    threads = share(cores, claims)
    wanting = [key for key, claim in claims.items() if threads[key] < claim.limit]
    assert not wanting or sum(threads.values()) >= cores


@given(CORES, CLAIMS, st.randoms())
def test_every_process_comes_to_the_same_result_in_whatever_order_it_reads(
    cores: int, claims: dict[int, Claim], random: Random
) -> None:
    shuffled = list(claims.items())
    random.shuffle(shuffled)
    assert share(cores, dict(shuffled)) == share(cores, claims)


@given(CORES, CLAIMS, st.data())
def test_who_asks_for_more_gets_no_less(cores: int, claims: dict[int, Claim], data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(claims)))
    more = claims[key]._replace(reading=True, priority=claims[key].priority + 1)
    assert share(cores, {**claims, key: more})[key] >= share(cores, claims)[key]


@given(CLAIM, CORES)
def test_one_that_is_alone_gets_all_that_it_may_use(claim: Claim, cores: int) -> None:
    assert share(cores, {7: claim}) == {7: claim.limit}


def test_prompts_get_more_than_answers_and_priority_counts() -> None:
    assert share(2, {0: GENERATING, 1: READING}) == {0: 1, 1: 1}
    assert share(9, {0: GENERATING, 1: READING}) == {0: 3, 1: 6}
    assert share(9, {0: GENERATING, 1: GENERATING._replace(priority=1)}) == {0: 3, 1: 6}
    assert share(8, {0: GENERATING, 1: GENERATING}) == {0: 4, 1: 4}
    assert share(8, {0: GENERATING, 1: GENERATING._replace(limit=2)}) == {0: 6, 1: 2}


def test_with_one_core_each_has_one_thread() -> None:
    assert share(1, {0: GENERATING._replace(limit=1)}) == {0: 1}
    assert share(1, {0: GENERATING, 1: READING, 2: GENERATING}) == {0: 1, 1: 1, 2: 1}
