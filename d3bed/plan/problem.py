"""The planning problem, its file form and its cost.

A problem is what every strategy decides over: seconds per vertex and tier, bytes per tensor, links.
This module gives a plan's cost *by definition*; strategies may compute it any way they like, but
what they return is judged here. It reads and writes `d3bed.problem/1` (JSON) and says exactly what
is wrong with a file. It must not know how plans are found, what a tensor is, or who runs anything.

Rules of the cost. Every vertex costs its time on its tier. A tensor crosses each link at most once,
however many vertices need it; a crossing costs `latency_s + bytes / bytes_per_s`. From device to
cloud it is relayed by the edge, or goes directly where that is cheaper in total. The result comes
back once, from the latest tier that holds a vertex without successors. Every vertex moved away from
`current` costs `migration_cost_s`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property

import msgspec

from d3bed.core.errors import PlanInfeasible, ProblemError
from d3bed.core.graph import Graph
from d3bed.core.ids import TIERS, Tier
from d3bed.core.measurements import LinkRate
from d3bed.plan import problem_file

__all__ = [
    "DEVICE_CLOUD",
    "DEVICE_EDGE",
    "EDGE_CLOUD",
    "Problem",
    "check_limits",
    "cost_s",
    "link_bytes",
    "loads_s",
    "most_per_s",
    "result_way",
    "round_down",
    "tensor_ways",
]

DEVICE_EDGE, EDGE_CLOUD, DEVICE_CLOUD = problem_file.LINKS
_DEVICE, _EDGE, _CLOUD = (tier.rank for tier in TIERS)

#: Relative slack in comparing a sum of floats with a limit.
_SLACK = 1e-9


class Problem(msgspec.Struct, frozen=True, dict=True):
    """One planning problem. Numbers per vertex are in vertex order; vertex 0 is the input.

    `times_s` has exactly the tiers that exist; `links` those of `device-edge`, `edge-cloud` and
    `device-cloud` that exist. `allowed` limits the tiers of the vertices it names. `current`,
    `memory_bytes` and `rate_per_s` are as in the file form; None and empty mean no such limit.
    Make one by `parse` or `from_graph`: both check it.
    """

    names: tuple[str, ...]
    times_s: dict[Tier, tuple[float, ...]]
    output_bytes: tuple[float, ...]
    edges: tuple[tuple[int, int], ...]
    links: dict[str, LinkRate]
    result_bytes: float = 0
    allowed: dict[str, tuple[Tier, ...]] = {}
    current: dict[str, Tier] = {}
    migration_cost_s: float = 0.0
    weight_bytes: tuple[float, ...] = ()
    memory_bytes: dict[Tier, float] = {}
    rate_per_s: float | None = None

    @classmethod
    def parse(cls, text: str, where: str = "problem") -> Problem:
        """Read the file form; `where` names the file in errors. Raises `ProblemError`."""
        form = problem_file.decode(text, where)
        links = {name: LinkRate(link.bytes_per_s, link.latency_s) for name, link in form.links.items()}
        problem = cls(
            names=tuple(v.name for v in form.vertices),
            times_s={
                tier: tuple(v.time_s.get(tier) or 0.0 for v in form.vertices)
                for tier in form.vertices[0].time_s.present
            },
            output_bytes=tuple(v.output_bytes for v in form.vertices),
            edges=tuple(sorted(set(form.edges))),
            links=links,
            result_bytes=form.result_bytes,
            allowed={name: tuple(Tier(t) for t in tiers) for name, tiers in form.allowed_tiers.items()},
            current={name: Tier(tier) for name, tier in form.current.items()},
            migration_cost_s=form.migration_cost_s,
            weight_bytes=tuple(v.weight_bytes for v in form.vertices),
            memory_bytes={tier: form.memory_bytes[tier] for tier in form.memory_bytes.present},
            rate_per_s=form.rate_per_s,
        )
        problem.check(where)
        return problem

    @classmethod
    def from_graph(
        cls,
        graph: Graph,
        times_s: Mapping[Tier, Sequence[float]],
        links: Mapping[str, LinkRate],
        *,
        allowed: Mapping[str, Sequence[Tier]] | None = None,
        current: Sequence[Tier] | None = None,
        migration_cost_s: float = 0.0,
        memory_bytes: Mapping[Tier, float] | None = None,
        rate_per_s: float | None = None,
        where: str = "graph",
    ) -> Problem:
        """The problem of placing `graph`; tiers are those of `times_s`. Raises `ProblemError`.

        A vertex with several outputs counts as one tensor of all that leaves it, so where its
        outputs go to different tiers the cost is an upper bound; `timeline` looks at each value.
        """
        names = tuple(vertex.name for vertex in graph.vertices)
        problem = cls(
            names=names,
            times_s={tier: tuple(times_s[tier]) for tier in TIERS if tier in times_s},
            output_bytes=graph.output_bytes,
            edges=tuple(sorted({(edge.producer, edge.consumer) for edge in graph.edges})),
            links=dict(links),
            result_bytes=graph.result_bytes,
            allowed={name: tuple(tiers) for name, tiers in (allowed or {}).items()},
            current=dict(zip(names, current, strict=True)) if current is not None else {},
            migration_cost_s=migration_cost_s,
            weight_bytes=tuple(vertex.weight_bytes for vertex in graph.vertices),
            memory_bytes=dict(memory_bytes or {}),
            rate_per_s=rate_per_s,
        )
        problem.check(where)
        return problem

    def encode(self) -> str:
        """The file form; `parse` inverts it."""
        form = problem_file.File(
            format=problem_file.FORMAT,
            vertices=tuple(
                problem_file.FileVertex(
                    name=name,
                    time_s=problem_file.PerTier.of({tier: t[v] for tier, t in self.times_s.items()}),
                    output_bytes=self.output_bytes[v],
                    weight_bytes=self.weights[v],
                )
                for v, name in enumerate(self.names)
            ),
            edges=self.edges,
            links={n: problem_file.FileLink(r.bytes_per_s, r.latency_s) for n, r in self.links.items()},
            result_bytes=self.result_bytes,
            current={name: tier.value for name, tier in self.current.items()},
            migration_cost_s=self.migration_cost_s,
            allowed_tiers={name: tuple(t.value for t in tiers) for name, tiers in self.allowed.items()},
            memory_bytes=problem_file.PerTier.of(self.memory_bytes),
            rate_per_s=self.rate_per_s,
        )
        return problem_file.encode(form)

    # ── derived ───────────────────────────────────────────────────────────────────────────────────

    @property
    def tiers(self) -> tuple[Tier, ...]:
        """The tiers that exist."""
        return tuple(tier for tier in TIERS if tier in self.times_s)

    @cached_property
    def weights(self) -> tuple[float, ...]:
        """Weight bytes per vertex."""
        return self.weight_bytes or (0,) * len(self.names)

    @cached_property
    def predecessors(self) -> tuple[tuple[int, ...], ...]:
        found: list[list[int]] = [[] for _ in self.names]
        for producer, consumer in self.edges:
            found[consumer].append(producer)
        return tuple(map(tuple, found))

    @cached_property
    def successors(self) -> tuple[tuple[int, ...], ...]:
        found: list[list[int]] = [[] for _ in self.names]
        for producer, consumer in self.edges:
            found[producer].append(consumer)
        return tuple(map(tuple, found))

    @cached_property
    def sinks(self) -> tuple[int, ...]:
        """Vertices without successors: where the result is made."""
        return tuple(v for v, after in enumerate(self.successors) if not after)

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Vertices in a topological order; shorter than the graph if it has a cycle."""
        missing = [len(before) for before in self.predecessors]
        ready = [v for v, count in enumerate(missing) if not count]
        for v in ready:
            for after in self.successors[v]:
                missing[after] -= 1
                if not missing[after]:
                    ready.append(after)
        return tuple(ready)

    @cached_property
    def allowed_ranks(self) -> tuple[tuple[int, ...], ...]:
        """Ranks of the tiers that each vertex may be on, ascending; the input's is the device."""
        every = tuple(tier.rank for tier in self.tiers)
        found = [every] * len(self.names)
        number = {name: v for v, name in enumerate(self.names)} if self.allowed else {}
        for name, tiers in self.allowed.items():
            found[number[name]] = tuple(sorted({t.rank for t in tiers} & set(every)))
        found[0] = tuple(rank for rank in found[0] if rank == _DEVICE)
        return tuple(found)

    def transfer_s(self, link: str, size_bytes: float) -> float:
        rate = self.links[link]
        return rate.latency_s + size_bytes / rate.bytes_per_s

    # ── checks ────────────────────────────────────────────────────────────────────────────────────

    def check(self, where: str) -> None:
        """Raise `ProblemError` naming vertex and key unless all rules of the file form hold."""
        problem_file.check_numbers(self, where)
        problem_file.check_links(self.tiers, self.links, where)
        problem_file.check_names(self, where)
        count = len(self.names)
        for number, (producer, consumer) in enumerate(self.edges):
            if not (0 <= producer < count and 0 <= consumer < count):
                raise ProblemError(
                    where, f"edges[{number}]", f"[{producer}, {consumer}] is not a vertex pair"
                )
        if self.predecessors[0]:
            source = self.names[self.predecessors[0][0]]
            raise ProblemError(where, f"edges into {self.names[0]}", f"the input has a predecessor, {source}")
        for v, before in enumerate(self.predecessors):
            if v and not before:
                raise ProblemError(
                    where,
                    f"vertices[{v}] ({self.names[v]})",
                    "is a second source: only vertex 0, the input, may have no predecessor",
                    "add an edge into it",
                )
        if len(self.order) < count:
            stuck = sorted(set(range(count)) - set(self.order))
            names = ", ".join(self.names[v] for v in stuck[:5]) + (", …" if len(stuck) > 5 else "")
            raise ProblemError(where, "edges", f"there is a cycle in or before {names}")
        if self.allowed:
            self._check_allowed(where)

    def _check_allowed(self, where: str) -> None:
        lowest = [0] * len(self.names)
        for v in self.order:
            key = f"allowed_tiers ({self.names[v]})"
            if not self.allowed_ranks[v]:
                wanted = "the input stays on the device" if v == 0 else "no tier that exists is allowed"
                raise ProblemError(where, key, wanted, f"tiers here: {', '.join(self.tiers)}")
            floor = max((lowest[p] for p in self.predecessors[v]), default=0)
            fitting = [rank for rank in self.allowed_ranks[v] if rank >= floor]
            if not fitting:
                before = next(self.names[p] for p in self.predecessors[v] if lowest[p] == floor)
                raise ProblemError(
                    where,
                    key,
                    f"data would flow back: {before} can be no earlier than on the {TIERS[floor]}",
                    f"allow {self.names[v]} on the {TIERS[floor]}, or {before} earlier",
                )
            lowest[v] = fitting[0]


