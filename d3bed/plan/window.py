"""The last samples of a measured number: their median and spread, and whether it has jumped.

Pure: `now` is passed in. Everything is a median over the last `WINDOW` samples: one slow frame or transfer
moves nothing. Where the number jumps (see `detect`) the samples from before are dropped, so that the estimate
follows at once; what drifts shows after `WINDOW // 2 + 1` samples. The spread is the median absolute
deviation, relative.
"""

from __future__ import annotations

from collections import deque

from d3bed.plan.detect import Detector, median

__all__ = ["WINDOW", "Window"]

#: Samples that a median looks back on.
WINDOW = 7


class Window:
    """The last samples of a number, none `keep_s` older than the last nor from before it jumped, and when
    they came. `jumped`: whether it did, so that few samples tell."""

    def __init__(self, keep_s: float) -> None:
        self._keep_s = keep_s
        self._samples: deque[tuple[float, float]] = deque(maxlen=WINDOW)
        self._detector = Detector()
        self._middle: tuple[float, float] | None = None  # median and spread, once asked for
        self.jumped = self._cut = False

    def __len__(self) -> int:
        return len(self._samples)

    def add(self, value: float, now: float) -> bool:
        """Returns whether the number has jumped with this sample."""
        self._middle = None
        samples, oldest_s = self._samples, now - self._keep_s
        while samples and samples[0][0] < oldest_s:
            samples.popleft()
        since = self._detector.add(value)
        if since:  # what came before the jump counts no more, this sample is the last of the new ones
            while len(self._samples) >= since:
                self._samples.popleft()
            self.jumped = True
        self._samples.append((now, value))
        return since > 0

    @property
    def is_suspicious(self) -> bool:
        """Whether the last sample may be the first ones of a jump."""
        return self._detector.is_suspicious

    @property
    def rose(self) -> bool:
        """Whether the last jump went up."""
        return self._detector.rose

    @property
    def leans_up(self) -> bool:
        """Which way the last sample is off, where it is suspicious."""
        return self._detector.leans_up

    def confirm(self) -> bool:
        """Others tell that the last sample is the first one of a jump. Returns whether it may be."""
        if not self._detector.confirm():
            return False
        while len(self._samples) > 1:
            self._samples.popleft()
        self._middle, self.jumped = None, True
        return True

    def forget_before(self, since_s: float) -> None:
        """Something else jumped then."""
        self._cut, self._middle = True, None
        while self._samples and self.first_s < since_s:
            self._samples.popleft()

    def tells(self, least: int) -> bool:
        """Whether there are enough samples: `least`, or those that showed a jump here or elsewhere."""
        return len(self) >= least or self.jumped or (self._cut and len(self) >= least - 1)

    @property
    def first_s(self) -> float:
        return self._samples[0][0]

    @property
    def last_s(self) -> float:
        return self._samples[-1][0]

    @property
    def median(self) -> float:
        return self._medians[0]

    @property
    def spread(self) -> float:
        return self._medians[1]

    @property
    def _medians(self) -> tuple[float, float]:
        if self._middle is None:
            values = [value for _, value in self._samples]
            middle = median(values)
            self._middle = middle, median([abs(value - middle) for value in values]) / middle
        return self._middle
