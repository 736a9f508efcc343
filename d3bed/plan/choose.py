"""From measurements to a plan: who takes part, and which vertices run on which tier.

Decides for one pipeline, from profiles and link rates alone. A device has its tier to itself; where
several edge or cloud agents could take part, each way of choosing them is planned for and the best one
is kept: the one that costs least; of a stream of frames, the one that keeps up with it and answers soonest,
or else the one that keeps up with most, which may be a mix of plans. An agent takes part only if it has a
profile and measured links, both ways, to its neighbours on the route. Must not know how agents are reached
or plans carried out.
"""

from __future__ import annotations

import fnmatch
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from d3bed.core.errors import ConfigError, D3Error, PlanInfeasible, near
from d3bed.core.graph import Graph
from d3bed.core.ids import TIERS, AgentId, Tier
from d3bed.core.measurements import LinkRate
from d3bed.core.plan import Plan, TiledBlock
from d3bed.plan.adjust import Adjustment, adjust
from d3bed.plan.direct import direct_values
from d3bed.plan.problem import Problem, link_bytes, most_per_s
from d3bed.plan.solve import Solution, solve
from d3bed.plan.timeline import Timeline, timeline
from d3bed.plan.vsm import PIECE_S, TileCosts, tileable_parts

__all__ = ["TILED_STRATEGIES", "Choice", "Pin", "choose", "pinned"]

#: Strategies whose edge segment edge agents may share; rivals know nothing of it.
TILED_STRATEGIES = ("optimal", "hpa", "hpa-greedy", "layers", "edge")

#: Strategies that answer a stream which no single plan sustains with a mix of plans; the others with their
#: fastest plan, where they have one, or the plan that they make without regard to the rate.
MIXING_STRATEGIES = ("optimal", "hpa")

#: Plans for a stream keep this much in reserve: predicted times are some per cent off, and a stage that is
#: busy all the time has an ever longer queue before it.
RESERVE = 1.1

#: More frames than this are never under way at once.
_MOST_UNDER_WAY = 32

#: Cutting and tiling in turn comes to rest after one or two rounds.
_MOST_ROUNDS = 3

#: So many owners of tiles are tried, of those whose times and links are not the same within `_ALIKE`.
_MOST_OWNERS, _ALIKE = 2, 1.05


class Pin(msgspec.Struct, frozen=True):
    """Vertices whose names match the glob `vertices` may only be on `tiers`."""

    vertices: str
    tiers: tuple[Tier, ...]


class Variant(msgspec.Struct, frozen=True):
    """One plan of a mix, the share of frames that takes it, and what to expect of those."""

    plan: Plan
    share: float
    timeline: Timeline


class Choice(msgspec.Struct, frozen=True):
    """The plan, who carries it out (only tiers that it uses, or that relay), and what to expect.

    Where no plan sustains the stream, frames may take several in fixed shares: then `mix` are all of them,
    largest share first, and `plan` and `timeline` those of the first.

    `kept_s` is the predicted latency of staying with the current plan and its route, under the same
    conditions; None if there is no current plan, or an agent or link that it needs is gone. `outrun`: that
    plan cannot keep up with the frames, and the new one does better. `agents` are those that were planned
    with, also on tiers that the plan leaves out; `adjustment` is what HPA's local adjustment looked at, where
    it made the plan. `alone_s` is the predicted latency if one tier did it all, where it may.
    """

    plan: Plan
    route: dict[Tier, AgentId]
    problem: Problem
    solution: Solution
    timeline: Timeline
    agents: dict[Tier, AgentId]
    kept_s: float | None = None
    outrun: bool = False
    adjustment: Adjustment | None = None
    alone_s: dict[Tier, float] = {}
    mix: tuple[Variant, ...] = ()

    @property
    def latency_s(self) -> float:
        """What a frame is predicted to take, on average."""
        return sum(v.share * v.timeline.latency_s for v in self.mix) if self.mix else self.timeline.latency_s

    @property
    def compute_s(self) -> dict[Tier, float]:
        """Seconds that each tier computes for a frame, on average."""
        if not self.mix:
            return dict(self.timeline.compute_s)
        tiers = {tier for v in self.mix for tier in v.timeline.compute_s}
        return {
            t: sum(v.share * v.timeline.compute_s.get(t, 0.0) for v in self.mix) for t in TIERS if t in tiers
        }

    @property
    def busy_s(self) -> dict[str, float]:
        """Seconds of work that a frame makes on each agent and link, on average."""
        if not self.mix:
            return self.timeline.busy_s
        stages = {stage for v in self.mix for stage in v.timeline.busy_s}
        return {s: sum(v.share * v.timeline.busy_s.get(s, 0.0) for v in self.mix) for s in stages}

    @property
    def frames_per_s(self) -> float:
        """What a stream of frames cannot exceed: its busiest stage is busy all the time."""
        busiest_s = max(self.busy_s.values())
        return 1 / busiest_s if busiest_s > 0 else math.inf

    @property
    def depth(self) -> int:
        """How many frames under way keep every stage busy (Little's law), one more to be next."""
        return min(_MOST_UNDER_WAY, 1 + math.ceil(min(self.latency_s * self.frames_per_s, _MOST_UNDER_WAY)))

    @property
    def participants(self) -> dict[AgentId, Tier]:
        """All that take part and their tiers: the route, and edge agents that help with tiles."""
        found = {agent: tier for tier, agent in self.route.items()}
        plans = [variant.plan for variant in self.mix] or [self.plan]
        return {agent: Tier.EDGE for plan in plans for agent in plan.tile_agents} | found


