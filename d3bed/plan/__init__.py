"""Every decision that d3bed makes, pure: numbers in, plans out. No torch, no asyncio, no I/O."""

from __future__ import annotations

from d3bed.plan.adapt import (
    FACTOR_BAND,
    YOUNG_S,
    Basis,
    Change,
    Patience,
    Verdict,
    changes,
    explains,
    judge,
    rebased,
    what_matters,
)
from d3bed.plan.adjust import Adjustment, Standing, adjust
from d3bed.plan.choose import TILED_STRATEGIES, Choice, Pin, Variant, choose, pinned
from d3bed.plan.estimate import Factor, ProfileCorrection, Segment
from d3bed.plan.links import FAST_BYTES_PER_S, LinkEstimate, LinkEstimator, Tendency
from d3bed.plan.optimal import Proven, proven
from d3bed.plan.predictor import Predictor, Sample, Work, samples_of, works
from d3bed.plan.problem import Problem, check_limits, cost_s, link_bytes, loads_s
from d3bed.plan.sharing import slowdowns
from d3bed.plan.solve import STRATEGIES, Objective, Solution, Strategy, solve
from d3bed.plan.timeline import StageSpan, Timeline, timeline

__all__ = [
    "FACTOR_BAND",
    "FAST_BYTES_PER_S",
    "STRATEGIES",
    "TILED_STRATEGIES",
    "Adjustment",
    "Basis",
    "Change",
    "Choice",
    "Factor",
    "LinkEstimate",
    "LinkEstimator",
    "Objective",
    "Patience",
    "Pin",
    "Predictor",
    "Problem",
    "Proven",
    "ProfileCorrection",
    "Sample",
    "Segment",
    "Solution",
    "StageSpan",
    "Standing",
    "Strategy",
    "Tendency",
    "Timeline",
    "Variant",
    "Verdict",
    "YOUNG_S",
    "Work",
    "adjust",
    "changes",
    "check_limits",
    "choose",
    "cost_s",
    "explains",
    "judge",
    "link_bytes",
    "loads_s",
    "pinned",
    "samples_of",
    "slowdowns",
    "proven",
    "rebased",
    "solve",
    "timeline",
    "what_matters",
    "works",
]
