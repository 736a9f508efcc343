"""When frames come: whenever there is room, or at a camera's rate.

Pure; `now` is passed in. A camera does not wait. Of the photos that it took while nothing could be
started the last `WAITING` are kept, because a result is worth more the newer its photo is; older ones
are dropped and counted. At most that many arrivals are ever held, however late `take` is called.
"""

from __future__ import annotations

import math
from collections import deque

__all__ = ["WAITING", "Arrivals"]

#: Photos that wait for a place in the pipeline: one to be started next, one that just came.
WAITING = 2


class Arrivals:
    """Frames at `rate_per_s`; 0: none come (paused); None: one whenever it is asked for.

    `dropped` counts those that nobody took in time.
    """

    def __init__(self, rate_per_s: float | None, now: float) -> None:
        self.dropped = 0
        self._waiting: deque[float] = deque()
        self.change(rate_per_s, now)

    def change(self, rate_per_s: float | None, now: float) -> None:
        """Another rate from now on; the first frame under it comes at once. Those that wait stay."""
        self.rate_per_s = rate_per_s
        self._next_s = now if rate_per_s else math.inf

    def take(self, now: float) -> float | None:
        """When the frame came that is to be started now, the oldest that waits; None if none does."""
        if self.rate_per_s is None and not self._waiting:
            return now
        self._come(now)
        return self._waiting.popleft() if self._waiting else None

    def until_next_s(self, now: float) -> float:
        """Seconds until another frame comes; infinite if none will."""
        return 0.0 if self.rate_per_s is None else max(0.0, self._next_s - now)

    def _come(self, now: float) -> None:
        if not self.rate_per_s or now < self._next_s:
            return
        period_s = 1 / self.rate_per_s
        count = 1 + int((now - self._next_s) / period_s)
        kept = min(count, WAITING)
        self._waiting.extend(self._next_s + period_s * n for n in range(count - kept, count))
        self._next_s += period_s * count
        self.dropped += count - kept
        while len(self._waiting) > WAITING:
            self._waiting.popleft()
            self.dropped += 1
