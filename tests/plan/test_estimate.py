from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Iterable
from pathlib import Path

import pytest

from d3bed.core.measurements import LinkRate
from d3bed.plan.estimate import (
    FAST_BYTES_PER_S,
    FORGET_LINK_S,
    FORGET_S,
    IDLE_S,
    LARGE_BYTES,
    LATELY_S,
    LEAST_TRANSFERS,
    LOOK_AFTER_S,
    LOOK_SOON_S,
    PROBE_AFTER_S,
    WINDOW,
    LinkEstimator,
    ProfileCorrection,
    Segment,
)

HEAD, TAIL = Segment("alexnet", (1, 2, 3)), Segment("alexnet", (4, 5))
PROFILED_S = {HEAD: 0.030, TAIL: 0.010}
TIMES_S = (0.0, 0.010, 0.010, 0.010, 0.005, 0.005)
PROBED = LinkRate(1e7, 0.004)


class Agent:
    """An agent that runs its segments frame by frame, five frames a second."""

    def __init__(self, *segments: Segment) -> None:
        self.segments = segments
        self.correction = ProfileCorrection()
        self.now = 100.0

    def run(self, *slowness: float, segments: Iterable[Segment] = ()) -> None:
        for factor in slowness:
            self.now += 0.2
            for segment in tuple(segments) or self.segments:
                profiled_s = PROFILED_S.get(segment, 0.020)
                self.correction.observe(segment, factor * profiled_s, profiled_s, self.now)

    @property
    def value(self) -> float:
        factor = self.correction.factor(self.now)
        assert factor is not None
        return factor.value


# ── profiles ──────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_is_known_before_a_few_frames() -> None:
    agent = Agent(HEAD)
    assert agent.correction.factor(agent.now) is None
    agent.run(2.0, 2.0)
    assert agent.correction.factor(agent.now) is None
    assert agent.correction.corrected("alexnet", TIMES_S, agent.now) == TIMES_S
    agent.run(2.0)
    assert agent.value == pytest.approx(2.0)
    assert agent.correction.corrected("alexnet", TIMES_S, agent.now) == pytest.approx(
        [2 * t for t in TIMES_S]
    )


@pytest.mark.parametrize("quiet_frames", [0, 1, 3, 5, 7, 40])
def test_a_board_loaded_twofold_is_seen_within_five_frames(quiet_frames: int) -> None:
    agent = Agent(HEAD, TAIL)
    agent.run(*[1.0] * quiet_frames)
    agent.run(*[2.0] * 5)
    assert agent.value == pytest.approx(2.0)
    agent.run(*[1.0] * 5)
    assert agent.value == pytest.approx(1.0), "and that it is over, as well"


@pytest.mark.parametrize("before", range(3, 12))
def test_one_slow_frame_moves_nothing(before: int) -> None:
    noise = random.Random(before)
    agent = Agent(HEAD, TAIL)
    agent.run(*(noise.uniform(0.98, 1.02) for _ in range(before)))
    agent.run(30.0)
    for _ in range(WINDOW):
        assert agent.value == pytest.approx(1.0, abs=0.021)
        agent.run(noise.uniform(0.98, 1.02))


def test_after_a_jump_only_what_came_since_counts() -> None:
    agent = Agent(HEAD, TAIL)
    agent.run(*[1.0] * 20)
    assert not agent.correction.observe(HEAD, 1.5 * 0.030, 0.030, agent.now)
    agent.run(1.5, segments=[HEAD])
    assert agent.value == pytest.approx(1.0)
    assert agent.correction.observe(HEAD, 1.5 * 0.030, 0.030, agent.now), "the third in a row"
    assert agent.value == pytest.approx(1.5), (
        "load is the board's: what the tail showed before counts no more"
    )
    agent.run(1.5, 1.5, 1.5, segments=[TAIL])
    factor = agent.correction.factor(agent.now)
    assert factor is not None and factor.value == pytest.approx(1.5) and factor.spread == 0


def test_a_short_segment_that_jumps_says_nothing_of_the_others() -> None:
    short = Segment("alexnet", (5,))
    agent = Agent(HEAD)
    agent.run(*[1.0] * 10)
    for slow in (1.0, 1.0, 1.0, 4.0, 4.0, 4.0):
        agent.run(1.0)
        agent.correction.observe(short, slow * 0.002, 0.002, agent.now)
    assert agent.value == pytest.approx((0.030 + 4 * 0.002) / 0.032)


def test_a_sample_far_off_is_suspicious_and_the_next_usual_one_is_not() -> None:
    agent = Agent(HEAD, TAIL)
    agent.run(*[1.0] * 10)
    assert not agent.correction.is_suspicious
    agent.run(2.0)
    assert agent.correction.is_suspicious and agent.value == pytest.approx(1.0)
    agent.run(1.0)
    assert not agent.correction.is_suspicious