def pinned(graph: Graph, pins: Sequence[Pin]) -> dict[str, tuple[Tier, ...]]:
    """The tiers that pins leave to each vertex they match; pins on one vertex add up.

    Raises `ConfigError` for a pin that matches nothing, and where pins leave a vertex no tier.
    """
    found: dict[str, tuple[Tier, ...]] = {}
    names = list(graph.index)
    for pin in pins:
        matched = fnmatch.filter(names, pin.vertices)
        if not matched:
            raise ConfigError(
                "pins", pin.vertices, f"no vertex of {graph.model} matches", near(pin.vertices, names)
            )
        for name in matched:
            left = tuple(tier for tier in TIERS if tier in pin.tiers and tier in found.get(name, TIERS))
            if not left or (name == names[0] and Tier.DEVICE not in left):
                wanted = (
                    "the input stays on the device" if name == names[0] else "no pin may contradict another"
                )
                raise ConfigError("pins", pin.vertices, f"leaves {name} no tier", wanted)
            found[name] = left
    return found


def choose(
    graph: Graph,
    profiles: Mapping[AgentId, Sequence[float]],
    agents: Mapping[AgentId, Tier],
    rates: Mapping[tuple[AgentId, AgentId], LinkRate],
    device: AgentId,
    *,
    strategy: str = "optimal",
    pins: Sequence[Pin] = (),
    current: Choice | None = None,
    migration_cost_s: float = 0.0,
    tiling: str = "none",
    fixed_s: Mapping[AgentId, Sequence[float]] | None = None,
    untiled: Collection[int] = (),
    rate_per_s: float | None = None,
) -> Choice:
    """Plan `graph` for the pipeline of `device`, with the agents that serve it best.

    `profiles` are seconds per vertex; `rates` are directed. Least cost wins, then least predicted
    latency, then the agents' names; at a `rate_per_s`, least latency of what sustains it, else the highest
    rate. With `tiling` (a method of `vsm`) edge agents share the edge's layers where that is predicted to be
    faster, but for the vertices `untiled`; `fixed_s` is the part of the profiles that does not depend on a
    tile's size. Rivals and single tiers other than the edge are left as they are. Raises `ConfigError`
    (strategy, pins), `PlanInfeasible` if no choice of agents allows a plan.
    """
    if device not in profiles:
        raise PlanInfeasible(Tier.DEVICE, f"{device} has no profile yet")
    allowed = pinned(graph, pins)
    wanted = _Wanted(strategy, allowed, current, migration_cost_s, rate_per_s and rate_per_s * RESERVE)
    found: list[Choice] = []
    refusals: list[D3Error] = []
    for route in _distinct(_routes(device, profiles, agents, rates), profiles, rates, current):
        for name, tiers in allowed.items():
            if not set(tiers) & set(route):
                where = " or ".join(tiers)
                refusals.append(PlanInfeasible(where, f"{name} is pinned to it, and no such agent is ready"))
                break
        else:
            try:
                found.append(_plan(graph, route, profiles, rates, wanted))
            except PlanInfeasible as refusal:
                refusals.append(refusal)
    if not found:
        raise refusals[0]
    found.sort(key=lambda choice: (*wanted.rank(choice), tuple(choice.agents.values())))
    best = found[0]
    costs = TileCosts(graph, profiles, fixed_s or {}, PIECE_S)
    if tiling != "none" and strategy in TILED_STRATEGIES:
        edges = [agent for agent, tier in agents.items() if tier is Tier.EDGE and agent in profiles]
        tiles = _Tiles(costs, rates, edges, tiling, frozenset(untiled))

        def promised_s(route: dict[Tier, AgentId]) -> float:
            shared = {**profiles, route[Tier.EDGE]: tiles.shared_evenly(route[Tier.EDGE])}
            return _plan(graph, route, shared, rates, wanted).latency_s

        for route in _owner_routes([choice.agents for choice in found], tiles, promised_s):
            best = _tiled(best, route, tiles, wanted)
    best = msgspec.structs.replace(best, alone_s=_alone_s(best, costs, rates, allowed))
    if current is None:
        return best
    kept = _kept(current, costs, rates)
    if kept is None:
        return best
    outrun = not wanted.is_sustained(kept) and best.frames_per_s > kept.frames_per_s * RESERVE
    return msgspec.structs.replace(best, kept_s=kept.latency_s, outrun=outrun)


