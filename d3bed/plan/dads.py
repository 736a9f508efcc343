"""`dads`: the DAG cut between two tiers, for one frame or for a stream.

After Hu et al., "Dynamic Adaptive DNN Surgery for Inference Acceleration on the Edge", INFOCOM 2019:
under light load the cut of the layers' DAG with the least latency of one frame, a minimum cut; under
heavy load the cut whose slowest stage (client, link or server) is fastest, so that the most frames
pass. The paper has an edge device and a cloud; here every pair of tiers is tried, and the best is
kept. A problem with a frame rate is a heavy load; `heavy` takes any problem for one.

What it cannot do: use three tiers; under heavy load, look at the latency of a frame (ours takes the
cheapest plan that sustains the rate); adapt a plan in part. What the paper does not have, and it gets
here: the uint8 photo, relaying, latencies, the result's way back, pins, memory limits, and an exact
answer under heavy load, where the paper approximates.
"""

from __future__ import annotations

from collections.abc import Callable

from d3bed.core.errors import PlanInfeasible
from d3bed.core.ids import Tier
from d3bed.plan.optimal import optimal
from d3bed.plan.placements import no_placement, placements
from d3bed.plan.problem import Problem, check_limits, cost_s, loads_s

__all__ = ["dads", "heavy"]


def dads(problem: Problem) -> tuple[Tier, ...]:
    """The best cut between two tiers for the load. Raises `PlanInfeasible`."""
    return _best(problem, _fastest if problem.rate_per_s is not None else optimal)


def heavy(problem: Problem) -> tuple[Tier, ...]:
    """The cut between two tiers whose slowest stage is fastest. Raises `PlanInfeasible`."""
    return _best(problem, _fastest)


def _best(problem: Problem, cut: Callable[[Problem], tuple[Tier, ...]]) -> tuple[Tier, ...]:
    found: list[tuple[float, float, tuple[Tier, ...]]] = []
    refusal: PlanInfeasible | None = None
    for _, narrow in placements(problem):
        try:
            tiers = cut(narrow)
        except PlanInfeasible as error:
            refusal = refusal or error
            continue
        slowest_s = max(loads_s(narrow, tiers).values()) if cut is _fastest else 0.0
        found.append((slowest_s, cost_s(narrow, tiers), tiers))
    if not found:
        raise refusal or no_placement("dads")
    best = min(found)[2]
    check_limits(problem, best)
    return best


def _fastest(problem: Problem) -> tuple[Tier, ...]:
    """The plan whose slowest stage is fastest."""
    from d3bed.plan.mix import highest_rate

    return highest_rate(problem)[0]
