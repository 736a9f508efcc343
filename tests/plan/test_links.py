from __future__ import annotations

from collections.abc import Iterable

import pytest

from d3bed.core.measurements import LinkRate
from d3bed.plan.estimate import IDLE_S, LATELY_S, LOOK_AFTER_S, LOOK_SOON_S
from d3bed.plan.links import (
    FAST_BYTES_PER_S,
    FORGET_LINK_S,
    LARGE_BYTES,
    LEAST_TRANSFERS,
    PROBE_AFTER_S,
    LinkEstimator,
    Tendency,
)
from d3bed.plan.window import WINDOW

PROBED = LinkRate(1e7, 0.004)


def transfers(
    link: LinkEstimator, rates: Iterable[float], *, nbytes: int = 400_000, now: float = 10.0
) -> float:
    for bytes_per_s in rates:
        now += 0.2
        link.transferred(nbytes, nbytes / bytes_per_s, now)
    return now


def test_an_unknown_link_has_no_estimate() -> None:
    assert LinkEstimator().estimate(5.0) is None


def test_a_probe_stands_until_enough_transfers_tell_more() -> None:
    link = LinkEstimator()
    link.probed(PROBED, 10.0)
    now = transfers(link, [2e6] * (LEAST_TRANSFERS - 1))
    before = link.estimate(now)
    assert before is not None and before.rate == PROBED
    assert before.source == "probe" and before.spread is None and before.age_s == pytest.approx(0.8)
    now = transfers(link, [2e6], now=now)
    after = link.estimate(now + 1)
    assert after is not None and after.bytes_per_s == pytest.approx(2e6)
    assert after.latency_s == PROBED.latency_s, "a transfer's time excludes latency"
    assert after.source == "transfers" and after.spread == pytest.approx(0.0)
    assert after.age_s == pytest.approx(1.0)


@pytest.mark.parametrize("before", [5, 7, 30])
def test_a_fallen_link_is_seen_within_a_few_transfers(before: int) -> None:
    link = LinkEstimator()
    link.probed(PROBED, 0.0)
    now = transfers(link, [1e7] * before)
    now = transfers(link, [1.4e6] * 4, now=now)
    seen = link.estimate(now)
    assert seen is not None and seen.bytes_per_s == pytest.approx(1.4e6)


def test_a_fallen_link_is_seen_with_the_third_transfer_also_where_none_told_before() -> None:
    link = LinkEstimator()
    link.probed(LinkRate(1e9, 0.001), 0.0)
    now = transfers(link, [1e9] * 6)
    now = transfers(link, [1e6] * 2, now=now)
    before = link.estimate(now)
    assert before is not None and before.source == "probe"
    assert link.transferred(400_000, 0.4, now)
    after = link.estimate(now)
    assert after is not None and after.bytes_per_s == pytest.approx(1e6) and after.source == "transfers"


def test_one_slow_transfer_moves_nothing() -> None:
    link = LinkEstimator()
    now = transfers(link, [1e7, 1.01e7, 0.99e7, 1e7, 1e7, 1e5])
    seen = link.estimate(now)
    assert seen is not None and seen.bytes_per_s == pytest.approx(1e7, rel=0.01)


@pytest.mark.parametrize(("nbytes", "rate"), [(4000, 1e5), (LARGE_BYTES - 1, 1e8), (400_000, 1e9)])
def test_tiny_or_short_transfers_do_not_replace_a_probe(nbytes: int, rate: float) -> None:
    link = LinkEstimator()
    link.probed(PROBED, 10.0)
    now = transfers(link, [rate] * 20, nbytes=nbytes)
    seen = link.estimate(now)
    assert seen is not None and seen.rate == PROBED


def test_hiccups_of_a_fast_link_do_not_add_up_to_a_slow_one() -> None:
    """Each alone took long enough to tell, but most transfers did not."""
    link = LinkEstimator()
    link.probed(LinkRate(1e9, 0.0001), 10.0)
    now = transfers(link, [1e9, 1e9, 2e7] * 20)
    seen = link.estimate(now)
    assert seen is not None and seen.bytes_per_s == 1e9


def test_small_transfers_show_a_fallen_link_where_no_large_ones_cross_it() -> None:
    link = LinkEstimator()
    link.probed(PROBED, 10.0)
    now = transfers(link, [1e6] * 5, nbytes=36_000)
    small = link.estimate(now)
    assert small is not None and small.bytes_per_s == pytest.approx(1e6)
    now = transfers(link, [5e6] * 5, now=now)
    for _ in range(WINDOW):
        now = transfers(link, [1e6], nbytes=36_000, now=now)
        now = transfers(link, [5e6], now=now)
    large = link.estimate(now)
    assert large is not None and large.bytes_per_s == pytest.approx(5e6), "large ones tell more"
    now = transfers(link, [1e5] * WINDOW, nbytes=36_000, now=now)
    fallen = link.estimate(now)
    assert fallen is not None and fallen.bytes_per_s == pytest.approx(1e5), "large ones cross no more"


