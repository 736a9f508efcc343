"""How good exact plans are to have: time against the graph's size, limits, frame rates and mixes.

A run builds the problem from a graph, finds its minimum cut and judges the plan by definition: all that
the server does between a measurement and a decision. Graphs: Inception-v4 as exported from the model
(or, without torch, a made graph of about its size, and the label says so), and made graphs of up to
10,000 vertices in the same style. Vertex times are made, from FLOPs and a random factor per vertex and
tier; they decide how hard the cut is and stand for no machine. Some settings end on a single tier, as
real profiles mostly do, others have mixed optima.

The same settings with limits on memory or frame rate, or with a direct device-cloud link, are planned
fast and again by mixed-integer program (HiGHS), side by side; then the highest frame rate of one plan
against that of the best mix of plans.
"""

from __future__ import annotations

import json
import math
import os
import platform
import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from rich import box
from rich.console import Console
from rich.table import Table

from d3bed.core.errors import ModelError
from d3bed.core.graph import Edge, Graph, TensorSpec, Value, Vertex
from d3bed.core.ids import TIERS, Tier
from d3bed.core.measurements import LinkRate
from d3bed.core.messages import ModelSpec
from d3bed.plan import Problem, cost_s, loads_s, solve
from d3bed.plan.milp import mixed_integer
from d3bed.plan.mix import best_mix, highest_rate
from d3bed.plan.optimal import proven

__all__ = ["growth_svg", "made_graph", "run"]

#: Targets for the median of settings, each of which is a median of runs.
TARGET_S = {"inception_v4": 0.003, "1,000": 0.015, "10,000": 0.3}
#: With limits: seconds, and the gap that is proven.
LIMITED_TARGET_S, LIMITED_TARGET_GAP = 0.020, 0.01
REPEATS = 31
#: The sizes of made graphs whose times show how planning grows.
SIZES = (100, 200, 500, 1000, 2000, 5000, 10_000)
#: The seed of the made graph of each size.
SEED = 1

#: Seconds per FLOP in the cloud, and seconds that every vertex takes beside its FLOPs.
_FLOP_S, _OVERHEAD_S = 2e-11, 2e-5

#: Name, how many times slower device and edge are than the cloud, and the standard deviation of the
#: logarithm of a random factor per vertex and tier.
_PROFILES = (
    ("tiers 12 : 2.4 : 1", 12.0, 2.4, 0.3),
    ("tiers 1.4 : 1.2 : 1", 1.4, 1.2, 0.5),
    ("tiers alike, vertices wild", 1.0, 1.0, 1.5),
)
#: Name, device–edge and edge–cloud in Mbit/s, one-way latency in seconds.
_LINKS = (
    ("slow backbone", 80.0, 1.5, 0.010),
    ("Wi-Fi", 80.0, 12.0, 0.005),
    ("LAN", 940.0, 100.0, 0.001),
    ("10 Gbit/s", 10_000.0, 10_000.0, 0.0),
    ("100 Gbit/s", 100_000.0, 100_000.0, 0.0),
)


def run(json_path: Path | None, console: Console) -> dict[str, Any]:
    """Measure, print and optionally write the figures, and their plot beside them. Returns them."""
    name, graph = _inception()
    graphs = [_measure(name, graph, TARGET_S["inception_v4"], REPEATS)]
    console.print(_table(graphs[0]))
    growth = []
    for size in SIZES:
        label = f"{size:,}"
        made = made_graph(size, SEED)
        measured = _measure(f"made, {label} vertices", made, TARGET_S.get(label), _repeats(size))
        growth.append(measured)
        if label in TARGET_S:
            graphs.append(measured)
            console.print(_table(measured))
    console.print(_growth_table(growth))
    limits = _limits(graph)
    console.print(_limits_table(name, limits))
    rates = _rates(graph)
    console.print(_rates_table(name, rates))
    result: dict[str, Any] = {
        "format": "d3bed.bench.plan/2",
        "machine": {
            "cpus": os.cpu_count(),
            "architecture": platform.machine(),
            "python": platform.python_version(),
            "load_average": os.getloadavg()[0],
        },
        "repeats": REPEATS,
        "graphs": graphs,
        "growth": [{key: row[key] for key in _GROWTH_KEYS} for row in growth],
        "limits": limits,
        "rates": rates,
        "met": all(measured["met"] for measured in (*graphs, limits)),
    }
    console.print(
        f"load average of this machine: {result['machine']['load_average']:.1f} on {os.cpu_count()} CPUs"
    )
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=1) + "\n")
        plot = json_path.with_suffix(".svg")
        plot.write_text(growth_svg(result["growth"]))
        console.print(f"growth is plotted in {plot}")
    return result


