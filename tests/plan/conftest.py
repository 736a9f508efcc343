"""Random planning problems, and their answer by trying everything.

The cost here is written from the rules in the design a second time, one tensor after the other, so
that it shares no code and no thought with the planner's.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from d3bed.core.ids import TIERS, Tier
from d3bed.core.measurements import LinkRate
from d3bed.plan import Problem

DEVICE, EDGE, CLOUD = TIERS

Assignment = tuple[Tier, ...]
MakeProblem = Callable[..., Problem]


def crossing_s(problem: Problem, link: str, size: float) -> float:
    return problem.links[link].latency_s + size / problem.links[link].bytes_per_s


def reference_cost_s(problem: Problem, tiers: Assignment) -> float:
    total = 0.0
    for v, tier in enumerate(tiers):
        total += problem.times_s[tier][v]
        if problem.current.get(problem.names[v]) not in (None, tier):
            total += problem.migration_cost_s
        goals = {tiers[b] for a, b in problem.edges if a == v} - {tier}
        size = problem.output_bytes[v]
        price = {link: crossing_s(problem, link, size) for link in problem.links}
        never = float("inf")
        if goals == {EDGE}:
            total += price["device-edge"]
        elif goals == {CLOUD} and tier is EDGE:
            total += price["edge-cloud"]
        elif goals == {CLOUD}:
            relayed = price.get("device-edge", never) + price.get("edge-cloud", never)
            total += min(relayed, price.get("device-cloud", never))
        elif goals == {EDGE, CLOUD}:
            total += price["device-edge"] + min(price["edge-cloud"], price.get("device-cloud", never))
    ends = {tiers[v] for v in range(len(tiers)) if all(a != v for a, _ in problem.edges)}
    if problem.result_bytes:
        back = {link: crossing_s(problem, link, problem.result_bytes) for link in problem.links}
        never = float("inf")
        if CLOUD in ends:
            relayed = back.get("device-edge", never) + back.get("edge-cloud", never)
            total += min(relayed, back.get("device-cloud", never))
        elif EDGE in ends:
            total += back["device-edge"]
    return total


def monotone(problem: Problem) -> Iterator[Assignment]:
    """All assignments that keep data flowing forward and every vertex where it may be."""
    choices = [
        [t for t in TIERS if t in problem.times_s and t in problem.allowed.get(name, TIERS)]
        for name in problem.names
    ]
    choices[0] = [DEVICE]
    for tiers in itertools.product(*choices):
        if all(tiers[a].rank <= tiers[b].rank for a, b in problem.edges):
            yield tiers


def fits(problem: Problem, tiers: Assignment) -> bool:
    """Whether memory and rate limits hold."""
    for tier, limit in problem.memory_bytes.items():
        if sum(w for w, t in zip(problem.weight_bytes, tiers, strict=True) if t is tier) > limit:
            return False
    if problem.rate_per_s is None:
        return True
    return longest_s(problem, tiers) <= 1 / problem.rate_per_s


def longest_s(problem: Problem, tiers: Assignment) -> float:
    """Seconds that the busiest tier or link works on one frame."""
    busy: dict[str, float] = {}
    for v, tier in enumerate(tiers):
        busy[tier] = busy.get(tier, 0.0) + problem.times_s[tier][v]
        goals = {tiers[b] for a, b in problem.edges if a == v} - {tier}
        size = problem.output_bytes[v]
        ways: list[str] = []
        if CLOUD in goals and tier is DEVICE and "device-cloud" in problem.links:
            onward = crossing_s(problem, "edge-cloud", size)
            onward += 0 if EDGE in goals else crossing_s(problem, "device-edge", size)
            if crossing_s(problem, "device-cloud", size) < onward:
                ways.append("device-cloud")
                goals.remove(CLOUD)
        if tier is DEVICE and goals:
            ways.append("device-edge")
        if CLOUD in goals:
            ways.append("edge-cloud")
        for link in ways:
            busy[link] = busy.get(link, 0.0) + size / problem.links[link].bytes_per_s
    return max(busy.values())


def brute_force(problem: Problem) -> tuple[float, Assignment]:
    """The least cost and a plan that has it; infinite if limits leave none."""
    best: tuple[float, Assignment] = (float("inf"), ())
    for tiers in monotone(problem):
        if fits(problem, tiers):
            cost = reference_cost_s(problem, tiers)
            if cost < best[0]:
                best = (cost, tiers)
    return best


class Everything(NamedTuple):
    """All plans of a problem [plans, vertices] as ranks, and what each costs and asks for."""

    ranks: NDArray[np.int64]
    cost_s: NDArray[np.float64]
    loads_s: dict[str, NDArray[np.float64]]
    memory_bytes: dict[Tier, NDArray[np.float64]]

    def fits(self, problem: Problem) -> NDArray[np.bool_]:
        found = np.ones(len(self.ranks), dtype=bool)
        for tier, limit in problem.memory_bytes.items():
            found &= self.memory_bytes[tier] <= limit
        if problem.rate_per_s is not None:
            found &= np.max(list(self.loads_s.values()), axis=0) * problem.rate_per_s <= 1 + 1e-12
        return found


def everything(problem: Problem) -> Everything:
    """The same rules as in `reference_cost_s` and `longest_s`, for all plans at the same time."""
    ranks = np.zeros((1, 1), dtype=np.int64)
    for name in problem.names[1:]:
        open_ranks = [t.rank for t in problem.times_s if t in problem.allowed.get(name, TIERS)]
        ranks = np.hstack([np.repeat(ranks, len(open_ranks), 0), np.tile(open_ranks, len(ranks))[:, None]])
    for a, b in problem.edges:
        ranks = ranks[ranks[:, a] <= ranks[:, b]]
    total = np.zeros(len(ranks))
    busy: dict[str, NDArray[np.float64]] = {
        stage: np.zeros(len(ranks)) for stage in (*(t.value for t in problem.times_s), *problem.links)
    }
    memory = {tier: (ranks == tier.rank) @ np.array(problem.weight_bytes, dtype=float) for tier in TIERS}
    never = np.inf
    for v, name in enumerate(problem.names):
        here = ranks[:, v]
        for tier, times in problem.times_s.items():
            total += np.where(here == tier.rank, times[v], 0.0)
            busy[tier.value] += np.where(here == tier.rank, times[v], 0.0)
        if name in problem.current:
            total += (here != problem.current[name].rank) * problem.migration_cost_s
        after = ranks[:, [b for a, b in problem.edges if a == v]]
        edge, cloud = (after == 1).any(axis=1) & (here < 1), (after == 2).any(axis=1) & (here < 2)
        size = problem.output_bytes[v]
        near, far, direct = (
            crossing_s(problem, link, size) if link in problem.links else never
            for link in ("device-edge", "edge-cloud", "device-cloud")
        )
        skips = cloud & (here == 0) & np.where(edge, direct < far, direct < near + far)
        used = {
            "device-edge": edge | (cloud & (here == 0) & ~skips),
            "edge-cloud": cloud & ~skips,
            "device-cloud": skips,
        }
        for link, crosses in used.items():
            if link in problem.links:
                total += np.where(crosses, crossing_s(problem, link, size), 0.0)
                busy[link] += np.where(crosses, size / problem.links[link].bytes_per_s, 0.0)
    if problem.result_bytes:
        ends = sorted(set(range(len(problem.names))) - {a for a, _ in problem.edges})
        latest = ranks[:, ends].max(axis=1)
        near, far, direct = (
            crossing_s(problem, link, problem.result_bytes) if link in problem.links else never
            for link in ("device-edge", "edge-cloud", "device-cloud")
        )
        total += np.where(latest == 1, near, np.where(latest == 2, min(near + far, direct), 0.0))
    return Everything(ranks, total, busy, memory)


def random_edges(rng: random.Random, count: int, shape: str) -> set[tuple[int, int]]:
    """A DAG of `count` vertices: `any`, or built of modules like a `residual` or `inception` network."""
    if shape == "any":
        edges = {(rng.randrange(max(0, v - 4), v), v) for v in range(1, count)}
        for _ in range(rng.randrange(count)):
            a, b = sorted(rng.sample(range(count), 2))
            edges.add((a, b))
        return edges
    edges, last, v = set[tuple[int, int]](), 0, 1
    while v < count:
        branches = 1 if shape == "residual" else rng.randint(1, 4)
        ends = {last} if shape == "residual" and rng.random() < 0.6 else set[int]()
        for _ in range(branches):
            tip = last
            for _ in range(rng.randint(1, 3)):
                if v < count - 1:
                    edges.add((tip, v))
                    tip, v = v, v + 1
            ends.add(tip)
        edges |= {(tip, v) for tip in ends}
        last, v = v, v + 1
    return edges


def random_problem(
    rng: random.Random,
    count: int,
    *,
    shape: str = "any",
    tiers: Assignment = TIERS,
    direct: bool = False,
    pins: bool = True,
) -> Problem:
    """Speeds vary by vertex, links are fast, inputs may be large: optima are mixed, not one tier."""
    edges = random_edges(rng, count, shape)
    # In files, vertices may stand in any order, so long as the input comes first.
    number = [0, *rng.sample(range(1, count), count - 1)]
    edges = {(number[a], number[b]) for a, b in edges}
    names = tuple(f"v{v}" for v in range(count))
    work = [rng.lognormvariate(0, 1) * 1e-3 for _ in names]
    mean = {DEVICE: 1.5, EDGE: 1.2, CLOUD: 1.0}
    spread = rng.choice([0.3, 1.0, 2.0])
    times = {t: tuple(w * mean[t] * rng.lognormvariate(0, spread) for w in work) for t in tiers}
    for t in times:
        times[t] = (0.0, *times[t][1:])
    sizes = [round(rng.lognormvariate(9, 1.5)) for _ in names]
    sizes[0] *= rng.choice([1, 12])
    latency = rng.choice([0.0, rng.uniform(0, 1e-3)])
    speed = 10 ** rng.uniform(6.5, 9)
    present = {"device-edge"} if EDGE in tiers else set()
    if CLOUD in tiers:
        present |= {"edge-cloud"} if EDGE in tiers else {"device-cloud"}
        present |= {"device-cloud"} if direct else set()
    links = {k: LinkRate(speed * rng.uniform(0.3, 3), latency) for k in sorted(present)}
    allowed: dict[str, tuple[Tier, ...]] = {}
    current: dict[str, Tier] = {}
    if pins and rng.random() < 0.4:
        # Forbidding tiers of a plan that exists leaves at least that plan.
        place = _random_plan(rng, count, edges, tiers)
        for v in rng.sample(range(count), rng.randint(1, max(1, count // 3))):
            others = rng.sample(tiers, rng.randint(0, len(tiers) - 1))
            allowed[names[v]] = tuple(t for t in TIERS if t is place[v] or t in others)
    if pins and rng.random() < 0.4:
        place = _random_plan(rng, count, edges, tiers)
        current = {name: place[v] for v, name in enumerate(names)}
    return Problem(
        names,
        times,
        tuple(sizes),
        tuple(sorted(edges)),
        links,
        result_bytes=rng.choice([0, 4000, 100_000]),
        allowed=allowed,
        current=current,
        migration_cost_s=rng.choice([0.0, 1e-4, 1e-3]),
        weight_bytes=tuple(rng.randrange(1, 1000) for _ in names),
    )


def _random_plan(
    rng: random.Random, count: int, edges: set[tuple[int, int]], tiers: Assignment
) -> list[Tier]:
    place = [DEVICE] * count
    ready = [0]
    for v in ready:
        floor = max((place[a].rank for a, b in edges if b == v), default=0)
        place[v] = DEVICE if v == 0 else rng.choice([t for t in tiers if t.rank >= floor])
        for w in sorted({b for a, b in edges if a == v} - set(ready)):
            if all(a in ready for a, b in edges if b == w):
                ready.append(w)
    return place


@pytest.fixture(name="random_problem")
def random_problem_fixture() -> MakeProblem:
    return random_problem


@pytest.fixture(name="brute_force")
def brute_force_fixture() -> Callable[[Problem], tuple[float, Assignment]]:
    return brute_force


@pytest.fixture(name="highest_rate")
def highest_rate_fixture() -> Callable[[Problem], float]:
    """The highest frame rate that any assignment within the memory limits sustains."""

    def highest(problem: Problem) -> float:
        return 1 / min(longest_s(problem, tiers) for tiers in monotone(problem))

    return highest


@pytest.fixture(name="reference_cost_s")
def reference_cost_fixture() -> Callable[[Problem, Assignment], float]:
    return reference_cost_s


@pytest.fixture(name="everything")
def everything_fixture() -> Callable[[Problem], Everything]:
    return everything
