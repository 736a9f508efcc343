"""How it grows: `d3bed compare --scale`, planned from profiles alone.

Five sweeps, each with everything else as on the testbed: edge agents 1 to 8; the frame rate up to where
nothing keeps up; devices 1 to 8 that share the edge agents and the cloud; the backbone's rate from 0.5 to
1,000 Mbit/s, both directions; and made graphs of up to 10,000 vertices, of which planning alone is timed.

Devices that share are counted with as many times slower edge and cloud agents and backbone: fair shares at
full load. Each keeps its own way to the edge. A crossing lies between two neighbouring points of a sweep.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec

from d3bed.bench.compare.grid import Row, ways
from d3bed.bench.compare.predict import Case, predicted
from d3bed.bench.plan import made_graph
from d3bed.core.errors import PlanInfeasible
from d3bed.core.ids import Tier
from d3bed.core.measurements import LinkRate
from d3bed.plan import Problem, solve

__all__ = [
    "SWEEPS",
    "Crossing",
    "Piece",
    "Point",
    "Scale",
    "Timing",
    "crossings",
    "done_json",
    "pieces",
    "read_done",
]

Sweep = Literal["edges", "rate", "devices", "backbone"]
SWEEPS: dict[str, str] = {
    "edges": "edge agents",
    "rate": "frames a second",
    "devices": "devices",
    "backbone": "backbone, Mbit/s",
}

_SINGLES = ways(("device", "edge", "cloud", "neurosurgeon", "dads", "optimal", "optimal+vsm"))
_STREAMS = ways(("edge", "cloud", "dads", "optimal", "optimal+vsm"))

#: Steps of the backbone's rate to a factor of ten; of the frame rate, up to what share of all compute.
_PER_DECADE, _RATES, _MOST = 12, 16, 0.6
SIZES = (100, 300, 1000, 3000, 10_000)
_TIMED = ("optimal", "hpa", "layers", "neurosurgeon", "dads")
_REPEATS = 3


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """One point of a sweep: a case, changed; or a made graph of `x` vertices."""

    sweep: str
    model: str
    x: float
    case: Case | None = None


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """`latency_s` is of one frame, at the sweep's frame rate if it has one; `per_s` what is sustained, by all
    devices together."""

    sweep: str
    model: str
    x: float
    way: str
    latency_s: float | None = None
    per_s: float | None = None
    plan: str = ""
    words: str = ""


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Median seconds of planning a made graph anew; null where it was not tried."""

    vertices: int
    edges: int
    strategy: str
    plan_s: float


class Crossing(msgspec.Struct, frozen=True, kw_only=True):
    """Between two values the plan of a way becomes another one."""

    sweep: str
    model: str
    way: str
    low: float
    high: float
    before: str
    after: str


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """`scale.json`."""

    format: str = "d3bed.compare.scale/1"
    network: str
    edges: int
    machine: dict[str, Any]
    points: tuple[Point, ...]
    timings: tuple[Timing, ...]
    crossings: tuple[Crossing, ...]
    taken_s: float


class _Done(msgspec.Struct, frozen=True):
    points: tuple[Point, ...] = ()
    timings: tuple[Timing, ...] = ()


def pieces(cases: Sequence[Case], all_edges: Sequence[Case]) -> list[Piece]:
    """All points of all sweeps. `cases`: one per model, with the edge agents that were asked for;
    `all_edges`: with as many as the testbed has."""
    found = [Piece(sweep="size", model="made", x=size) for size in SIZES]
    for case, full in zip(cases, all_edges, strict=True):
        for sweep, made in (
            ("edges", _edges(full)),
            ("rate", _rates(case)),
            ("devices", _devices(case)),
            ("backbone", _backbones(case)),
        ):
            found += [Piece(sweep=sweep, model=case.model, x=x, case=changed) for x, changed in made]
    return found


def _edges(case: Case) -> Iterator[tuple[float, Case]]:
    replace = msgspec.structs.replace
    names = [agent for agent, tier in case.agents.items() if tier is Tier.EDGE]
    for count in range(1, len(names) + 1):
        gone = set(names[count:])
        agents = {agent: tier for agent, tier in case.agents.items() if agent not in gone}
        speeds = {agent: speed for agent, speed in case.speeds.items() if agent not in gone}
        yield count, replace(case, agents=agents, speeds=speeds, ways=_SINGLES, singles=True, streams=False)


def _rates(case: Case) -> Iterator[tuple[float, Case]]:
    """Up to a share of what all agents together could do, if nothing else took time."""
    alone_s = sum(case.times_s)
    most = sum(speed / alone_s for speed in case.speeds.values())
    for step in range(1, _RATES + 1):
        rate = _MOST * most * step / _RATES
        yield rate, msgspec.structs.replace(case, ways=_STREAMS, singles=False, streams=True, rate_per_s=rate)


