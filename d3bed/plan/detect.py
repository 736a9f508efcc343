"""Whether a measured number has jumped to another level, sample by sample.

Decides from the samples alone, in units of their logarithm, so that twice and half count alike. A two-sided
CUSUM (Page, 1954): what a sample is off its level by, beyond an allowance, is summed up; where the sum
passes a threshold the level has changed, at the sample where the sum began to grow. Allowance and
threshold widen with the scatter that the number has shown; one sample counts for so much at most, so that
three are the least that make a jump: one hiccup never does, nor do two; nor do more between which the number
is back where it was. It must not know what is measured, or what is done about a jump.

Chosen on recorded traces, where times scatter by up to 3× now and then (`tests/plan/test_detect.py` makes
this table from `recorded/`):

                       false alarms in 1,000 frames   mean frames until a change is followed
                       as recorded   with ±10 % more   1.3×   1.5×   2×    ≥ 3×
    median of 7                0.0               1.3    5.2    5.4    4.3    4.8
    median of 5                2.1               3.9    4.0    3.6    3.3    3.8
    median of 3                9.2              12.2    2.8    2.5    2.3    2.8
    7, Page–Hinkley            3.0               3.3    5.2    4.2    2.7    3.0
    7, CUSUM                   0.0               1.8    5.0    4.1    3.3    3.2
"""

from __future__ import annotations

import bisect
import math
from collections import deque
from collections.abc import Iterable

__all__ = ["Detector", "median"]

#: In natural logarithms, while the scatter is at most `USUAL_SCATTER`; beyond, they widen with it.
ALLOWANCE, MOST_AT_ONCE, THRESHOLD = 0.11, 0.40, 0.70
USUAL_SCATTER = 0.08
#: A sample that is as near to the level is back there: what came before was no jump.
BACK = 0.02
#: So much of it is worth a look at what else has changed: about a single sample that is off by 1.4×.
SUSPICION = 0.25
#: The level is the median of so many samples, of at least `LEAST`; the scatter is that of the last `LONG`.
SHORT, LEAST, LONG = 7, 3, 30


def median(values: Iterable[float]) -> float:
    """As `statistics.median`, in a fifth of its time: there are thousands of samples a second."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


class Detector:
    """Of one number, which must be positive."""

    def __init__(self) -> None:
        self._level: deque[float] = deque(maxlen=SHORT)
        self._off: deque[float] = deque()
        self._ordered: list[float] = []  # the same
        self._up = self._down = 0.0
        self._wide = 1.0  # as what is off is counted: more widely where the number scatters
        self._excursion: deque[float] = deque(maxlen=LONG)
        #: Whether the last jump went up.
        self.rose = False

    @property
    def scatter(self) -> float:
        """Robust standard deviation of the logarithm about its level."""
        ordered = self._ordered
        half = len(ordered) // 2
        if not ordered:
            return 0.0
        return 1.4826 * (ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2)

    @property
    def is_suspicious(self) -> bool:
        """Whether the last samples, or a single one, are far enough off to be the first of a jump."""
        return max(self._up, self._down) >= SUSPICION * self._wide

    @property
    def leans_up(self) -> bool:
        """Which way the last samples are off, if they are suspicious."""
        return self._up > self._down

    def add(self, value: float) -> int:
        """0, or if this sample shows a jump: how many of the last samples, this one included, came after."""
        x = math.log(value)
        if len(self._level) < LEAST:
            self._level.append(x)
            return 0
        wide, level = self._wide, median(self._level)
        off, most, allowed = x - level, MOST_AT_ONCE * wide, ALLOWANCE * wide
        counted = most if off > most else -most if off < -most else off
        # No max and min: this is done ten thousand times a second for hundreds of agents.
        up, down = self._up + counted - allowed, self._down - counted - allowed
        if -BACK * wide <= off <= BACK * wide:
            up = down = 0.0
        self._up, self._down = up, down = up if up > 0.0 else 0.0, down if down > 0.0 else 0.0
        if not up and not down:
            if not self._excursion:
                self._scattered(abs(off))
                self._level.append(x)
                return 0
            # What was an excursion was none, and is part of the level like this sample.
            for settled in (*self._excursion, x):
                self._scattered(abs(settled - median(self._level)))
                self._level.append(settled)
            self._excursion.clear()
            return 0
        self._excursion.append(x)
        if up < THRESHOLD * wide and down < THRESHOLD * wide:
            return 0
        return self._jumped(len(self._excursion))

    def confirm(self) -> bool:
        """Others tell that what is suspected is so: the last sample is the first of the new level."""
        return self.is_suspicious and self._jumped(1) > 0

    def _jumped(self, since: int) -> int:
        """With the first of the last samples, so many."""
        self.rose = self._up > self._down
        self._level = deque(list(self._excursion)[-since:], maxlen=SHORT)
        self._up = self._down = 0.0
        self._excursion.clear()
        return since

    def _scattered(self, off: float) -> None:
        if len(self._off) == LONG:
            del self._ordered[bisect.bisect_left(self._ordered, self._off.popleft())]
        self._off.append(off)
        bisect.insort(self._ordered, off)
        self._wide = max(1.0, self.scatter / USUAL_SCATTER)