def test_what_changed_lately_is_sampled_sooner() -> None:
    agent = Agent(HEAD)
    agent.run(*[1.0] * 10)
    assert not agent.correction.sample_due(agent.now + LOOK_SOON_S)
    agent.run(*[2.0] * 5)
    assert agent.correction.sample_due(agent.now + LOOK_SOON_S)
    agent.run(*[2.0] * int(LATELY_S / 0.2))
    assert not agent.correction.sample_due(agent.now + LOOK_SOON_S)
    assert agent.correction.sample_due(agent.now + LOOK_AFTER_S)


def test_noise_of_a_tenth_gives_a_factor_within_a_few_per_cent_and_shows_as_spread() -> None:
    noise = random.Random(7)
    agent = Agent(HEAD, TAIL)
    agent.run(*(noise.gauss(1.5, 0.15) for _ in range(40)))
    factor = agent.correction.factor(agent.now)
    assert factor is not None
    assert factor.value == pytest.approx(1.5, rel=0.1) and 0.02 < factor.spread < 0.2
    quiet = Agent(HEAD)
    quiet.run(*[1.5] * 7)
    exact = quiet.correction.factor(quiet.now)
    assert exact is not None and exact.spread == 0


def test_a_long_segment_weighs_more_than_a_short_one() -> None:
    agent = Agent(HEAD, TAIL)
    for _ in range(5):
        agent.run(2.0, segments=[HEAD])
        agent.run(1.0, segments=[TAIL])
    assert agent.value == pytest.approx((2.0 * 0.030 + 1.0 * 0.010) / 0.040)


def test_a_segment_that_differs_from_its_agent_takes_its_own_factor() -> None:
    agent = Agent(HEAD, TAIL)
    for _ in range(7):
        agent.run(1.0, segments=[HEAD])
        agent.run(1.6, segments=[TAIL])
    seen = agent.correction.corrected("alexnet", (*TIMES_S, 0.1), agent.now)
    assert seen[1:4] == pytest.approx([0.010] * 3) and seen[4:6] == pytest.approx([0.008] * 2)
    assert seen[6] == pytest.approx(0.1 * agent.value), "vertices that do not run here take the agent's"
    other = agent.correction.corrected("vgg16", TIMES_S, agent.now)
    assert other == pytest.approx([t * agent.value for t in TIMES_S]), "so do those of another network"


def test_a_segment_that_scatters_does_not_pass_for_different() -> None:
    agent = Agent(HEAD, TAIL)
    for odd in (1.0, 1.5, 1.1, 1.4, 0.8, 1.3, 0.9):
        agent.run(1.0, segments=[HEAD])
        agent.run(odd, segments=[TAIL])
    seen = agent.correction.corrected("alexnet", TIMES_S, agent.now)
    assert seen == pytest.approx([t * agent.value for t in TIMES_S])


def test_load_that_comes_with_a_new_plan_is_seen_at_once() -> None:
    """Segments of the plan before do not dilute what the new ones show."""
    agent = Agent(HEAD, TAIL)
    agent.run(*[1.0] * 20)
    agent.run(*[3.0] * 2, segments=[Segment("alexnet", (1, 2))])
    assert agent.value == pytest.approx(1.0)
    agent.run(3.0, segments=[Segment("alexnet", (1, 2))])
    assert agent.value == pytest.approx(3.0)
    agent.run(*[1.0] * 3)
    assert agent.value == pytest.approx(1.0), "back under the old plan, its old samples are gone"


TILE = Segment("alexnet", (1, 2, 3), "0:27,0:55")


def test_a_tile_that_was_timed_on_a_busy_machine_does_not_make_its_agent_fast() -> None:
    agent = Agent(TILE)
    agent.run(*[0.62] * 5)
    assert agent.value == pytest.approx(1.0)
    assert agent.correction.corrected("alexnet", TIMES_S, agent.now) == pytest.approx(TIMES_S)


def test_what_becomes_of_such_a_tile_is_seen() -> None:
    agent = Agent(TILE)
    agent.run(*[0.62] * 5, *[1.24] * 3)
    assert agent.value == pytest.approx(2.0)
    agent.run(*[0.31] * 4)
    assert agent.value == pytest.approx(0.5)


def test_a_tile_confirms_that_its_agent_is_faster_than_profiled() -> None:
    agent = Agent(HEAD)
    agent.run(*[0.5] * 5)
    agent.run(*[0.5] * 5, segments=(TILE,))
    assert agent.value == pytest.approx(0.5)


def test_a_tile_shows_load_from_its_first_frames_on() -> None:
    agent = Agent(TILE)
    agent.run(*[2.0] * 3)
    assert agent.value == pytest.approx(2.0)


def test_two_tiles_of_the_same_vertices_are_told_apart() -> None:
    agent = Agent(TILE)
    agent.run(*[0.62] * 5)
    agent.run(*[1.5] * 5, segments=(Segment("alexnet", (1, 2, 3), "0:30,0:55"),))
    assert agent.value == pytest.approx(1.5)


def test_old_load_is_forgotten() -> None:
    agent = Agent(HEAD)
    agent.run(*[2.0] * 5)
    factor = agent.correction.factor(agent.now + 3)
    assert factor is not None and factor.age_s == pytest.approx(3)
    later = agent.now + FORGET_S + 1
    assert agent.correction.factor(later) is None
    assert agent.correction.corrected("alexnet", TIMES_S, later) == TIMES_S