def test_transfers_tell_the_rate_of_a_link_that_was_never_probed() -> None:
    link = LinkEstimator()
    now = transfers(link, [5e6] * 4)
    assert link.estimate(now) is None
    now = transfers(link, [5e6], now=now)
    seen = link.estimate(now)
    assert seen is not None and seen.bytes_per_s == pytest.approx(5e6) and seen.latency_s == 0


def test_a_new_probe_makes_older_transfers_count_no_more() -> None:
    link = LinkEstimator()
    now = transfers(link, [1e6] * 9)
    link.probed(PROBED, now + 1)
    seen = link.estimate(now + 1)
    assert seen is not None and seen.rate == PROBED


@pytest.mark.parametrize("rate", [PROBED, LinkRate(1e5, 0.004), LinkRate(1e6, 0.040)])
def test_a_quick_look_that_tells_something_new_is_believed_once_another_one_agrees(rate: LinkRate) -> None:
    link = LinkEstimator()
    link.probed(LinkRate(1e6, 0.004), 0.0)
    now = transfers(link, [1e6] * 9)
    link.probed(rate, now + 3, quick=True)
    seen = link.estimate(now + 3)
    assert seen is not None and seen.rate == LinkRate(1e6, 0.004)
    assert link.is_doubtful and link.look_due(now + 3), "the other one is wanted at once"
    link.probed(rate, now + 3.1, quick=True)
    seen = link.estimate(now + 3.1)
    assert seen is not None and seen.rate == rate
    assert not link.is_doubtful and not link.look_due(now + 3.2)


def test_a_quick_look_that_was_a_mistake_is_forgotten() -> None:
    link = LinkEstimator()
    link.probed(PROBED, 0.0)
    for at_s, mistake in ((3.0, 3.0), (6.0, 0.1)):
        link.probed(LinkRate(PROBED.bytes_per_s * mistake, PROBED.latency_s), at_s, quick=True)
        link.probed(PROBED, at_s + 0.1, quick=True)
        seen = link.estimate(at_s + 0.1)
        assert seen is not None and seen.rate == PROBED and not link.is_doubtful


@pytest.mark.parametrize("rate", [LinkRate(5e5, 0.004), LinkRate(8e7, 0.004)])
def test_a_look_that_tells_what_a_neighbouring_link_has_just_shown_is_believed_at_once(
    rate: LinkRate,
) -> None:
    way = 1 if rate.bytes_per_s > PROBED.bytes_per_s else -1
    link, other = LinkEstimator(), LinkEstimator()
    for each, others in ((link, way), (other, -way)):
        each.probed(PROBED, 100.0)
        each.probed(rate, 102.0, quick=True, others=1 if others > 0 else -1)
    found, doubted = link.estimate(102.0), other.estimate(102.0)
    assert found is not None and found.rate == rate and link.has_changed(102.0) and link.tendency == way
    assert doubted is not None and doubted.rate == PROBED and other.is_doubtful


@pytest.mark.parametrize(
    ("leaning", "times", "believed"), [(-1, 0.2, True), (-1, 0.8, False), (1, 0.2, False)]
)
def test_a_look_far_off_is_believed_at_once_where_transfers_lean_that_way(
    leaning: Tendency, times: float, believed: bool
) -> None:
    link, told = LinkEstimator(), LinkRate(times * PROBED.bytes_per_s, PROBED.latency_s)
    link.probed(PROBED, 100.0)
    link.probed(told, 102.0, quick=True, leaning=leaning)
    seen = link.estimate(102.0)
    assert seen is not None and (seen.rate == told) is believed and link.is_doubtful is not believed


def test_a_transfer_far_off_is_the_first_of_a_change_once_others_have_changed_that_way() -> None:
    link = LinkEstimator()
    link.probed(PROBED, 100.0)
    now = transfers(link, [1e7] * 8, now=100.0)
    assert not link.leaning and not link.confirm(-1, now)
    now = transfers(link, [2e6], now=now)
    assert link.leaning < 0 and not link.confirm(1, now)
    seen = link.estimate(now)
    assert seen is not None and seen.bytes_per_s == pytest.approx(1e7)
    assert link.confirm(-1, now) and link.has_changed(now) and link.has_followed(-1, now + 1, 2.0)
    seen = link.estimate(now)
    assert seen is not None and seen.bytes_per_s == pytest.approx(2e6) and seen.source == "transfers"
    assert not link.leaning


def test_which_way_transfers_jumped_is_known() -> None:
    link = LinkEstimator()
    link.probed(PROBED, 100.0)
    for number in range(20):
        rate = 1e7 if number < 7 else 2e6 if number < 13 else 8e6
        link.transferred(200_000, 200_000 / rate, 101.0 + number)
        assert link.tendency == (0 if number < 9 else -1 if number < 15 else 1), number


