"""Frames that come by themselves: none is early, the oldest are dropped, all are counted."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d3bed.agent.arrivals import WAITING, Arrivals


def test_without_a_rate_there_is_always_a_frame() -> None:
    arrivals = Arrivals(None, 0.0)
    assert [arrivals.take(now) for now in (0.0, 3.5)] == [0.0, 3.5]
    assert arrivals.until_next_s(4.0) == 0.0


def test_frames_come_on_the_beat_and_not_before() -> None:
    arrivals = Arrivals(10.0, 5.0)
    assert arrivals.take(5.02) == 5.0
    assert arrivals.take(5.09) is None
    assert arrivals.until_next_s(5.09) == pytest.approx(0.01)
    assert arrivals.take(5.13) == pytest.approx(5.1)


def test_late_takers_get_the_newest_and_the_rest_is_counted() -> None:
    arrivals = Arrivals(10.0, 0.0)
    assert arrivals.take(0.95) == pytest.approx(0.8)  # 0.0 … 0.9 came, the last two are kept
    assert arrivals.take(0.95) == pytest.approx(0.9)
    assert arrivals.take(0.95) is None
    assert arrivals.dropped == 10 - WAITING


def test_paused_frames_do_not_come_but_those_that_wait_are_taken() -> None:
    arrivals = Arrivals(10.0, 0.0)
    arrivals.take(0.25)
    arrivals.change(0.0, 0.25)
    assert arrivals.take(9.0) == pytest.approx(0.2)
    assert arrivals.take(99.0) is None and math.isinf(arrivals.until_next_s(99.0))
    arrivals.change(2.0, 100.0)
    assert arrivals.take(100.0) == 100.0


@given(st.floats(0.1, 1000), st.lists(st.floats(0, 2), min_size=1, max_size=50))
def test_every_frame_is_taken_once_or_dropped(rate_per_s: float, waits_s: list[float]) -> None:
    arrivals, now, taken = Arrivals(rate_per_s, 0.0), 0.0, []
    for wait_s in waits_s:
        now += wait_s
        if (came_s := arrivals.take(now)) is not None:
            assert came_s <= now
            taken.append(came_s)
    assert taken == sorted(set(taken))
    left = 0
    while arrivals.take(now) is not None:
        left += 1
    assert left <= WAITING
    came = math.floor(now * rate_per_s * (1 + 1e-9) + 1e-9) + 1
    assert abs(len(taken) + left + arrivals.dropped - came) <= 1
