"""When a plan is reconsidered, and whether to move."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from d3bed.core.ids import AgentId
from d3bed.core.measurements import LinkRate
from d3bed.plan.adapt import (
    COOL_MOST_S,
    COOL_S,
    KEPT_PART,
    LATELY_S,
    QUIET_S,
    Basis,
    Patience,
    changes,
    explains,
    judge,
    rebased,
    what_matters,
)

PI, EDGE = AgentId("pi-1"), AgentId("edge-1")
BASIS = Basis({PI: 1.0, EDGE: 1.0}, {(PI, EDGE): LinkRate(1e7, 0.002)})


def test_noise_inside_the_bands_changes_nothing() -> None:
    assert changes(BASIS, Basis({PI: 1.2, EDGE: 0.85}, {(PI, EDGE): LinkRate(8.5e6, 0.005)})) == []


def test_what_scatters_more_has_a_wider_band() -> None:
    def found(spread: float) -> list[str]:
        return [c.subject for c in changes(BASIS, Basis({EDGE: 1.4}, {}, {"edge-1": spread}))]

    assert found(0.03) == ["edge-1"] and found(0.15) == []


def test_what_is_not_known_now_has_not_changed() -> None:
    assert changes(BASIS, Basis({}, {})) == []


def test_a_fallen_link_and_a_loaded_agent_are_said_in_words_worst_first() -> None:
    found = changes(BASIS, Basis({EDGE: 2.1}, {(PI, EDGE): LinkRate(1.4e6, 0.002)}, {"edge-1": 0.1}))
    assert [change.text for change in found] == [
        "pi-1→edge-1 fell from 80 to 11.2 Mbit/s",
        "edge-1 became 2.1× slower",
    ]
    assert [(change.quantity, change.spread) for change in found] == [("bytes_per_s", None), ("factor", 0.1)]


def test_the_cause_is_what_matters_to_the_plans_not_what_changed_most() -> None:
    cloud = AgentId("cloud-1")
    basis = Basis({cloud: 2.1}, {(PI, EDGE): LinkRate(1e7, 0.002), (EDGE, cloud): LinkRate(1e6, 0.002)})
    now = Basis({cloud: 0.5}, {(PI, EDGE): LinkRate(5e6, 0.002), (EDGE, cloud): LinkRate(2e6, 0.002)})
    found = changes(basis, now)
    assert [c.subject for c in found] == ["cloud-1", "pi-1→edge-1", "edge-1→cloud-1"]
    assert [c.subject for c in what_matters(found, {"pi-1→edge-1": 0.015, "edge-1": 0.08})] == ["pi-1→edge-1"]
    moved = what_matters(found, {"pi-1→edge-1": 0.015}, {"edge-1→cloud-1": 0.3, "cloud-1": 0.002})
    assert [c.subject for c in moved] == ["edge-1→cloud-1"], "which a plan that moves there is made for"
    assert what_matters(found, {}) == found, "where nothing matters, all of it"
    again = changes(Basis({}, {}), Basis({}, {(PI, EDGE): LinkRate(1e7, 0.002)}))
    assert what_matters(again, {"edge-1": 0.1}, {"pi-1→edge-1": 0.01}) == again


def test_what_neither_plan_uses_explains_no_move_and_is_all_that_is_taken_note_of() -> None:
    before = Basis({PI: 1.0, EDGE: 1.0}, {(PI, EDGE): LinkRate(1e6, 0.002), (EDGE, PI): LinkRate(1e6, 0.002)})
    now = Basis({PI: 1.2, EDGE: 1.0}, {(PI, EDGE): LinkRate(1e6, 0.002), (EDGE, PI): LinkRate(2e6, 0.002)})
    found = changes(before, now)
    assert [change.subject for change in found] == ["edge-1→pi-1"]
    assert not explains(found, {"pi-1": 0.3, "pi-1→edge-1": 0.1}, {"edge-1": 0.1})
    assert explains(found, {"pi-1": 0.3}, {"edge-1→pi-1": 0.1})
    assert explains(found, {"edge-1→pi-1": 0.1}, {"pi-1": 0.3})
    assert not explains([], {"pi-1": 0.3}, {"edge-1→pi-1": 0.1})
    assert rebased(before, now, found) == Basis(before.factors, now.rates)


def test_a_latency_that_matters_is_told() -> None:
    basis = Basis({EDGE: 1.0}, {(PI, EDGE): LinkRate(1e7, 0.002)})
    found = changes(basis, Basis({EDGE: 1.3}, {(PI, EDGE): LinkRate(1e7, 0.202)}))
    assert [c.quantity for c in what_matters(found, {"pi-1→edge-1": 0.015, "edge-1": 0.05})] == ["latency_s"]


def test_fast_links_are_told_without_exponents() -> None:
    basis = Basis({}, {(PI, EDGE): LinkRate(126.25e6, 0.002)})
    (change,) = changes(basis, Basis({}, {(PI, EDGE): LinkRate(1.4e6, 0.002)}))
    assert change.text == "pi-1→edge-1 fell from 1010 to 11.2 Mbit/s"


def test_a_link_that_could_not_be_measured_before_is_a_change() -> None:
    (change,) = changes(Basis({}, {}), Basis({}, {(PI, EDGE): LinkRate(1e7, 0.002)}))
    assert change.text == "pi-1→edge-1 is there again, with 80 Mbit/s" and change.before == 0


def test_recovery_is_a_change_too() -> None:
    basis = Basis({EDGE: 4.0}, {(PI, EDGE): LinkRate(1e6, 0.050)})
    texts = [c.text for c in changes(basis, Basis({EDGE: 1.0}, {(PI, EDGE): LinkRate(1e6, 0.002)}))]
    assert texts == ["the latency of pi-1→edge-1 went from 50 to 2 ms", "edge-1 became 4.0× faster"]


@given(st.floats(1e-4, 10), st.floats(1e-4, 10))
def test_a_move_always_saves_something(kept_s: float, planned_s: float) -> None:
    verdict = judge(kept_s, planned_s)
    assert not verdict.move or planned_s < 0.951 * kept_s
    assert "predicted" in verdict.reason


def test_decisions_are_spaced_out() -> None:
    patience = Patience()
    assert patience.ready(0.0)
    assert patience.kept((), 0.0)
    assert not patience.ready(0.9 * KEPT_PART * COOL_S)
    assert patience.ready(KEPT_PART * COOL_S)
    patience.moved("a", "b", 10.0)
    assert not patience.ready(10.0 + 0.9 * COOL_S)
    assert patience.ready(10.0 + COOL_S)


def test_a_plan_that_is_in_force_for_moments_only_is_left_for_a_larger_gain() -> None:
    assert judge(0.200, 0.180).move
    assert not judge(0.200, 0.180, young=True).move
    assert judge(0.200, 0.160, young=True).move


def test_tiles_are_cut_otherwise_only_for_a_larger_gain() -> None:
    assert judge(0.200, 0.182).move
    assert not judge(0.200, 0.182, alike=True).move
    assert judge(0.200, 0.170, alike=True).move


def test_plans_that_swing_back_wait_longer_each_time_and_calm_down_again() -> None:
    patience, now, waits = Patience(), 0.0, []
    for turn in range(12):
        patience.moved(("a", "b")[turn % 2], ("b", "a")[turn % 2], now)
        began = now
        while not patience.ready(now):
            now += 0.25
        waits.append(now - began)
    assert waits[:6] == [COOL_S * 2**n for n in range(6)]
    assert max(waits) <= COOL_MOST_S
    patience.moved("a", "c", now + 2 * LATELY_S)
    assert patience.ready(now + 2 * LATELY_S + COOL_S)


def test_plans_that_swing_back_are_told_in_words_and_once_that_they_wait() -> None:
    patience = Patience()
    assert not patience.moved("a", "b", 0.0) and not patience.held(0.5), "no plan came back"
    assert patience.moved("b", "a", 3.0) == (
        "the plan left 3 s ago is back; lest plans swing, none moves again for 2 s"
    )
    assert patience.held(3.5) == "the plan stays for 1.5 s more, as plans swing"
    assert not patience.held(4.0), "it was said"
    assert "for 4 s" in patience.moved("a", "b", 6.0)
    assert not patience.held(10.0), "the wait is over"


def test_keeping_the_plan_for_the_same_reasons_is_news_once_a_while() -> None:
    patience = Patience()
    assert patience.kept(("edge-1",), 0.0)
    assert not patience.kept(("edge-1",), 5.0)
    assert patience.kept(("edge-1", "pi-1→edge-1"), 6.0)
    assert not patience.kept(("edge-1",), 7.0)
    assert patience.kept(("edge-1",), 6.0 + QUIET_S)
    assert patience.kept((), 70.0) and patience.kept((), 71.0), "what users asked for is always answered"