def test_a_slow_link_is_looked_at_more_seldom() -> None:
    fast, slow = LinkEstimator(), LinkEstimator()
    fast.probed(PROBED, 0.0)
    slow.probed(LinkRate(1e4, 0.001), 0.0)
    assert not fast.look_due(LOOK_AFTER_S / 2) and fast.look_due(LOOK_AFTER_S)
    assert not slow.look_due(10 * LOOK_AFTER_S), "each look takes two seconds"
    assert slow.look_due(100.0)


def test_a_link_that_changed_lately_is_looked_at_sooner() -> None:
    link = LinkEstimator()
    link.probed(PROBED, 100.0)
    assert not link.look_due(100.0 + LOOK_SOON_S)
    slow = LinkRate(PROBED.bytes_per_s / 2, PROBED.latency_s)
    link.probed(slow, 102.0, quick=True)
    assert link.is_suspicious, "one look is doubted"
    link.probed(slow, 102.1, quick=True)
    assert not link.is_suspicious and link.estimate(102.1).rate == slow
    assert not link.look_due(102.1 + 0.9 * LOOK_SOON_S) and link.look_due(102.2 + LOOK_SOON_S)
    link.probed(slow, 102.0 + LATELY_S + 1, quick=True)
    assert not link.look_due(103.0 + LATELY_S + LOOK_SOON_S)


def test_a_link_too_fast_to_matter_is_looked_at_no_sooner() -> None:
    link = LinkEstimator()
    link.probed(LinkRate(FAST_BYTES_PER_S * 8, 1e-4), 100.0)
    for at_s in (102.0, 102.1):
        link.probed(LinkRate(FAST_BYTES_PER_S * 2, 1e-4), at_s, quick=True)
    assert not link.look_due(102.2 + LOOK_SOON_S) and link.look_due(102.2 + LOOK_AFTER_S)


def test_a_slow_transfer_is_suspicious_where_it_took_long_enough_to_say_something() -> None:
    link = LinkEstimator()
    for number in range(8):
        link.transferred(150_000, 0.015, 100.0 + number)
    assert not link.is_suspicious
    link.transferred(150_000, 0.300, 108.0)
    assert link.is_suspicious
    fast = LinkEstimator()
    for taken_s in (0.001, 0.001, 0.001, 0.004):
        fast.transferred(150_000, taken_s, 100.0)
    assert not fast.is_suspicious


def test_a_link_that_is_faster_than_its_transfers_can_tell_is_looked_at_though_it_is_in_use() -> None:
    slow, fast = LinkRate(5e5, 0.002), LinkRate(1e7, 0.002)
    link, now = LinkEstimator(), 100.0
    link.probed(slow, now)
    for _ in range(6):
        now += 0.25
        link.transferred(36_000, 0.072, now)
    assert not link.is_suspicious and not link.look_due(now)
    now += 0.25
    link.transferred(36_000, 0.0036, now)
    assert link.is_refuted and link.is_suspicious and link.look_due(now)
    link.probed(fast, now, quick=True)
    assert link.look_due(now), "one look is doubted"
    link.probed(fast, now, quick=True)
    known = link.estimate(now)
    assert known is not None and known.rate == fast
    link.transferred(36_000, 0.0036, now + 0.25)
    assert not link.is_refuted and not link.look_due(now + 0.25)


def test_a_transfer_after_a_long_pause_does_not_make_old_ones_look_recent() -> None:
    link = LinkEstimator()
    link.probed(PROBED, 0.0)
    now = transfers(link, [1e6] * WINDOW)
    now = transfers(link, [1e6], now=now + FORGET_LINK_S)
    seen = link.estimate(now)
    assert seen is not None and seen.rate == PROBED and seen.age_s > FORGET_LINK_S


def test_scattered_transfers_show_as_spread() -> None:
    link = LinkEstimator()
    now = transfers(link, [1e7, 1.2e7, 0.8e7, 1.1e7, 0.9e7])
    seen = link.estimate(now)
    assert seen is not None and seen.spread == pytest.approx(0.1)


def test_a_link_is_probed_only_when_idle_and_when_little_is_known() -> None:
    link = LinkEstimator()
    assert link.probe_due(0.0)
    link.probed(PROBED, 0.0)
    assert not link.probe_due(PROBE_AFTER_S - 1)
    assert link.probe_due(PROBE_AFTER_S)
    now = transfers(link, [1e6], now=PROBE_AFTER_S)
    assert not link.probe_due(now + IDLE_S / 2), "a frame may be on its way"
    assert link.probe_due(now + IDLE_S)
    now = transfers(link, [1e6] * LEAST_TRANSFERS, now=now)
    assert not link.probe_due(now + IDLE_S), "its transfers have just told the rate"
