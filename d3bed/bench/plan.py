"""How long an optimal plan takes, from graph and profiles to assignment.

A run builds the problem from a graph, finds its minimum cut and judges the plan by definition: all that
the server does between a measurement and a decision. Graphs: Inception-v4 as exported from the model
(or, without torch, a made graph of about its size, and the label says so), and a made graph of 1,000
vertices in the same style. Vertex times are made, from FLOPs and a random factor per vertex and tier;
they decide how hard the cut is and stand for no machine. Some settings end on a single tier, as real
profiles mostly do, others have mixed optima.
"""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from d3bed.core.errors import ModelError
from d3bed.core.graph import Edge, Graph, TensorSpec, Value, Vertex
from d3bed.core.ids import TIERS, Tier
from d3bed.core.measurements import LinkRate
from d3bed.core.messages import ModelSpec
from d3bed.plan import Problem, solve

__all__ = ["run"]

#: Targets for the median of a setting, the slowest setting counts.
TARGET_S = {"inception_v4": 0.005, "made": 0.030}
REPEATS = 31

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
    """Measure, print and optionally write the figures. Returns them."""
    name, graph = _inception()
    graphs = [
        _measure(name, graph, TARGET_S["inception_v4"]),
        _measure("made, 1,000 vertices", made_graph(1000, seed=1), TARGET_S["made"]),
    ]
    result: dict[str, Any] = {
        "format": "d3bed.bench.plan/1",
        "machine": {
            "cpus": os.cpu_count(),
            "architecture": platform.machine(),
            "python": platform.python_version(),
            "load_average": os.getloadavg()[0],
        },
        "repeats": REPEATS,
        "graphs": graphs,
        "met": all(graph["met"] for graph in graphs),
    }
    for measured in graphs:
        console.print(_table(measured))
    console.print(
        f"load average of this machine: {result['machine']['load_average']:.1f} on {os.cpu_count()} CPUs"
    )
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=1) + "\n")
    return result


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


def _measure(name: str, graph: Graph, target_s: float) -> dict[str, Any]:
    """Time all settings in turn, again and again: a busy moment of the machine then hurts none alone."""
    settings = list(_settings(graph))
    taken_s: list[list[float]] = [[] for _ in settings]
    for _ in range(REPEATS + 1):
        for (_, times_s, links), taken in zip(settings, taken_s, strict=True):
            start_s = time.perf_counter()
            solve(Problem.from_graph(graph, times_s, links))
            taken.append(time.perf_counter() - start_s)
    rows: list[dict[str, Any]] = []
    for (setting, times_s, links), (_, *taken) in zip(
        settings, taken_s, strict=True
    ):  # the first loads SciPy
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
    slowest_s = max(row["median_s"] for row in rows)
    return {
        "graph": name,
        "vertices": len(graph.vertices),
        "edges": len(graph.edges),
        "target_s": target_s,
        "median_s": statistics.median(row["median_s"] for row in rows),
        "slowest_median_s": slowest_s,
        "met": slowest_s <= target_s,
        "settings": rows,
    }


def _table(measured: dict[str, Any]) -> Table:
    verdict = "met" if measured["met"] else "missed"
    size = f"{measured['vertices']} vertices, {measured['edges']} edges"
    table = Table(
        title=f"optimal plan: {measured['graph']} ({size})",
        caption=f"median of settings {measured['median_s'] * 1e3:.2f} ms, slowest setting "
        f"{measured['slowest_median_s'] * 1e3:.2f} ms; target {measured['target_s'] * 1e3:.0f} ms: {verdict}",
    )
    table.add_column("setting")
    for heading in ("min ms", "median ms", "max ms", "device/edge/cloud", "against best single tier"):
        table.add_column(heading, justify="right")
    for row in measured["settings"]:
        times = [f"{row[key] * 1e3:.2f}" for key in ("min_s", "median_s", "max_s")]
        counts = "/".join(str(row["vertices"][tier]) for tier in TIERS)
        table.add_row(row["setting"], *times, counts, f"{row['cost_s'] / row['best_single_tier_s']:.3f}")
    return table
