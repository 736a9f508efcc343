from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from d3bed.core.errors import PlanInfeasible
from d3bed.core.ids import TIERS, Tier
from d3bed.core.measurements import LinkRate
from d3bed.plan import Problem, solve
from d3bed.plan.baselines import all_on

DEVICE, EDGE, CLOUD = TIERS
LINKS = {"device-edge": LinkRate(1e6, 0.0), "edge-cloud": LinkRate(1e6, 0.0)}


def chain(**optional: object) -> Problem:
    names = ("input", "a", "b", "c")
    edges = ((0, 1), (1, 2), (2, 3))
    times = {tier: (0.0, 1.0, 1.0, 1.0) for tier in TIERS}
    fields = {"names": names, "times_s": times, "output_bytes": (1, 1, 1, 1), "edges": edges, "links": LINKS}
    problem = Problem(**{**fields, **optional})  # type: ignore[arg-type]
    problem.check("chain")
    return problem


@pytest.mark.parametrize("tier", TIERS)
def test_without_pins_all_but_the_input_is_on_the_tier(tier: Tier) -> None:
    assert solve(chain(), tier.value).tiers == (DEVICE, tier, tier, tier)


@pytest.mark.parametrize(
    ("allowed", "device", "edge", "cloud"),
    [
        ({"a": (DEVICE,)}, "dddd", "ddee", "ddcc"),
        ({"b": (EDGE,)}, "ddee", "deee", "deec"),
        ({"b": (CLOUD,)}, "ddcc", "decc", "dccc"),
        ({"c": (EDGE, DEVICE)}, "dddd", "deee", "deee"),
        ({"a": (DEVICE, CLOUD)}, "dddd", "ddee", "dccc"),
    ],
)
def test_pins_are_kept_and_the_rest_goes_as_far_as_it_may(
    allowed: dict[str, tuple[Tier, ...]], device: str, edge: str, cloud: str
) -> None:
    problem = chain(allowed=allowed)
    short = {name: "".join(t[0] for t in solve(problem, name).tiers) for name in ("device", "edge", "cloud")}
    assert short == {"device": device, "edge": edge, "cloud": cloud}


def test_single_tier_plans_are_feasible_on_random_graphs_with_pins(
    random_problem: Callable[..., Problem],
) -> None:
    rng = random.Random(1)
    for _ in range(200):
        problem = random_problem(rng, rng.randint(1, 10))
        for tier in TIERS:
            tiers = all_on(problem, tier)
            assert all(tiers[a].rank <= tiers[b].rank for a, b in problem.edges)
            assert all(t.rank in ok for t, ok in zip(tiers, problem.allowed_ranks, strict=True))


def test_an_absent_tier_is_named_with_a_remedy() -> None:
    two = chain(
        times_s={DEVICE: (0, 1, 1, 1), EDGE: (0, 1, 1, 1)}, links={"device-edge": LINKS["device-edge"]}
    )
    with pytest.raises(PlanInfeasible, match="there is no cloud here — use optimal") as caught:
        solve(two, "cloud")
    assert caught.value.binding == "cloud"


def test_limits_hold_for_single_tiers_too() -> None:
    heavy = chain(weight_bytes=(0, 10, 10, 10), memory_bytes={EDGE: 29})
    assert solve(heavy, "cloud").cost_s > 0
    with pytest.raises(PlanInfeasible, match="edge: weights of 30 bytes"):
        solve(heavy, "edge")
    with pytest.raises(PlanInfeasible, match="device: busy for 3 s"):
        solve(chain(rate_per_s=0.5), "device")