# ── cost by definition ────────────────────────────────────────────────────────────────────────────


def tensor_ways(problem: Problem, v: int) -> tuple[bool, bool]:
    """Whether a tensor of device vertex `v` goes to the cloud directly: (cloud only, edge as well)."""
    if DEVICE_CLOUD not in problem.links:
        return False, False
    if EDGE_CLOUD not in problem.links:
        return True, True
    size = problem.output_bytes[v]
    direct, onward = problem.transfer_s(DEVICE_CLOUD, size), problem.transfer_s(EDGE_CLOUD, size)
    return direct < onward + problem.transfer_s(DEVICE_EDGE, size), direct < onward


def result_way(problem: Problem, tier: Tier) -> tuple[str, ...]:
    """The links that the result crosses on its way back from `tier`, the cheaper way."""
    if not problem.result_bytes or tier is Tier.DEVICE:
        return ()
    if tier is Tier.EDGE:
        return (DEVICE_EDGE,)
    ways = [(EDGE_CLOUD, DEVICE_EDGE), (DEVICE_CLOUD,)]
    open_ways = [way for way in ways if all(link in problem.links for link in way)]
    return min(open_ways, key=lambda way: sum(problem.transfer_s(link, problem.result_bytes) for link in way))


def crossings(problem: Problem, tiers: Sequence[Tier]) -> dict[str, list[int]]:
    """For each link, the vertices whose tensor crosses it. Raises `ValueError` if data flows back."""
    rank = [tier.rank for tier in tiers]
    found: dict[str, list[int]] = {link: [] for link in problem.links}
    for v, after in enumerate(problem.successors):
        here = rank[v]
        if here == _CLOUD or not after:
            if any(rank[c] < here for c in after):
                raise ValueError(f"{problem.names[v]}: data flows back toward the device")
            continue
        goals = {rank[c] for c in after}
        if min(goals) < here:
            raise ValueError(f"{problem.names[v]}: data flows back toward the device")
        if goals == {here}:
            continue
        if here == _EDGE:
            found[EDGE_CLOUD].append(v)
            continue
        to_edge = _EDGE in goals
        if _CLOUD in goals:
            direct = tensor_ways(problem, v)[to_edge]
            found[DEVICE_CLOUD if direct else EDGE_CLOUD].append(v)
            to_edge = to_edge or not direct
        if to_edge:
            found[DEVICE_EDGE].append(v)
    return found


