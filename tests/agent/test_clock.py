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
