"""Turns: everybody once in a period, nobody twice, spread over the ticks."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from d3bed.server.turns import Turns


def test_one_thing_has_its_turn_once_in_a_period() -> None:
    turns = Turns(["a"], 0.5)
    assert [turns.take(now) for now in (0.0, 0.2, 0.4, 0.5, 0.6, 1.0)] == [["a"], [], [], ["a"], [], ["a"]]


def test_many_are_spread_over_the_ticks() -> None:
    turns = Turns(range(10), 1.0)
    assert turns.take(0.0) == list(range(10)), "nobody waits at first"
    assert [turns.take(tick / 5) for tick in range(1, 6)] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]


def test_where_there_is_nothing_nobody_has_a_turn() -> None:
    turns = Turns[str]((), 0.0)  # a server without pipelines
    assert [turns.take(now) for now in (0.0, 1.0)] == [[], []]


def test_after_a_long_pause_none_has_two() -> None:
    turns = Turns("abc", 1.0)
    turns.take(0.0)
    assert sorted(turns.take(100.0)) == ["a", "b", "c"]
    assert turns.take(100.1) == []


def test_of_none_it_is_nobodys_turn() -> None:
    assert Turns([], 1.0).take(5.0) == Turns([], 1.0).take(0.0) == []


@given(st.integers(1, 40), st.lists(st.floats(0.01, 0.3), min_size=60, max_size=60))
def test_all_have_as_many_turns_but_for_one(count: int, passed_s: list[float]) -> None:
    turns, now, had = Turns(range(count), 1.0), 0.0, Counter(range(count))
    turns.take(now)
    for each_s in passed_s:
        now += each_s
        taken = turns.take(now)
        assert len(set(taken)) == len(taken)
        had.update(taken)
    assert max(had.values()) - min(had.values()) <= 1
    assert abs(sum(had.values()) / count - 1 - now) < 1 + 1e-3