@dataclass(frozen=True)
class _Wanted:
    """What a plan is made for; `rate_per_s` includes the reserve."""

    strategy: str
    allowed: Mapping[str, Sequence[Tier]]
    current: Choice | None
    migration_cost_s: float
    rate_per_s: float | None

    def rank(self, choice: Choice) -> tuple[float, float]:
        """Less is better."""
        if self.rate_per_s is None:
            return choice.solution.cost_s, choice.latency_s
        if self.is_sustained(choice):
            return 0.0, choice.latency_s
        return 1 / choice.frames_per_s, choice.latency_s

    def is_sustained(self, choice: Choice) -> bool:
        return self.rate_per_s is None or choice.frames_per_s >= self.rate_per_s * (1 - _ROUNDING)

    def is_better(self, choice: Choice, other: Choice) -> bool:
        """Whether its frames are answered sooner; first of all, whether it keeps up with them better."""
        if self.rate_per_s is None:
            return choice.latency_s < other.latency_s
        return self.rank(choice) < self.rank(other)


#: Two ways to add up the seconds of a stage.
_ROUNDING = 1e-6


def _alone_s(
    choice: Choice,
    costs: TileCosts,
    rates: Mapping[tuple[AgentId, AgentId], LinkRate],
    allowed: Mapping[str, Sequence[Tier]],
) -> dict[Tier, float]:
    """Predicted latency of each of the plan's agents alone, but for tiers that a pin forbids."""
    names, found = list(costs.graph.index), {}
    for tier in choice.agents:
        if all(tier in tiers for name, tiers in allowed.items() if name != names[0]):
            plan = Plan((Tier.DEVICE, *[tier] * (len(names) - 1)))
            route = {t: a for t, a in choice.agents.items() if t.rank <= tier.rank}
            plan = msgspec.structs.replace(plan, direct=direct_values(costs.graph, plan.tiers, route, rates))
            found[tier] = timeline(costs.graph, plan, route, costs.times_s, rates).latency_s
    return found


def _kept(
    current: Choice, costs: TileCosts, rates: Mapping[tuple[AgentId, AgentId], LinkRate]
) -> Choice | None:
    """A plan that is there already, as it would go now; None where it cannot go on."""

    def seen(plan: Plan) -> Timeline:
        return timeline(costs.graph, plan, current.route, costs.times_s, rates, costs.tile_s, costs.piece_s)

    try:
        mix = tuple(Variant(v.plan, v.share, seen(v.plan)) for v in current.mix)
        return msgspec.structs.replace(current, timeline=seen(current.plan), mix=mix)
    except (PlanInfeasible, KeyError):
        return None