def _devices(case: Case) -> Iterator[tuple[float, Case]]:
    for count in range(1, 9):
        speeds = {
            agent: speed if case.agents[agent] is Tier.DEVICE else speed / count
            for agent, speed in case.speeds.items()
        }
        rates = {
            pair: LinkRate(rate.bytes_per_s / count, rate.latency_s) if "cloud" in pair else rate
            for pair, rate in case.rates.items()
        }
        yield (
            count,
            msgspec.structs.replace(
                case, speeds=speeds, rates=rates, ways=_STREAMS, singles=False, streams=True
            ),
        )


def _backbones(case: Case) -> Iterator[tuple[float, Case]]:
    low, high = 0.5, 1000.0
    steps = round(_PER_DECADE * 3.3)
    for step in range(steps + 1):
        mbit = low * (high / low) ** (step / steps)
        rates = {
            pair: LinkRate(mbit * 1e6 / 8, rate.latency_s) if pair in ("edge-cloud", "cloud-edge") else rate
            for pair, rate in case.rates.items()
        }
        yield mbit, msgspec.structs.replace(case, rates=rates, ways=_SINGLES, singles=True, streams=False)


def done_json(piece: bytes) -> bytes:
    """The points or timings of one piece, for another process."""
    what = msgspec.json.decode(piece, type=Piece)
    if what.case is None:
        return msgspec.json.encode(_Done(timings=tuple(_timed(round(what.x)))))
    rows = [row for row in predicted(what.case) if not row.refused]
    return msgspec.json.encode(_Done(points=tuple(_point(what, row) for row in rows)))


def read_done(done: bytes) -> tuple[tuple[Point, ...], tuple[Timing, ...]]:
    found = msgspec.json.decode(done, type=_Done)
    return found.points, found.timings


def _point(piece: Piece, row: Row) -> Point:
    found = Point(sweep=piece.sweep, model=piece.model, x=piece.x, way=row.way.name)
    if row.single is not None:
        single = row.single
        words = " · ".join(str(single.vertices.get(tier, 0)) for tier in Tier)
        if single.tiles:
            words += f", {single.tiles} blocks in tiles"
        return msgspec.structs.replace(found, latency_s=single.latency_s, plan=single.plan, words=words)
    assert row.stream is not None
    devices = piece.x if piece.sweep == "devices" else 1.0
    one = ", ".join(" ".join(line.split()) for line in _tiers(row.stream.plan))
    words = one if row.stream.plans == 1 else f"{row.stream.plans} plans in turn"
    return msgspec.structs.replace(
        found,
        latency_s=row.stream.alone_s,
        per_s=row.stream.predicted_per_s * devices,
        plan=row.stream.plan,
        words=words,
    )


def _timed(size: int) -> Iterator[Timing]:
    """Planning, building of the problem's tables included, on the three tiers of a middling setting."""
    graph = made_graph(size, 1)
    slower = {Tier.DEVICE: 1.4, Tier.EDGE: 1.2, Tier.CLOUD: 1.0}
    times_s = {tier: tuple(v.flops * 2e-11 * f for v in graph.vertices) for tier, f in slower.items()}
    links = {"device-edge": LinkRate(1e8, 0.001), "edge-cloud": LinkRate(5e7, 0.005)}
    problem = Problem.from_graph(graph, times_s, links)
    solve(msgspec.structs.replace(problem), "optimal")  # loads SciPy
    for strategy in _TIMED:
        taken_s = []
        for _ in range(_REPEATS):
            fresh = msgspec.structs.replace(problem)
            began_s = time.perf_counter()
            try:
                solve(fresh, strategy)
            except PlanInfeasible:
                break
            taken_s.append(time.perf_counter() - began_s)
        if taken_s:
            yield Timing(
                vertices=size,
                edges=len(graph.edges),
                strategy=strategy,
                plan_s=statistics.median(taken_s),
            )


def crossings(points: Sequence[Point]) -> list[Crossing]:
    """Where plans change along a sweep: what runs on which tier, and in how many plans; tiles alone do not
    count."""
    found = []
    by_line: dict[tuple[str, str, str], list[Point]] = {}
    for point in points:
        by_line.setdefault((point.sweep, point.model, point.way), []).append(point)
    for (sweep, model, way), line in by_line.items():
        ordered = sorted(line, key=lambda point: point.x)
        for before, after in itertools.pairwise(ordered):
            if _tiers(before.plan) != _tiers(after.plan):
                found.append(
                    Crossing(
                        sweep=sweep,
                        model=model,
                        way=way,
                        low=before.x,
                        high=after.x,
                        before=before.words,
                        after=after.words,
                    )
                )
    return found


def _tiers(plan: str) -> list[str]:
    return [line for line in plan.splitlines() if not line.startswith("tiles")]
