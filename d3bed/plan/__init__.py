"""Every decision that d3bed makes, pure: numbers in, plans out. No torch, no asyncio, no I/O."""

from __future__ import annotations

from d3bed.plan.choose import Choice, Pin, choose, pinned
from d3bed.plan.problem import Problem, check_limits, cost_s, link_bytes, loads_s
from d3bed.plan.solve import STRATEGIES, Solution, Strategy, solve
from d3bed.plan.timeline import StageSpan, Timeline, timeline

__all__ = [
    "STRATEGIES",
    "Choice",
    "Pin",
    "Problem",
    "Solution",
    "StageSpan",
    "Strategy",
    "Timeline",
    "check_limits",
    "choose",
    "cost_s",
    "link_bytes",
    "loads_s",
    "pinned",
    "solve",
    "timeline",
]
