from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Iterable
from pathlib import Path

import pytest

from d3bed.plan.estimate import (
    FORGET_S,
    LATELY_S,
    LOOK_AFTER_S,
    LOOK_SOON_S,
    ProfileCorrection,
    Segment,
)
from d3bed.plan.window import WINDOW

HEAD, TAIL = Segment("alexnet", (1, 2, 3)), Segment("alexnet", (4, 5))
PROFILED_S = {HEAD: 0.030, TAIL: 0.010}
TIMES_S = (0.0, 0.010, 0.010, 0.010, 0.005, 0.005)


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


def test_an_odd_sample_calls_for_another_one_and_for_nothing_else() -> None:
    agent = Agent(HEAD)
    agent.run(*[1.0] * 10)
    agent.correction.sampled("alexnet", 3.0, agent.now + 3)
    assert agent.correction.is_doubtful and not agent.correction.is_suspicious
    assert agent.correction.sample_due(agent.now + 3)
