from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d3bed.core.measurements import LinkShape
from d3bed.net.shaping import Pacing, Slot

RATES = st.floats(1e4, 1e9)
SIZES = st.integers(0, 5_000_000)


def drive(slot: Slot, late_s: float = 0.0) -> list[tuple[float, int]]:
    """When bytes are released by a timer that always fires `late_s` late: (time, total so far)."""
    released, seen = -1, []
    while True:
        now_s = slot.release_s(released) + late_s
        due = slot.due_bytes(now_s)
        if due > released:
            seen.append((now_s, due))
            released = due
        elif due == released:  # rounding: the timer fired a hair early
            released = slot.due_bytes(now_s + 1e-6)
            seen.append((now_s + 1e-6, released))
        if now_s >= slot.end_s and seen[-1][1] == slot.due_bytes(1e12):
            return seen


@given(rate=RATES, nbytes=SIZES, latency_s=st.floats(0, 1))
def test_last_byte_leaves_on_time(rate: float, nbytes: int, latency_s: float) -> None:
    slot = Pacing(LinkShape(rate, latency_s)).reserve(10.0, min(nbytes, int(rate * 3)))
    at_s, total = drive(slot)[-1]
    assert total == min(nbytes, int(rate * 3))
    assert at_s == pytest.approx(10.0 + total / rate + latency_s, abs=3e-6)


def test_lateness_does_not_add_up() -> None:
    slot = Pacing(LinkShape(1e7)).reserve(0.0, 1_000_000)
    assert drive(slot, late_s=0.0008)[-1][0] == pytest.approx(0.1 + 0.0008)


@given(rate=RATES, now_s=st.floats(0, 1))
def test_never_more_than_the_link_could_carry(rate: float, now_s: float) -> None:
    slot = Pacing(LinkShape(rate)).reserve(0.0, int(rate * 0.9))
    assert slot.due_bytes(now_s) <= rate * now_s + 1


def test_header_waits_for_the_latency_only() -> None:
    slot = Pacing(LinkShape(1e6, 0.05)).reserve(1.0, 1000)
    assert slot.due_bytes(1.049) == -1
    assert slot.due_bytes(1.0501) == 0
    assert slot.release_s(-1) == pytest.approx(1.05)


def test_payloads_follow_each_other_without_gap_or_overlap() -> None:
    pacing = Pacing(LinkShape(1e6, 0.5))
    first, second = pacing.reserve(0.0, 100_000), pacing.reserve(0.01, 100_000)
    assert second.start_s == first.end_s == pytest.approx(0.1)
    assert pacing.reserve(5.0, 1).start_s == 5.0


@pytest.mark.parametrize(("rate", "chunk"), [(1e4, 1448), (10e6, 10_000), (37.5e6, 37_500), (1e9, 65_536)])
def test_chunks_are_about_a_millisecond(rate: float, chunk: int) -> None:
    assert Pacing(LinkShape(rate)).chunk_bytes == chunk


def test_stalled_link_does_not_catch_up_in_a_burst() -> None:
    pacing = Pacing(LinkShape(1e6))
    slot = pacing.reserve(0.0, 100_000)
    before = slot.due_bytes(0.05)
    pacing.slip([slot], 1.0)
    assert slot.due_bytes(1.05) == pytest.approx(before, abs=pacing.chunk_bytes)
    assert pacing.reserve(0.1, 1).start_s == pytest.approx(1.1)


@pytest.mark.parametrize("shape", [LinkShape(0), LinkShape(-1), LinkShape(1, -1), LinkShape(float("nan"))])
def test_impossible_link_is_refused(shape: LinkShape) -> None:
    with pytest.raises(ValueError, match="rate"):
        Pacing(shape)