def test_frames_after_a_long_pause_speak_for_themselves() -> None:
    agent = Agent(HEAD)
    agent.run(*[2.0] * WINDOW)
    agent.now += FORGET_S
    agent.run(*[1.0] * 3)
    assert agent.value == pytest.approx(1.0)


def test_a_segment_without_a_profile_tells_nothing() -> None:
    correction = ProfileCorrection()
    for now in range(5):
        correction.observe(HEAD, 0.1, 0.0, now)
        correction.observe(HEAD, 0.0, 0.1, now)
    assert correction.factor(5) is None


def recorded() -> list[list[float]]:
    """Measured over profiled time of 90 frames each, on a busy machine; the file says how."""
    text = (Path(__file__).parent / "recorded" / "resnet18-loaded.json").read_text(encoding="utf-8")
    sequences: list[list[float]] = json.loads(text)["measured_over_profiled"]
    return sequences


def factors(ratios: Iterable[float]) -> list[float]:
    """The factor after each frame; nan before it is known."""
    agent = Agent(HEAD)
    found = []
    for ratio in ratios:
        agent.run(ratio)
        factor = agent.correction.factor(agent.now)
        found.append(factor.value if factor else math.nan)
    return found


def test_real_load_that_came_and_went_was_seen_within_five_frames() -> None:
    ratios = recorded()[1]
    assert max(ratios[14:32]) < 3.0 < min(ratios[32:58]), "the competitor ran"
    seen = factors(ratios)
    assert all(2.0 < value < 2.8 for value in seen[3:32])
    assert all(3.0 < value < 4.2 for value in seen[36:58])
    assert all(1.9 < value < 3.0 for value in seen[62:])


@pytest.mark.parametrize("start", range(5, 20))
@pytest.mark.parametrize("sequence", range(3))
def test_a_board_loaded_twofold_is_seen_within_five_frames_of_real_scatter(sequence: int, start: int) -> None:
    ratios = recorded()[sequence][:30]
    usual = statistics.median(ratios)
    seen = factors([*ratios[:start], *(2 * ratio for ratio in ratios[start:])])
    assert 0.75 * usual < seen[start - 1] < 1.35 * usual
    assert 1.5 * usual < seen[start + 4] < 2.7 * usual


@pytest.mark.parametrize("slow", range(5, 85))
@pytest.mark.parametrize("sequence", range(3))
def test_one_slow_frame_moves_nothing_beyond_real_scatter(sequence: int, slow: int) -> None:
    ratios = recorded()[sequence]
    spoilt = [*ratios[:slow], 25 * ratios[slow], *ratios[slow + 1 :]]
    for frame, value in list(enumerate(factors(spoilt)))[slow : slow + WINDOW]:
        around = ratios[max(0, frame - WINDOW + 1) : frame + 1]
        assert min(around) <= value <= max(around)


def test_samples_tell_of_an_agent_that_frames_have_left() -> None:
    agent = Agent(HEAD)
    agent.run(*[4.0] * 5)
    left_s, of_it = agent.now, agent.correction
    of_it.sampled("alexnet", 3.8, left_s + 3)
    known = of_it.factor(left_s + 3)
    assert known is not None and known.value == pytest.approx(4.0), "that is near enough to what was known"
    assert known.age_s == 0 and not of_it.sample_due(left_s + 4) and of_it.sample_due(left_s + 5)
    of_it.sampled("alexnet", 1.1, left_s + 5)
    known = of_it.factor(left_s + 5)
    assert known is not None and known.value == pytest.approx(4.0), "one sample may be odd"
    assert of_it.sample_due(left_s + 5.1) and not of_it.is_known_since(left_s + 5)
    of_it.sampled("alexnet", 1.0, left_s + 5.2)
    known = of_it.factor(left_s + 5.2)
    assert known is not None and known.value == pytest.approx(1.1) and of_it.is_known_since(left_s + 5.2)
    assert of_it.corrected("alexnet", TIMES_S, left_s + 6) == pytest.approx([1.1 * t for t in TIMES_S])
    agent.now = left_s + 7
    agent.run(*[2.0] * 3)
    assert agent.value == pytest.approx(2.0), "spans tell more"


def test_one_odd_sample_changes_nothing() -> None:
    of_it = ProfileCorrection()
    of_it.sampled("alexnet", 5.0, 10.0)
    of_it.sampled("alexnet", 1.05, 10.1)
    assert of_it.factor(10.1) is None and of_it.is_known_since(10.1)


# ── links ─────────────────────────────────────────────────────────────────────────────────────────────


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


def test_an_odd_sample_calls_for_another_one_and_for_nothing_else() -> None:
    agent = Agent(HEAD)
    agent.run(*[1.0] * 10)
    agent.correction.sampled("alexnet", 3.0, agent.now + 3)
    assert agent.correction.is_doubtful and not agent.correction.is_suspicious
    assert agent.correction.sample_due(agent.now + 3)


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
