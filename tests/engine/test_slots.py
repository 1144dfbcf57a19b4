from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from suite.engine.slots import Plan, Slots


def use(slots: Slots, prompt: list[int], conversation_id: str | None, answer: list[int]) -> Plan:
    """What a generation does to the slots."""
    plan = slots.plan(prompt, conversation_id)
    slots.assign(plan.target, prompt[: plan.reused_tokens], conversation_id)
    plan.target.tokens += prompt[plan.reused_tokens :] + answer
    plan.target.generating = False
    return plan


def test_the_next_turn_of_a_conversation_reuses_the_turns_before() -> None:
    slots = Slots(2)
    use(slots, [1, 2, 3], "a", [4, 5])
    plan = slots.plan([1, 2, 3, 4, 5, 6], "a")
    assert plan.reused_tokens == 5
    assert plan.source is plan.target


def test_conversations_that_alternate_keep_a_slot_each() -> None:
    slots = Slots(2)
    a, b = [1, 2, 3], [1, 2, 7]
    for turn in range(5):
        first = use(slots, a, "a", [10 + turn])
        second = use(slots, b, "b", [20 + turn])
        assert first.target is not second.target
        if turn:
            assert first.reused_tokens == len(a) - 1
            assert second.reused_tokens == len(b) - 1
        a = [*a, 10 + turn, 30]
        b = [*b, 20 + turn, 31]


def test_a_new_conversation_shares_the_beginning_of_another_and_leaves_it_whole() -> None:
    slots = Slots(2)
    first = use(slots, [1, 2, 3, 4], "a", [5])
    plan = slots.plan([1, 2, 3, 9], "b")
    assert plan.target is not first.target
    assert plan.source is first.target
    assert plan.reused_tokens == 3


def test_a_memory_that_cannot_share_reuses_only_what_is_in_the_slot_itself() -> None:
    slots = Slots(2, can_share=False)
    use(slots, [1, 2, 3, 4], "a", [5])
    plan = slots.plan([1, 2, 3, 9], "b")
    assert plan.source is plan.target
    assert plan.reused_tokens == 0
    assert slots.plan([1, 2, 3, 4, 5, 6], "a").reused_tokens == 5


def test_without_a_conversation_the_slot_that_the_prompt_repeats_is_taken() -> None:
    slots = Slots(3)
    use(slots, [1, 2, 3], None, [4])
    second = use(slots, [7, 8], None, [9])
    assert second.reused_tokens == 0
    third = use(slots, [1, 2, 3, 4, 5], None, [6])
    assert third.reused_tokens == 4
    assert third.target is not second.target


def test_without_a_conversation_nobodys_slot_is_taken() -> None:
    slots = Slots(2)
    first = use(slots, [1, 2, 3], "a", [4])
    second = use(slots, [1, 2, 3, 4, 5], None, [6])
    assert (second.reused_tokens, second.source is first.target) == (4, True)
    assert [slot.conversation_id for slot in slots] == ["a", None]


def test_the_conversation_not_used_for_longest_gives_way() -> None:
    slots = Slots(2)
    first = use(slots, [1, 2], "a", [])
    use(slots, [3, 4], "b", [])
    third = use(slots, [5, 6], "c", [])
    assert third.target is first.target
    assert [slot.conversation_id for slot in slots] == ["c", "b"]


def test_the_same_prompt_again_leaves_one_token_to_decode() -> None:
    slots = Slots(1)
    use(slots, [1, 2, 3], "a", [])
    assert slots.plan([1, 2, 3], "a").reused_tokens == 2


def test_room_is_made_from_the_other_slot_not_used_for_longest() -> None:
    slots = Slots(3)
    first = use(slots, [1, 2], "a", []).target
    second = use(slots, [3, 4], "b", []).target
    slots.assign(second, second.tokens, "b")  # what generates is in nobody's way
    assert slots.least_recently_used() is first
    slots.mark_empty(first)
    assert slots.least_recently_used() is None


def test_a_conversation_is_marked_for_clearing_by_its_id_or_with_all_others() -> None:
    slots = Slots(4)
    a = use(slots, [1, 2], "a", []).target
    b = use(slots, [3, 4], "b", []).target
    nobodys = use(slots, [5, 6], None, []).target
    assert slots.mark_for_clearing("c") == []
    assert slots.mark_for_clearing("a") == [a]
    assert [slot.marked_for_clearing for slot in slots] == [slot is a for slot in slots]
    assert slots.mark_for_clearing("a") == []
    assert slots.mark_for_clearing(None) == [b, nobodys]
    slots.mark_empty(a)
    assert not a.marked_for_clearing
    assert slots.mark_for_clearing(None) == []


def test_a_slot_at_work_is_marked_even_before_it_has_tokens() -> None:
    slots = Slots(2)
    slot = slots.plan([1, 2], "a").target
    slots.assign(slot, [], "a")
    assert slots.mark_for_clearing(None) == [slot]
    slot.generating = False
    slots.mark_empty(slot)
    assert slots.mark_for_clearing(None) == []


def test_room_is_made_from_a_marked_slot_first() -> None:
    slots = Slots(3)
    use(slots, [1, 2], "a", [])
    second = use(slots, [3, 4], "b", []).target
    third = use(slots, [5, 6], "c", []).target
    slots.mark_for_clearing("b")
    slots.assign(third, third.tokens, "c")
    assert slots.least_recently_used() is second


def test_a_slot_at_work_is_given_to_nobody_but_shares_its_beginning() -> None:
    slots = Slots(2)
    first = slots.plan([1, 2, 3], "a").target
    slots.assign(first, [1, 2, 3], "a")
    second = slots.plan([1, 2, 3, 4], "a")
    assert (second.target is first, second.source is first, second.reused_tokens) == (False, True, 3)
    slots.assign(second.target, [1, 2, 3], "a")
    assert [slot.conversation_id for slot in slots] == [None, "a"]


TURN = st.tuples(st.sampled_from(["a", "b", "c", None]), st.lists(st.integers(0, 2), min_size=1, max_size=6))


@given(st.integers(1, 4), st.booleans(), st.lists(TURN, max_size=20))
def test_what_is_reused_is_always_the_beginning_of_the_prompt_and_in_its_source(
    count: int, can_share: bool, turns: list[tuple[str | None, list[int]]]
) -> None:
    slots = Slots(count, can_share=can_share)
    for conversation_id, prompt in turns:
        plan = slots.plan(prompt, conversation_id)
        assert plan.reused_tokens < len(prompt)
        assert plan.source.tokens[: plan.reused_tokens] == prompt[: plan.reused_tokens]
        assert can_share or plan.source is plan.target
        use(slots, prompt, conversation_id, [1])
        owners = [slot.conversation_id for slot in slots if slot.conversation_id is not None]
        assert len(owners) == len(set(owners))
