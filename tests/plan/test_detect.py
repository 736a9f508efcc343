"""Which way of seeing changes is best, on what a demo with known changes recorded; and how the best behaves.

`ways` are what an estimate is made with: all take the median over the last samples; two drop the samples
from before a jump that they detect. Changes are those of `recorded/demo-changes.json`, made by
`record_samples.py`: 2, 1.5 and 1.3 times as slow, a quarter and two thirds of a rate, a loaded cloud.
"""

from __future__ import annotations

import json
import math
import random
import statistics
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d3bed.plan import detect
from d3bed.plan.detect import LEAST, LONG, SHORT, Detector, median

QUIET_S, BAND, FRAMES = 25.0, 1.25, 1860  # five minutes of the demo


class Way(Protocol):
    def add(self, value: float) -> float:
        """The next sample; returns the estimate with it."""
        ...


class Jumps(Protocol):
    def add(self, value: float) -> int: ...


class Median:
    def __init__(self, samples: int, jumps: Jumps | None = None) -> None:
        self._window: deque[float] = deque(maxlen=samples)
        self._jumps = jumps

    def add(self, value: float) -> float:
        since = self._jumps.add(value) if self._jumps else 0
        while since and len(self._window) >= since:
            self._window.popleft()
        self._window.append(value)
        return statistics.median(self._window)


class PageHinkley:
    """The running mean takes the place of CUSUM's level; allowance, bound and clipping by a search."""

    ALLOWANCE, MOST, THRESHOLD = 0.11, 0.60, 0.80

    def __init__(self) -> None:
        self._restart()

    def _restart(self) -> None:
        self._count, self._mean = 0, 0.0
        self._sums, self._least, self._since = [0.0, 0.0], [0.0, 0.0], [0, 0]

    def add(self, value: float) -> int:
        x = math.log(value)
        if self._count >= 3:
            x = max(self._mean - self.MOST, min(x, self._mean + self.MOST))
        self._count += 1
        self._mean += (x - self._mean) / min(self._count, 30)
        if self._count <= 3:
            return 0
        for side, sign in enumerate((1, -1)):
            self._sums[side] += sign * (x - self._mean) - self.ALLOWANCE
            self._since[side] += 1
            if self._sums[side] < self._least[side]:
                self._least[side], self._since[side] = self._sums[side], 0
            if self._sums[side] - self._least[side] > self.THRESHOLD:
                since = self._since[side]
                self._restart()
                return since
        return 0


WAYS: dict[str, Callable[[], Way]] = {
    "median of 7": lambda: Median(7),
    "median of 5": lambda: Median(5),
    "median of 3": lambda: Median(3),
    "7, Page–Hinkley": lambda: Median(7, PageHinkley()),
    "7, CUSUM": lambda: Median(7, Detector()),
}


class Row(msgspec.Struct, frozen=True):
    """`false`: how often an estimate left its band though nothing changed, in 1,000 frames, as recorded and
    with ±10 % noise on top. `frames`: mean until it followed a change of about that ratio."""

    false: float
    false_noisy: float
    frames: dict[float, float]


def traces() -> tuple[list[tuple[float, str, float]], dict[str, list[tuple[float, float]]]]:
    path = Path(__file__).parent / "recorded" / "demo-changes.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found["changes"], found["samples"]


def false_alarms(make: Callable[[], Way], values: list[float], noise: float) -> int:
    rng, usual, way = random.Random(5), statistics.median(values), make()
    alarms, outside = 0, False
    for frame in range(FRAMES):
        seen = way.add(values[frame % len(values)] * rng.uniform(1 - noise, 1 + noise)) / usual
        left = frame >= SHORT and not 1 / BAND <= seen <= BAND
        alarms += left and not outside
        outside = left
    return alarms


def followed(
    make: Callable[[], Way], samples: list[tuple[float, float]], changes: list[tuple[float, float]]
) -> list[tuple[float, int]]:
    """For each change: its ratio, and how many samples until the estimate is past the middle of it."""
    usual = statistics.median(value for at_s, value in samples if at_s < QUIET_S)
    way, level, found, waiting = make(), usual, [], None
    for at_s, value in samples:
        seen = way.add(value)
        while changes and at_s >= changes[0][0]:
            before, level = level, usual * changes.pop(0)[1]
            waiting = (math.sqrt(before * level), level > before, max(before / level, level / before), 0)
        if waiting is not None:
            middle, up, ratio, count = waiting
            waiting = (middle, up, ratio, count + 1)
            if seen > middle if up else seen < middle:
                found.append((ratio, count + 1))
                waiting = None
    return found


