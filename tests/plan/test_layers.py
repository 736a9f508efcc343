from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest

from d3bed.core.ids import TIERS, Tier
from d3bed.core.measurements import LinkRate
from d3bed.plan import Problem, cost_s, solve

DEVICE, EDGE, CLOUD = TIERS

MakeProblem = Callable[..., Problem]


def layers_of(problem: Problem) -> list[int]:
    """The longest path from the input, by relaxing edges until nothing changes."""
    layer = [0] * len(problem.names)
    for _ in problem.names:
        for a, b in problem.edges:
            layer[b] = max(layer[b], layer[a] + 1)
    return layer


def test_it_equals_trying_every_pair_of_layers(random_problem: MakeProblem) -> None:
    rng = random.Random(31)
    for number in range(150):
        tiers = TIERS if number % 4 else rng.choice([(DEVICE, EDGE), (DEVICE, CLOUD)])
        problem = random_problem(rng, rng.randint(1, 25), tiers=tiers, pins=False)
        layer = layers_of(problem)
        depth = max(layer) + 1
        last = tiers[-1]
        pairs = itertools.combinations_with_replacement(range(1, depth + 1), 2)
        if len(tiers) == 2:
            pairs = ((cut, depth) for cut in range(1, depth + 1))  # type: ignore[assignment]
        best = min(
            cost_s(
                problem,
                tuple(DEVICE if at < p else EDGE if at < q and EDGE in tiers else last for at in layer),
            )
            for p, q in pairs
        )
        solution = solve(problem, "layers")
        assert solution.cost_s == pytest.approx(best, rel=1e-9), number
        for at in range(depth):
            assert len({t for v, t in enumerate(solution.tiers) if layer[v] == at}) == 1


def test_a_branch_cannot_be_left_behind() -> None:
    """Two branches of a module, one fast on the device and one on the edge: layers cannot part them."""
    problem = Problem(
        ("input", "a", "b", "join"),
        {DEVICE: (0, 0.1, 5.0, 0.1), EDGE: (0, 5.0, 0.1, 0.1)},
        (1, 1, 1, 1),
        ((0, 1), (0, 2), (1, 3), (2, 3)),
        {"device-edge": LinkRate(1e6, 0.0)},
    )
    assert solve(problem, "layers").cost_s > 5
    parted = solve(problem, "hpa")
    assert parted.tiers[1:3] == (DEVICE, EDGE)
    assert parted.cost_s == pytest.approx(0.3, abs=1e-5)


@pytest.mark.parametrize("strategy", ["layers", "hpa", "hpa-greedy"])
def test_pins_are_kept(strategy: str) -> None:
    problem = Problem(
        ("input", "a", "b"),
        {tier: (0, 1.0 / (1 + tier.rank), 1.0 / (1 + tier.rank)) for tier in TIERS},
        (1, 1, 1),
        ((0, 1), (1, 2)),
        {"device-edge": LinkRate(1e6, 0.0), "edge-cloud": LinkRate(1e6, 0.0)},
        allowed={"a": (Tier.DEVICE,), "b": (Tier.DEVICE, Tier.CLOUD)},
    )
    assert solve(problem, strategy).tiers == (DEVICE, DEVICE, CLOUD)