# ── tiles ─────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Tiles:
    """What is needed to share the edge's layers among edge agents."""

    costs: TileCosts
    rates: Mapping[tuple[AgentId, AgentId], LinkRate]
    edges: Sequence[AgentId]
    method: str
    untiled: frozenset[int]

    def alike(self, route: dict[Tier, AgentId], other: dict[Tier, AgentId]) -> bool:
        """Whether two routes differ by edge agents alone, and these by next to nothing."""
        ends = [{t: a for t, a in r.items() if t is not Tier.EDGE} for r in (route, other)]
        if ends[0] != ends[1]:  # of others the links need not be known
            return False
        here, there = route[Tier.EDGE], other[Tier.EDGE]
        pairs = [(sum(self.costs.times_s[here]), sum(self.costs.times_s[there]))]
        for end in ends[0].values():
            pairs += [
                (self.rates[way].bytes_per_s, self.rates[back].bytes_per_s)
                for way, back in (((end, here), (end, there)), ((here, end), (there, end)))
            ]
        return all(max(pair) <= _ALIKE * min(pair) for pair in pairs)

    def shared_evenly(self, owner: AgentId) -> tuple[float, ...]:
        """The owner's time per vertex if all edge agents shared all that can be tiled at no further cost."""
        times_s = list(self.costs.times_s[owner])
        for part in tileable_parts(self.costs.graph, set(range(len(times_s))) - self.untiled):
            for v in part.vertices:
                each_s = [self.costs.times_s[agent][v] for agent in self.edges]
                times_s[v] = 1 / sum(1 / t for t in each_s) if all(each_s) else 0.0
        return tuple(times_s)

    def of(
        self, vertices: Collection[int], owner: AgentId
    ) -> tuple[tuple[TiledBlock, ...], tuple[float, ...]]:
        """Tiles for the edge's `vertices`, and what they make of the owner's time per vertex."""
        from d3bed.plan.vsm.choose import choose_tiles  # here, so that importing the planner stays cheap

        graph, times_s = self.costs.graph, list(self.costs.times_s[owner])
        agents = [owner, *(agent for agent in self.edges if agent != owner)]
        blocks: list[TiledBlock] = []
        for part in tileable_parts(graph, set(vertices) - self.untiled):
            choice = choose_tiles(graph, part, agents, self.costs, self.rates, method=self.method)
            if choice.blocks:
                blocks += choice.blocks
                for v in part.vertices:
                    times_s[v] /= choice.speed_up
        return tuple(blocks), tuple(times_s)


def _owner_routes(
    routes: Sequence[dict[Tier, AgentId]],
    tiles: _Tiles,
    promised_s: Callable[[dict[Tier, AgentId]], float],
) -> list[dict[Tier, AgentId]]:
    """The routes whose edge agent is worth trying as the owner of tiles, the most promising first; of those
    that are as good as interchangeable, the first one given."""
    found: list[dict[Tier, AgentId]] = []
    for route in sorted((r for r in routes if Tier.EDGE in r), key=promised_s):
        if len(found) < _MOST_OWNERS and not any(tiles.alike(route, other) for other in found):
            found.append(next(r for r in routes if r == route or tiles.alike(r, route)))
    return found


def _tiled(
    untiled: Choice,
    route: dict[Tier, AgentId],
    tiles: _Tiles,
    wanted: _Wanted,
) -> Choice:
    """The better of the plan without tiles and one with them.

    The tier cut and the tiles depend on each other: the cut is made with the times that tiles of all layers
    would give, then the edge's share is tiled and the cut made anew, until it stays. The best one is kept.
    """
    graph, owner, best = tiles.costs.graph, route[Tier.EDGE], untiled
    _, times_s = tiles.of(range(1, len(graph.vertices)), owner)
    before: tuple[Tier, ...] = ()
    for _ in range(_MOST_ROUNDS):
        profiles = {**tiles.costs.times_s, owner: times_s}
        choice = _plan(graph, route, profiles, tiles.rates, wanted)
        if choice.plan.tiers == before:
            break
        before = choice.plan.tiers
        blocks, times_s = tiles.of(choice.plan.segment(Tier.EDGE), owner)
        plan = msgspec.structs.replace(choice.plan, tiles=blocks)
        seen = timeline(
            graph,
            plan,
            choice.agents,
            tiles.costs.times_s,
            tiles.rates,
            tiles.costs.tile_s,
            tiles.costs.piece_s,
        )
        tiled = msgspec.structs.replace(choice, plan=plan, timeline=seen, mix=())
        if blocks and wanted.is_better(tiled, best):
            best = tiled
    return best


# ── one choice of agents ──────────────────────────────────────────────────────────────────────────