def cost_s(problem: Problem, tiers: Sequence[Tier]) -> float:
    """Seconds that one frame costs under `tiers`, by the rules above. Raises `ValueError`."""
    total = sum(problem.times_s[tier][v] for v, tier in enumerate(tiers))
    for link, producers in crossings(problem, tiers).items():
        total += sum(problem.transfer_s(link, problem.output_bytes[v]) for v in producers)
    latest = max((tiers[v] for v in problem.sinks), key=lambda tier: tier.rank)
    total += sum(problem.transfer_s(link, problem.result_bytes) for link in result_way(problem, latest))
    if problem.current:
        moved = sum(
            problem.current.get(name, tier) is not tier
            for name, tier in zip(problem.names, tiers, strict=True)
        )
        total += moved * problem.migration_cost_s
    return total


def link_bytes(problem: Problem, tiers: Sequence[Tier]) -> dict[str, int]:
    """Bytes per link for one frame, both directions, the result's way back included."""
    total = {
        link: sum(problem.output_bytes[v] for v in producers)
        for link, producers in crossings(problem, tiers).items()
    }
    latest = max((tiers[v] for v in problem.sinks), key=lambda tier: tier.rank)
    for link in result_way(problem, latest):
        total[link] += problem.result_bytes
    return {link: round(size) for link, size in total.items()}


