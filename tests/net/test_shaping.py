from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d3bed.core.measurements import LinkShape
from d3bed.net.shaping import Pacing, Slot, sustained_bytes_per_s

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


@pytest.mark.parametrize(
    "shape", [LinkShape(0), LinkShape(-1), LinkShape(1, -1), LinkShape(float("nan")), LinkShape(1, 0, 1)]
)
def test_impossible_link_is_refused(shape: LinkShape) -> None:
    with pytest.raises(ValueError, match="rate"):
        Pacing(shape)


# ── loss ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_lossy_link_sustains_what_mathis_formula_allows() -> None:
    assert sustained_bytes_per_s(LinkShape(1e9, 0.01, 0.01)) == pytest.approx(1448 / 0.02 * 1.5**0.5 / 0.1)
    slow = Pacing(LinkShape(1e9, 0.01, 0.01)).shape
    assert slow.bytes_per_s * 8e-6 == pytest.approx(7.09, abs=0.01)
    assert Pacing(LinkShape(1e5, 0.01, 0.01)).shape.bytes_per_s == 1e5
    assert Pacing(LinkShape(1e5, 0.0, 0.01)).shape.bytes_per_s == 1e5


def test_equal_seeds_lose_alike_and_others_do_not() -> None:
    def ends(seed: str) -> list[float]:
        pacing = Pacing(LinkShape(1e7, 0.0, 0.05), seed)
        return [slot.end_s - slot.start_s for slot in (pacing.reserve(0.0, 10_000) for _ in range(200))]

    assert ends("a→b") == ends("a→b") != ends("b→a")


def test_a_loss_at_the_end_of_a_payload_waits_for_the_timer_as_often_as_its_share_says() -> None:
    pacing = Pacing(LinkShape(1e9, 0.01, 0.02), "a→b")
    late_s = []
    for _ in range(20_000):
        slot = pacing.reserve(0.0, 10_000)
        late_s.append(slot.end_s - slot.start_s - 10_000 / slot.shape.bytes_per_s)
    stalled = sorted(s for s in late_s if s > 1e-6)
    assert len(stalled) / len(late_s) == pytest.approx(1 - 0.98**3, rel=0.1)
    assert stalled[0] == pytest.approx(0.22, abs=1e-6)  # a round trip and the least timeout
    again = [s for s in stalled if s > 0.23]
    assert again[0] == pytest.approx(0.22 + 0.44, abs=1e-6)
    assert len(again) / len(stalled) == pytest.approx(0.02, rel=0.6)


def test_only_the_last_segments_of_a_payload_are_late_and_the_target_says_so() -> None:
    slot = Slot(LinkShape(1e6, 0.05), 1.0, 100_000, 1448, stalled_s=0.3)
    released = drive(slot)
    before = max(total for at_s, total in released if at_s < 1.16)
    assert 100_000 - 4 * 1448 <= before <= 100_000 - 3 * 1448
    at_s, total = released[-1]
    assert at_s == pytest.approx(1.0 + 0.1 + 0.3 + 0.05)
    assert total == 100_000
    assert slot.target_bytes_per_s == pytest.approx(100_000 / 0.4)


def test_small_messages_without_payload_are_never_lost() -> None:
    pacing = Pacing(LinkShape(1e6, 0.0, 0.49))
    assert all(pacing.reserve(1.0, 0).end_s == 1.0 for _ in range(100))