def _plan(
    graph: Graph,
    route: dict[Tier, AgentId],
    profiles: Mapping[AgentId, Sequence[float]],
    rates: Mapping[tuple[AgentId, AgentId], LinkRate],
    wanted: _Wanted,
) -> Choice:
    """The plan for one choice of agents. HPA adjusts the one in force, if these agents carry it out."""
    current = wanted.current
    times_s = {tier: profiles[agent] for tier, agent in route.items()}
    hops = list(zip(route, list(route)[1:], strict=False))
    ends = (route[Tier.DEVICE], route.get(Tier.CLOUD))
    if len(route) == 3 and ends in rates and ends[::-1] in rates:
        hops.append((Tier.DEVICE, Tier.CLOUD))
    problem = Problem.from_graph(
        graph,
        times_s,
        {f"{here}-{there}": rates[route[here], route[there]] for here, there in hops},
        allowed=wanted.allowed,
        current=current.plan.tiers if current is not None else None,
        migration_cost_s=wanted.migration_cost_s,
        rate_per_s=wanted.rate_per_s,
        where=graph.model,
    )

    def planned(tiers: tuple[Tier, ...]) -> tuple[Plan, Timeline]:
        plan = Plan(tiers, direct=direct_values(graph, tiers, route, rates))
        return plan, timeline(graph, plan, route, profiles, rates)

    in_force = current if current is not None and current.agents == route else None
    adjustment, variants = None, []
    try:
        if problem.rate_per_s is not None and problem.rate_per_s > (most := most_per_s(problem)):
            # Strategies would find that out as well; to prove it takes some of them seconds.
            raise PlanInfeasible("stream", f"no plan sustains {problem.rate_per_s:g} frames/s, but {most:g}")
        if wanted.strategy == "hpa" and in_force is not None:
            solution, adjustment = _adjusted(problem, in_force)
        else:
            solution = solve(problem, wanted.strategy)
    except PlanInfeasible:
        if problem.rate_per_s is None:
            raise
        problem = msgspec.structs.replace(problem, rate_per_s=None)
        mixing = wanted.strategy in MIXING_STRATEGIES
        solution = solve(problem, wanted.strategy, "latency" if mixing else "throughput")
        if mixing:
            from d3bed.plan.mix import best_mix  # here, so that importing the planner stays cheap

            mix = best_mix(problem, single=False)
            shares = sorted(zip(mix.shares, mix.plans, strict=True), reverse=True)
            variants = [(share, *planned(tiers)) for share, tiers in shares]
    plan, seen = variants[0][1:] if variants else planned(solution.tiers)
    last = max(tier.rank for used in (plan, *(v[1] for v in variants)) for tier in used.tiers)
    needed = {tier: agent for tier, agent in route.items() if tier.rank <= last}
    return Choice(
        plan,
        needed,
        problem,
        solution,
        seen,
        agents=route,
        adjustment=adjustment,
        mix=tuple(Variant(plan, share, seen) for share, plan, seen in variants if len(variants) > 1),
    )


def _adjusted(problem: Problem, in_force: Choice) -> tuple[Solution, Adjustment]:
    began_s = time.perf_counter()
    found = adjust(problem, in_force.plan.tiers, in_force.problem)
    taken_s = time.perf_counter() - began_s
    return Solution("hpa", found.tiers, found.cost_s, taken_s, link_bytes(problem, found.tiers)), found


def _distinct(
    routes: Iterator[dict[Tier, AgentId]],
    profiles: Mapping[AgentId, Sequence[float]],
    rates: Mapping[tuple[AgentId, AgentId], LinkRate],
    current: Choice | None,
) -> Iterator[dict[Tier, AgentId]]:
    """Without those that are, number by number, like one before, unless they are in force."""
    seen = set()
    for route in routes:
        pairs = [(a, b) for a in route.values() for b in route.values()]
        numbers = (*(tuple(profiles[a]) for a in route.values()), *(rates.get(pair) for pair in pairs))
        if numbers not in seen or (current is not None and route == current.agents):
            yield route
        seen.add(numbers)


def _routes(
    device: AgentId,
    profiles: Mapping[AgentId, Sequence[float]],
    agents: Mapping[AgentId, Tier],
    rates: Mapping[tuple[AgentId, AgentId], LinkRate],
) -> Iterator[dict[Tier, AgentId]]:
    """Every way of choosing agents: an edge and a cloud behind it, as far as measured links reach."""

    def beyond(here: AgentId, tier: Tier) -> list[AgentId]:
        return sorted(
            agent
            for agent, on in agents.items()
            if on is tier and agent in profiles and (here, agent) in rates and (agent, here) in rates
        )

    edges = beyond(device, Tier.EDGE)
    for edge in edges:
        clouds = beyond(edge, Tier.CLOUD)
        for cloud in clouds:
            yield {Tier.DEVICE: device, Tier.EDGE: edge, Tier.CLOUD: cloud}
        if not clouds:
            yield {Tier.DEVICE: device, Tier.EDGE: edge}
    if not edges:
        clouds = beyond(device, Tier.CLOUD)
        for cloud in clouds:
            yield {Tier.DEVICE: device, Tier.CLOUD: cloud}
        if not clouds:
            yield {Tier.DEVICE: device}
