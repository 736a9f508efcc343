"""Clock offset: the exchange with the least round trip counts."""

from __future__ import annotations

import math

import pytest

from d3bed.agent.clock import ClockOffset


def test_before_the_first_exchange_the_error_is_infinite() -> None:
    clock = ClockOffset()
    assert not clock.known
    assert math.isinf(clock.error_s)
    assert clock.to_server(5.0) == 5.0


def test_the_shortest_round_trip_gives_the_offset() -> None:
    clock = ClockOffset()
    clock.sample(10.0, 1010.9, 11.0)  # slow on the way there: offset looks like 1000.4
    clock.sample(20.0, 1020.005, 20.01)
    assert clock.offset_s == pytest.approx(1000.0, abs=1e-9)
    assert clock.error_s == pytest.approx(0.005)
    assert clock.to_server(30.0) == pytest.approx(1030.0)


def test_old_exchanges_are_forgotten() -> None:
    clock = ClockOffset(keep=2)
    clock.sample(0.0, 100.0, 0.0)
    clock.sample(1.0, 201.5, 2.0)
    clock.sample(2.0, 202.5, 3.0)
    assert clock.offset_s == pytest.approx(200.0)


def test_a_clock_that_went_backwards_is_ignored() -> None:
    clock = ClockOffset()
    clock.sample(5.0, 5.0, 4.0)
    assert not clock.known


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0, 0.5])
def test_after_a_clock_jumped_the_first_exchange_sets_it_right(jump_s: float) -> None:
    """As when a board slept, or the server's machine was set: older, quicker exchanges must not hold on."""
    clock = ClockOffset()
    for turn in range(8):
        clock.sample(turn, 1000.0 + turn + 0.0005, turn + 0.001)
    assert clock.to_server(9.0) == pytest.approx(1009.0, abs=0.001)
    clock.sample(9.0, 1000.0 + jump_s + 9.0 + 0.01, 9.02)
    assert clock.to_server(10.0) == pytest.approx(1010.0 + jump_s, abs=clock.error_s)
    assert clock.error_s == pytest.approx(0.01)