def loads_s(problem: Problem, tiers: Sequence[Tier]) -> dict[str, float]:
    """Seconds that one frame keeps each tier and each link busy: what limits a stream's rate."""
    found = {
        tier.value: sum(times[v] for v, t in enumerate(tiers) if t is tier)
        for tier, times in problem.times_s.items()
    }
    for link, producers in crossings(problem, tiers).items():
        found[link] = sum(problem.output_bytes[v] for v in producers) / problem.links[link].bytes_per_s
    return found


def most_per_s(problem: Problem) -> float:
    """No plan, and no mix of plans, sustains more frames per second; a bound that is quick, and not sharp.

    At any prices of the tiers' time that add up to 1, the busiest tier works at least what a frame costs, and
    that is at least what its vertices cost on their cheapest tiers. Prices here: the less, the more a tier
    would work if it did all.
    """
    totals_s = [sum(times) for times in problem.times_s.values()]
    if min(totals_s) <= 0:
        return math.inf
    prices = [1 / total_s for total_s in totals_s]
    rows = [[price * t for t in times] for price, times in zip(prices, problem.times_s.values(), strict=True)]
    least = sum(min(costs) for costs in zip(*rows, strict=True))
    return sum(prices) / least if least > 0 else math.inf


def check_limits(problem: Problem, tiers: Sequence[Tier]) -> None:
    """Raise `PlanInfeasible` if this plan breaks a memory or rate limit, naming the stage."""
    for tier, limit in problem.memory_bytes.items():
        used = sum(problem.weights[v] for v, t in enumerate(tiers) if t is tier)
        if used > limit * (1 + _SLACK):
            raise PlanInfeasible(tier, f"weights of {used:.0f} bytes exceed memory_bytes {limit:.0f}")
    if problem.rate_per_s is not None:
        loads = loads_s(problem, tiers)
        stage = max(loads, key=lambda name: loads[name])
        if loads[stage] * problem.rate_per_s > 1 + _SLACK:
            raise PlanInfeasible(
                stage,
                f"busy for {loads[stage]:.6g} s a frame, too long for rate_per_s {problem.rate_per_s:.6g}; "
                f"the highest rate that would do is {round_down(1 / loads[stage])} frames/s",
            )


def round_down(number: float, digits: int = 6) -> str:
    """The number in so many significant digits, never above it: a limit that may be used as printed."""
    if not math.isfinite(number) or number <= 0:
        return str(number)
    step = 10.0 ** (math.floor(math.log10(number)) - digits + 1)
    return f"{math.floor(number / step) * step:.{digits}g}"
