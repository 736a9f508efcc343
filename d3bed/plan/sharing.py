"""What it costs to share an agent or a link with the streams of other pipelines.

Pure. Every agent has one compute thread and every link one queue; steps and tensors of all pipelines take
turns there, first come first served. A stage that others keep busy for a share u of the time is there for a
frame only the rest of it: what takes t alone takes about t / (1 - u) (the mean of a processor that is shared,
M/G/1-PS; L. Kleinrock, Queueing Systems II, 1976, section 4.4). Since they take turns, nobody is slowed down
by more than the number of those who share.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping

__all__ = ["slowdowns"]

#: Below this share of a stage's time its use by others is not worth a thought.
_LEAST = 0.02


def slowdowns(demands: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """How many times longer each stage takes that others use. `demands`: of each other pipeline, the share of
    time that it keeps each stage busy (an agent as `edge-1`, a link as `pi-1→edge-1`)."""
    shares = defaultdict[str, list[float]](list)
    for demand in demands:
        for stage, share in demand.items():
            if share >= _LEAST:
                shares[stage].append(share)
    return {stage: min(_alone_over_rest(sum(used)), 1.0 + len(used)) for stage, used in shares.items()}


def _alone_over_rest(busy: float) -> float:
    return 1 / (1 - busy) if busy < 1 else math.inf