_GROWTH_KEYS = ("vertices", "edges", "fastest_median_s", "median_s", "slowest_median_s")


def _repeats(size: int) -> int:
    """Fewer runs of what takes long."""
    return max(5, min(REPEATS, 10_000 // size))


def _inception() -> tuple[str, Graph]:
    """The exported network, or a made graph where the model cannot be had."""
    try:
        from d3bed.model import load
    except ImportError:
        return "made, of about Inception-v4's size (no torch here)", made_graph(195, seed=4)
    try:
        return "inception_v4, exported", load(ModelSpec("inception_v4")).graph
    except ModelError as error:
        return f"made, of about Inception-v4's size ({error})", made_graph(195, seed=4)


def made_graph(count: int, seed: int) -> Graph:
    """A DAG of `count` vertices in modules of four branches that join, tensors shrinking on the way."""
    rng = random.Random(seed)
    edges: list[tuple[int, int]] = []
    last, v = 0, 1
    while v < count:
        ends = []
        for _ in range(4):
            tip = last
            for _ in range(rng.randint(1, 3)):
                if v < count - 1:
                    edges.append((tip, v))
                    tip, v = v, v + 1
            ends.append(tip)
        edges += [(tip, v) for tip in sorted(set(ends))]
        last, v = v, v + 1
    vertices = [Vertex("input", "input", (TensorSpec((1, 3, 299, 299), "uint8"),))]
    for number in range(1, count):
        side = max(8, round(149 * 0.985 ** (number * 195 / count)))
        spec = TensorSpec((1, rng.choice([32, 64, 96, 192]), side, side), "float32")
        vertices.append(Vertex(f"v{number}", "conv2d", (spec,), flops=round(rng.lognormvariate(18.3, 0.8))))
    graph = Graph(
        f"made-{count}", tuple(vertices), tuple(Edge(a, b) for a, b in sorted(edges)), (Value(count - 1),)
    )
    graph.check()
    return graph


def _settings(
    graph: Graph,
) -> Iterator[tuple[str, dict[Tier, tuple[float, ...]], dict[str, LinkRate]]]:
    for profile_name, device, edge, spread in _PROFILES:
        rng = random.Random(profile_name)
        slower = {Tier.DEVICE: device, Tier.EDGE: edge, Tier.CLOUD: 1.0}
        times_s = {
            tier: tuple(
                (vertex.flops * _FLOP_S + _OVERHEAD_S) * factor * rng.lognormvariate(0, spread) if v else 0.0
                for v, vertex in enumerate(graph.vertices)
            )
            for tier, factor in slower.items()
        }
        for link_name, near, far, latency_s in _LINKS:
            rates = {"device-edge": near, "edge-cloud": far}
            links = {link: LinkRate(rate * 1e6 / 8, latency_s) for link, rate in rates.items()}
            yield f"{profile_name}, {link_name}", times_s, links


def _measure(name: str, graph: Graph, target_s: float | None, repeats: int) -> dict[str, Any]:
    """Time all settings in turn, again and again: a busy moment of the machine then hurts none alone."""
    settings = list(_settings(graph))
    taken_s: list[list[float]] = [[] for _ in settings]
    solve(Problem.from_graph(graph, *settings[0][1:]))  # loads SciPy
    for _ in range(repeats):
        for (_, times_s, links), taken in zip(settings, taken_s, strict=True):
            start_s = time.perf_counter()
            solve(Problem.from_graph(graph, times_s, links))
            taken.append(time.perf_counter() - start_s)
    rows: list[dict[str, Any]] = []
    for (setting, times_s, links), taken in zip(settings, taken_s, strict=True):
        problem = Problem.from_graph(graph, times_s, links)
        solution = solve(problem)
        rows.append(
            {
                "setting": setting,
                "min_s": min(taken),
                "median_s": statistics.median(taken),
                "max_s": max(taken),
                "vertices": {tier.value: solution.tiers.count(tier) for tier in TIERS},
                "cost_s": solution.cost_s,
                "best_single_tier_s": min(solve(problem, tier.value).cost_s for tier in TIERS),
            }
        )
    medians_s = [row["median_s"] for row in rows]
    return {
        "graph": name,
        "vertices": len(graph.vertices),
        "edges": len(graph.edges),
        "repeats": repeats,
        "target_s": target_s,
        "fastest_median_s": min(medians_s),
        "median_s": statistics.median(medians_s),
        "slowest_median_s": max(medians_s),
        "met": target_s is None or statistics.median(medians_s) <= target_s,
        "settings": rows,
    }


# ── limits ────────────────────────────────────────────────────────────────────────────────────────


def _limited(graph: Graph) -> Iterator[tuple[str, str, Problem]]:
    """The settings with limits that change the plan: kind, setting, problem."""
    for setting, times_s, links in _settings(graph):
        free = Problem.from_graph(graph, times_s, links)
        if not any(free.weight_bytes):
            rng = random.Random(setting)
            free = replace(free, weight_bytes=tuple(rng.lognormvariate(12, 1.5) for _ in free.names))
        tiers = solve(free).tiers
        used = max(
            TIERS, key=lambda tier: sum(w for w, t in zip(free.weights, tiers, strict=True) if t is tier)
        )
        needed = sum(w for w, t in zip(free.weights, tiers, strict=True) if t is used)
        yield "memory", setting, replace(free, memory_bytes={used: 0.8 * needed})
        fastest_per_s = highest_rate(free)[1]
        sustained_per_s = 1 / max(loads_s(free, tiers).values())
        # Between what the cheapest plan sustains and what any does: half of the way.
        yield "frame rate", setting, replace(free, rate_per_s=math.sqrt(fastest_per_s * sustained_per_s))
        far = links["edge-cloud"]
        direct = LinkRate(far.bytes_per_s * 0.9, far.latency_s)
        yield "direct link", setting, replace(free, links=links | {"device-cloud": direct})


def _limits(graph: Graph) -> dict[str, Any]:
    """Time to a proven plan, and against the mixed-integer program."""
    rows: list[dict[str, Any]] = []
    for kind, setting, problem in _limited(graph):
        taken_s = []
        for _ in range(max(1, REPEATS // 6)):
            fresh = replace(problem)
            start_s = time.perf_counter()
            found = proven(fresh, LIMITED_TARGET_GAP)
            taken_s.append(time.perf_counter() - start_s)
        start_s = time.perf_counter()
        reference_s = cost_s(problem, mixed_integer(problem))
        rows.append(
            {
                "kind": kind,
                "setting": setting,
                "median_s": statistics.median(taken_s),
                "gap": found.gap,
                "regret": found.cost_s / reference_s - 1,
                "solver_s": time.perf_counter() - start_s,
            }
        )
    kinds = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        mine = [row for row in rows if row["kind"] == kind]
        kinds.append(
            {
                "kind": kind,
                "problems": len(mine),
                "median_s": statistics.median(row["median_s"] for row in mine),
                "slowest_median_s": max(row["median_s"] for row in mine),
                "worst_gap": max(row["gap"] for row in mine),
                "worst_regret": max(row["regret"] for row in mine),
                "solver_median_s": statistics.median(row["solver_s"] for row in mine),
            }
        )
    met = all(
        kind["median_s"] <= LIMITED_TARGET_S and kind["worst_gap"] <= LIMITED_TARGET_GAP * (1 + 1e-6)
        for kind in kinds
    )
    return {
        "target_s": LIMITED_TARGET_S,
        "target_gap": LIMITED_TARGET_GAP,
        "met": met,
        "kinds": kinds,
        "settings": rows,
    }


# ── rates and mixes ───────────────────────────────────────────────────────────────────────────────


def _rates(graph: Graph) -> list[dict[str, Any]]:
    """Frames per second of the best single tier, of the best plan and of the best mix."""
    rows = []
    for setting, times_s, links in _settings(graph):
        problem = Problem.from_graph(graph, times_s, links)
        start_s = time.perf_counter()
        _, one_per_s = highest_rate(problem)
        between_s = time.perf_counter()
        mix = best_mix(problem)
        end_s = time.perf_counter()
        single_per_s = max(1 / max(loads_s(problem, solve(problem, t.value).tiers).values()) for t in TIERS)
        rows.append(
            {
                "setting": setting,
                "single_tier_per_s": single_per_s,
                "plan_per_s": one_per_s,
                "mix_per_s": mix.rate_per_s,
                "mix_bound_per_s": mix.bound_per_s,
                "mix_gain": mix.gain,
                "shares": sorted(mix.shares, reverse=True),
                "plan_s": between_s - start_s,
                "mix_s": end_s - between_s,
            }
        )
    return rows


# ── what is printed ───────────────────────────────────────────────────────────────────────────────


def _narrow(title: str, caption: str | None = None) -> Table:
    """For terminals of 80 columns."""
    return Table(title=title, caption=caption, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)


def _table(measured: dict[str, Any]) -> Table:
    verdict = "met" if measured["met"] else "missed"
    size = f"{measured['vertices']:,} vertices, {measured['edges']:,} edges"
    table = _narrow(
        title=f"optimal plan: {measured['graph']} ({size}), medians of {measured['repeats']}",
        caption=f"median of settings {measured['median_s'] * 1e3:.2f} ms, slowest setting "
        f"{measured['slowest_median_s'] * 1e3:.2f} ms; target {measured['target_s'] * 1e3:.0f} ms: {verdict}",
    )
    table.add_column("setting")
    for heading in ("min\nms", "median\nms", "max\nms", "device/\nedge/cloud", "cost over\none tier's"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in measured["settings"]:
        times = [f"{row[key] * 1e3:.2f}" for key in ("min_s", "median_s", "max_s")]
        counts = "/".join(str(row["vertices"][tier]) for tier in TIERS)
        table.add_row(row["setting"], *times, counts, f"{row['cost_s'] / row['best_single_tier_s']:.3f}")
    return table


def _growth_table(growth: list[dict[str, Any]]) -> Table:
    table = _narrow(title="optimal plan: growth with the graph (made graphs, medians over settings)")
    for heading in ("vertices", "edges", "fastest ms", "median ms", "slowest ms", "µs a vertex"):
        table.add_column(heading, justify="right")
    for row in growth:
        times = [f"{row[key] * 1e3:.2f}" for key in _GROWTH_KEYS[2:]]
        table.add_row(
            f"{row['vertices']:,}",
            f"{row['edges']:,}",
            *times,
            f"{row['median_s'] / row['vertices'] * 1e6:.1f}",
        )
    return table


def _limits_table(name: str, limits: dict[str, Any]) -> Table:
    verdict = "met" if limits["met"] else "missed"
    table = _narrow(
        title=f"within limits: {name}, a gap of {limits['target_gap']:.0%} allowed",
        caption=f"target: gap ≤ {limits['target_gap']:.0%} in ≤ {limits['target_s'] * 1e3:.0f} ms "
        f"(median of problems): {verdict}; regret is against the mixed-integer program",
    )
    table.add_column("limit")
    for heading in (
        "problems",
        "median\nms",
        "slowest\nms",
        "worst\ngap",
        "worst\nregret",
        "MILP\nmedian ms",
    ):
        table.add_column(heading, justify="right")
    for row in limits["kinds"]:
        table.add_row(
            row["kind"],
            str(row["problems"]),
            f"{row['median_s'] * 1e3:.1f}",
            f"{row['slowest_median_s'] * 1e3:.1f}",
            f"{row['worst_gap']:.3%}",
            f"{row['worst_regret']:.3%}",
            f"{row['solver_median_s'] * 1e3:.0f}",
        )
    return table


def _rates_table(name: str, rates: list[dict[str, Any]]) -> Table:
    table = _narrow(title=f"highest frame rate: {name}", caption="frames/s; the mix gains over the best plan")
    table.add_column("setting")
    for heading in ("one\ntier", "one\nplan", "mix", "gain", "shares", "plan\nms", "mix\nms"):
        table.add_column(heading, justify="right")
    for row in rates:
        table.add_row(
            row["setting"],
            *(f"{row[key]:.2f}" for key in ("single_tier_per_s", "plan_per_s", "mix_per_s")),
            f"{row['mix_gain']:.3f}×",
            " ".join(f"{share:.0%}" for share in row["shares"]),
            *(f"{row[key] * 1e3:.0f}" for key in ("plan_s", "mix_s")),
        )
    return table


def growth_svg(growth: list[dict[str, Any]]) -> str:
    """Milliseconds against vertices, both logarithmic: the median over settings, and their range."""
    width, height, left, bottom, top = 640, 400, 64, 48, 36
    low_ms, high_ms = (
        10 ** math.floor(math.log10(min(row["fastest_median_s"] for row in growth) * 1e3)),
        10 ** math.ceil(math.log10(max(row["slowest_median_s"] for row in growth) * 1e3)),
    )
    least, most = growth[0]["vertices"], growth[-1]["vertices"]

    def at(vertices: float, ms: float) -> str:
        x = left + (width - left - 32) * (math.log10(vertices / least) / (math.log10(most / least) or 1))
        y = (
            height
            - bottom
            - (height - bottom - top) * (math.log10(ms / low_ms) / (math.log10(high_ms / low_ms) or 1))
        )
        return f"{x:.1f},{y:.1f}"

    def text(place: str, words: str, anchor: str, dx: int = 0, dy: int = 0) -> str:
        x, y = (float(number) for number in place.split(","))
        return f'<text x="{x + dx:.1f}" y="{y + dy:.1f}" text-anchor="{anchor}">{words}</text>'

    upper = [at(row["vertices"], row["slowest_median_s"] * 1e3) for row in growth]
    lower = [at(row["vertices"], row["fastest_median_s"] * 1e3) for row in growth]
    middle = [at(row["vertices"], row["median_s"] * 1e3) for row in growth]
    ticks = [10.0**power for power in range(round(math.log10(low_ms)), round(math.log10(high_ms)) + 1)]
    lines = [
        f'<polygon points="{" ".join(upper + lower[::-1])}" fill="#4c78a8" fill-opacity="0.2"/>',
        f'<polyline points="{" ".join(middle)}" fill="none" stroke="#4c78a8" stroke-width="2"/>',
        *(f'<circle cx="{p.split(",")[0]}" cy="{p.split(",")[1]}" r="3" fill="#4c78a8"/>' for p in middle),
        *(
            f'<polyline points="{at(least, ms)} {at(most, ms)}" stroke="#bbb" stroke-width="0.5"/>'
            for ms in ticks
        ),
        *(text(at(least, ms), f"{ms:g} ms", "end", -6, 4) for ms in ticks),
        *(text(at(row["vertices"], low_ms), f"{row['vertices']:,}", "middle", 0, 18) for row in growth),
        text(f"{width / 2},{height - 8}", "vertices (made graphs)", "middle"),
        text(
            f"{left},{top - 14}", "time to an optimal plan: median of settings, fastest to slowest", "start"
        ),
    ]
    body = "\n".join(lines)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12"><rect width="{width}" height="{height}" fill="white"/>\n{body}\n</svg>\n'
    )