def judged(make: Callable[[], Way]) -> Row:
    changes, series = traces()
    alarms = {0.0: 0, 0.1: 0}
    delays: dict[float, list[int]] = {}
    for name, samples in series.items():
        quiet = [value for at_s, value in samples if at_s < QUIET_S]
        for noise in alarms:
            alarms[noise] += false_alarms(make, quiet, noise)
        mine = [(at_s, factor) for at_s, subject, factor in changes if subject == name.split()[0]]
        for ratio, frames in followed(make, samples, mine):
            delays.setdefault(min(round(ratio, 1), 3.0), []).append(frames)
    per_1000 = 1000 / (FRAMES * len(series))
    frames_of = {ratio: statistics.mean(found) for ratio, found in sorted(delays.items())}
    return Row(alarms[0.0] * per_1000, alarms[0.1] * per_1000, frames_of)


def table() -> str:
    lines = ["                   false alarms in 1,000 frames   mean frames until a change is followed"]
    lines += ["                   as recorded   with ±10 % more   1.3×   1.5×   2×    ≥ 3×"]
    for name, make in WAYS.items():
        row = judged(make)
        delays = "   ".join(f"{frames:4.1f}" for frames in row.frames.values())
        lines.append(f"{name:18} {row.false:11.1f}   {row.false_noisy:15.1f}   {delays}")
    return "\n".join(lines)


def test_cusum_follows_sooner_than_the_window_and_is_as_silent() -> None:
    window, chosen = judged(WAYS["median of 7"]), judged(WAYS["7, CUSUM"])
    assert chosen.false == window.false == 0.0
    assert chosen.false_noisy <= window.false_noisy + 0.5
    assert all(chosen.frames[ratio] <= window.frames[ratio] for ratio in window.frames)
    assert all(chosen.frames[ratio] <= window.frames[ratio] - 0.5 for ratio in (2.0, 3.0))


@pytest.mark.parametrize("other", ["median of 5", "median of 3", "7, Page–Hinkley"])
def test_what_is_faster_still_gives_false_alarms(other: str) -> None:
    assert judged(WAYS[other]).false > 1.0


def test_the_table_in_the_head_is_what_is_measured() -> None:
    assert detect.__doc__ is not None
    for line in table().splitlines():
        assert line.strip() in detect.__doc__


def test_ten_per_cent_of_noise_never_makes_a_jump() -> None:
    for seed in range(20):
        rng, detector = random.Random(seed), Detector()
        assert not any(detector.add(rng.uniform(0.9, 1.1)) for _ in range(3000))


@given(st.integers(LEAST, 60), st.floats(1.5, 50), st.booleans())
def test_a_jump_shows_with_the_third_sample_and_says_when_it_began(
    quiet: int, ratio: float, up: bool
) -> None:
    rng, detector = random.Random(quiet), Detector()
    assert not any(detector.add(7.0 * rng.uniform(0.98, 1.02)) for _ in range(quiet))
    after = 7.0 * (ratio if up else 1 / ratio)
    assert [detector.add(after * rng.uniform(0.98, 1.02)) for _ in range(3)] == [0, 0, 3]
    assert not any(detector.add(after * rng.uniform(0.98, 1.02)) for _ in range(40))


@pytest.mark.parametrize("hiccups", [[40.0], [40.0, 40.0], [2.6, 1.0, 1.5, 1.8, 1.0]])
def test_hiccups_are_no_jump_and_leave_the_level_where_it_was(hiccups: list[float]) -> None:
    """The last ones: a machine that was slow for half a second."""
    detector = Detector()
    assert not any(map(detector.add, [*[1.0] * 10, *hiccups, *[1.0] * 10] * 5))
    assert detector.scatter < 0.01


def test_what_is_suspected_is_sure_once_others_tell_the_same() -> None:
    detector = Detector()
    for value in (5.0, 5.0, 5.0, 5.0, 2.0):
        assert not detector.confirm() and not detector.add(value)
    assert detector.is_suspicious and not detector.leans_up
    assert detector.confirm() and not detector.rose
    assert not detector.is_suspicious
    assert not any(map(detector.add, [2.0] * 10)), "that is the level now"


def test_what_scatters_more_has_to_change_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def alarms() -> int:
        rng, detector = random.Random(3), Detector()
        found = sum(detector.add(rng.lognormvariate(0, 0.3)) > 0 for _ in range(2000))
        assert detector.scatter == pytest.approx(0.3, rel=0.5)
        return found

    widened = alarms()
    monkeypatch.setattr(detect, "USUAL_SCATTER", 10.0)  # as if nothing scattered more than usual
    assert widened < 0.25 * alarms()


@pytest.mark.parametrize("count", range(1, 9))
def test_the_fast_median_is_the_median(count: int) -> None:
    draw = random.Random(count)
    values = [draw.uniform(-3, 3) for _ in range(count)]
    assert median(values) == statistics.median(values)


def test_an_excursion_that_never_ends_takes_no_memory() -> None:
    """Samples that stay a little beyond the allowance, too little for a jump."""
    detector = Detector()
    for off in (*[0.0] * LONG, 0.25, *[0.13, 0.09] * 2000):
        assert not detector.add(math.exp(off))
    assert detector._up > 0, "it is one still"
    assert len(detector._excursion) == LONG
