from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d3bed.net.probe import RateSearch

MIB = 1 << 20


def search(bytes_per_s: float, rtt_s: float = 0.001, overhead_s: float = 0.0) -> tuple[RateSearch, list[int]]:
    found, sizes = RateSearch(rtt_s, 64 * MIB), list[int]()
    while (nbytes := found.next_bytes()) is not None:
        sizes.append(nbytes)
        found.measured(nbytes, nbytes / bytes_per_s + overhead_s)
    return found, sizes


@given(st.floats(1e4, 1e11))
def test_sizes_grow_until_long_enough_within_the_budget(bytes_per_s: float) -> None:
    found, sizes = search(bytes_per_s)
    assert found.bytes_per_s == pytest.approx(bytes_per_s, rel=0.1 if bytes_per_s > 1e10 else 0.01)
    assert sizes == sorted(set(sizes)) and sizes[0] == 64 * 1024
    assert len(sizes) == 1 or sum(sizes) / bytes_per_s <= 0.5 + 1e-9
    assert sizes[-1] / bytes_per_s >= 0.02 - 1e-9 or sizes[-1] == 64 * MIB


def test_constant_delay_matters_little() -> None:
    found, _ = search(37.5e6, overhead_s=0.0002)
    assert found.bytes_per_s == pytest.approx(37.5e6, rel=0.01)


def test_slow_link_is_asked_once() -> None:
    assert search(1e6 / 8)[1] == [64 * 1024]


def test_long_round_trips_ask_for_longer_payloads() -> None:
    assert search(1e7, rtt_s=0.03)[1][-1] > 2 * search(1e7)[1][-1]


def test_immeasurably_fast_link_has_a_finite_rate() -> None:
    found = RateSearch(0.0, 64 * 1024)
    assert found.next_bytes() == 64 * 1024
    found.measured(64 * 1024, 0.0)
    assert found.next_bytes() is None
    assert found.bytes_per_s == pytest.approx(65.536e9)
