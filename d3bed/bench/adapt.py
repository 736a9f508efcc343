"""How good and how fast HPA is, as a whole and adjusting a plan to one change after another; and how plans
follow changes on a real testbed (`live`).

The part `offline` has three. *Strategies*: `hpa`, `hpa-greedy` and `layers` against `optimal`. *Chains*: a
plan in force meets changes of ×0.2 to ×5 of a link, a vertex or a tier, one after the other; the adjusted
plan and the plan that was never changed, against `optimal`. *Growth*: single vertices change on made graphs
of up to 10,000 vertices.

Graphs: the networks as exported from the models, or without torch made graphs of their sizes, and the
label says so. Vertex times are made, from FLOPs and random factors, and stand for no machine: of the
settings, `tiers apart` are as profiles mostly are and end mostly on one tier, `operators` draw a factor for
each kind of operator and tier, `wild` one for each vertex and tier, over fast links: those have mixed optima.
"""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table

from d3bed.bench import server, streams
from d3bed.bench.live import PARTS as LIVE
from d3bed.bench.live import TARGETS as LIVE_TARGETS
from d3bed.bench.live import run_live
from d3bed.bench.plan import made_graph
from d3bed.core.errors import ConfigError, ModelError, near
from d3bed.core.graph import Graph
from d3bed.core.ids import Tier
from d3bed.core.measurements import LinkRate
from d3bed.core.messages import ModelSpec
from d3bed.core.models import PAPER_MODELS
from d3bed.plan import Problem, cost_s, solve
from d3bed.plan.adjust import Adjustment, Standing, Stop

__all__ = ["PARTS", "run"]

#: Sizes of the networks' graphs, for where they cannot be exported.
SIZES = {
    "alexnet": 14,
    "vgg16": 24,
    "resnet18": 33,
    "darknet53": 79,
    "inception_v4": 196,
    "densenet121": 190,
    "mobilenetv3": 93,
    "vit_tiny": 114,
}
SETTINGS = ("tiers apart", "operators", "wild")
#: Per network and setting: problems to plan, and chains of so many changes.
PROBLEMS, CHAINS, CHANGES = 25, 4, 8
GROWTH, GROWTH_CHANGES = (195, 500, 1000, 2000, 5000, 10_000), 80
REPEATS = 5
#: Streams that outrun every plan: single tiers, one plan and a mix, on one network, in three minutes.
STREAMS: dict[str, Any] = {
    "models": ("alexnet", "resnet18"),
    "networks": ("wifi",),
    "strategies": ("device", "edge", "cloud", "optimal"),
    "seconds": 12.0,
}

#: Regret of `hpa`, on the five networks and on others; mean and worst of adjusted plans; milliseconds.
TARGETS = {
    "hpa_paper": 1.01,
    "hpa_other": 1.05,
    "mean": 1.001,
    "worst": 1.05,
    "hpa_s": 1e-3,
    "adjust_s": 3e-4,
}

_FLOP_S, _OVERHEAD_S = 2e-11, 2e-5


#: `offline` needs no testbed, the others start one each; the last two are benches of their own, too.
PARTS = ("offline", *LIVE, "streams", "server")


def run(json_path: Path | None, console: Console, parts: Sequence[str] = PARTS) -> dict[str, Any]:
    """Measure, print and optionally write the figures of some `PARTS`. Returns them."""
    if unknown := [part for part in parts if part not in PARTS]:
        raise ConfigError("--parts", unknown[0], "there is no such part", near(unknown[0], list(PARTS)))
    result: dict[str, Any] = {
        "format": "d3bed.bench.adapt/2",
        "machine": {
            "cpus": os.cpu_count(),
            "architecture": platform.machine(),
            "python": platform.python_version(),
            "load_average": os.getloadavg()[0],
        },
    }
    console.print(
        f"load average of this machine at the start: {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs"
    )
    if "offline" in parts:
        result["offline"] = _offline(console)
    live = [part for part in parts if part in LIVE]
    if live:
        result |= {"live_targets": LIVE_TARGETS, **run_live(live, console)}
    if "streams" in parts:
        result["streams"] = streams.run(None, console, **STREAMS)
    if "server" in parts:
        result["server"] = server.run(None, console, agents=(51, 501), seconds=30.0)
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=1) + "\n")
    return result


def _offline(console: Console) -> dict[str, Any]:
    graphs = dict(_graphs(console))
    result: dict[str, Any] = {"targets": TARGETS, "strategies": [], "chains": [], "growth": []}
    for part, title, measure in (
        ("strategies", f"regret against optimal, {PROBLEMS * len(SETTINGS)} problems each", _strategies),
        (
            "chains",
            f"regret over chains of {CHANGES} changes, ×0.2 … ×5 of a link, a vertex or a tier",
            _chains,
        ),
    ):
        for (name, label), graph in graphs.items():
            result[part].append({"graph": label, **measure(name, graph)})
        console.print(_table(title, result[part]))
    console.print(_stops(result["chains"]))
    for count in GROWTH:
        result["growth"].append(_growth(count))
    console.print(_table(f"{GROWTH_CHANGES} changes of single vertices, on made graphs", result["growth"]))
    result["mixed_optima"] = sum(row["mixed"] for row in result["strategies"])
    console.print(f"{result['mixed_optima']} of the problems that were planned have mixed optima")
    result["met"] = _met(result)
    for target, met in result["met"].items():
        console.print(f"{target}: {'met' if met else 'missed'}")
    return result


def _graphs(console: Console) -> Iterator[tuple[tuple[str, str], Graph]]:
    """The exported networks, or made graphs where they cannot be had; by name and label."""
    for name, size in SIZES.items():
        try:
            from d3bed.model import load

            console.print(f"exporting {name} …", style="dim")
            yield (name, name), load(ModelSpec(name)).graph
        except (ImportError, ModelError):
            yield (name, f"made, of {name}'s size"), made_graph(size, seed=4)


def _problem(rng: random.Random, graph: Graph, setting: str) -> Problem:
    apart = {Tier.DEVICE: rng.choice([12, 40]), Tier.EDGE: rng.choice([2.4, 6]), Tier.CLOUD: 1.0}
    near = {Tier.DEVICE: rng.uniform(1, 2.5), Tier.EDGE: rng.uniform(1, 1.6), Tier.CLOUD: 1.0}
    slower = apart if setting == "tiers apart" else near
    spread = {"tiers apart": 0.0, "operators": 0.5, "wild": 1.5}[setting]
    times_s = {}
    for tier, factor in slower.items():
        kinds = {vertex.kind: rng.lognormvariate(0, spread) for vertex in graph.vertices}
        times_s[tier] = (
            0.0,
            *(
                (vertex.flops * _FLOP_S + _OVERHEAD_S)
                * factor
                * (rng.lognormvariate(0, spread) if setting == "wild" else kinds[vertex.kind])
                for vertex in graph.vertices[1:]
            ),
        )
    # Mbit/s: what such links have, or so fast that a split can pay.
    span = {"device-edge": (1.3, 3.0), "edge-cloud": (0.2, 3.0)} if setting == "tiers apart" else {}
    latency_s = rng.choice([0.0, 0.001, 0.01] if span else [0.0, 0.0, 1e-4])
    links = {
        link: LinkRate(10 ** rng.uniform(*span.get(link, (2.0, 5.0))) * 1e6 / 8, latency_s)
        for link in ("device-edge", "edge-cloud")
    }
    return Problem.from_graph(graph, times_s, links)


def _problems(name: str, graph: Graph, count: int) -> Iterator[Problem]:
    rng = random.Random(name)
    for _ in range(count):
        for setting in SETTINGS:
            yield _problem(rng, graph, setting)


def _timed(action: Callable[[], object]) -> float:
    """Seconds, the least of a few runs: this measures the code, not what else the machine does."""
    best = float("inf")
    for _ in range(REPEATS):
        start_s = time.perf_counter()
        action()
        best = min(best, time.perf_counter() - start_s)
    return best


def _fresh(problem: Problem) -> Problem:
    """The same problem, with nothing derived yet."""
    return msgspec.structs.replace(problem)


# ── strategies ────────────────────────────────────────────────────────────────────────────────────


def _strategies(name: str, graph: Graph) -> dict[str, Any]:
    regrets: dict[str, list[float]] = {"hpa": [], "layers": [], "hpa-greedy": []}
    taken_s: list[float] = []
    mixed = 0
    for problem in _problems(name, graph, PROBLEMS):
        best = solve(problem)
        mixed += len(set(best.tiers[1:])) > 1
        for strategy, found in regrets.items():
            found.append(solve(problem, strategy).cost_s / best.cost_s)
        taken_s.append(_timed(lambda problem=problem: solve(_fresh(problem), "hpa")))  # type: ignore[misc]
    row: dict[str, Any] = {"vertices": len(graph.vertices), "problems": len(taken_s), "mixed": mixed}
    for strategy, found in regrets.items():
        row[strategy] = {"mean": statistics.mean(found), "worst": max(found)}
    row["hpa_median_s"], row["hpa_max_s"] = statistics.median(taken_s), max(taken_s)
    return row


# ── chains ────────────────────────────────────────────────────────────────────────────────────────


def changed(rng: random.Random, problem: Problem, kind: str) -> Problem:
    """The problem after a random change, ×0.2 to ×5, of a `link`, a `vertex` on a tier, or a `tier`."""
    factor = 5 ** rng.uniform(-1, 1)
    if kind == "link":
        link = rng.choice(sorted(problem.links))
        rate = problem.links[link]
        slower = LinkRate(rate.bytes_per_s * factor, rate.latency_s)
        return msgspec.structs.replace(problem, links={**problem.links, link: slower})
    tier = rng.choice(problem.tiers)
    times = problem.times_s[tier]
    if kind == "tier":
        scaled = tuple([t * factor for t in times])
    else:
        v = rng.randrange(1, len(times)) if len(times) > 1 else 0
        scaled = (*times[:v], times[v] * factor, *times[v + 1 :])
    return msgspec.structs.replace(problem, times_s={**problem.times_s, tier: scaled})


def _followed(chain: list[Problem]) -> tuple[tuple[Tier, ...], list[Adjustment], list[float]]:
    """The first plan of a chain of problems, its adjustments, and the least seconds that each took."""
    least_s = [float("inf")] * (len(chain) - 1)
    for _ in range(REPEATS):
        standing = Standing(_fresh(chain[0]))
        first, found = standing.tiers, []
        for number, problem in enumerate(chain[1:]):
            problem = _fresh(problem)
            start_s = time.perf_counter()
            found.append(standing.adjust(problem))
            least_s[number] = min(least_s[number], time.perf_counter() - start_s)
    return first, found, least_s


def _chains(name: str, graph: Graph) -> dict[str, Any]:
    rng = random.Random(f"chains of {name}")
    regrets, still, examined, moved, taken_s = [], [], [], [], []
    stops = dict.fromkeys(Stop, 0)
    for problem in _problems(name, graph, CHAINS):
        chain = [problem]
        for _ in range(CHANGES):
            chain.append(changed(rng, chain[-1], rng.choice(["link", "vertex", "tier"])))
        first, found, times_s = _followed(chain)
        taken_s += times_s
        for changed_problem, adjusted in zip(chain[1:], found, strict=True):
            best_s = solve(changed_problem).cost_s
            regrets.append(cost_s(changed_problem, adjusted.tiers) / best_s)
            still.append(cost_s(changed_problem, first) / best_s)
            examined.append(adjusted.examined / len(graph.vertices))
            moved.append(len(adjusted.moved))
            stops[adjusted.why_stopped] += 1
    return {
        "vertices": len(graph.vertices),
        "changes": len(regrets),
        "adjusted": {"mean": statistics.mean(regrets), "worst": max(regrets)},
        "never moved": {"mean": statistics.mean(still), "worst": max(still)},
        "examined_share": statistics.mean(examined),
        "moved_mean": statistics.mean(moved),
        "median_s": statistics.median(taken_s),
        "p90_s": statistics.quantiles(taken_s, n=10)[-1],
        "stops": {stop.name.lower(): count for stop, count in stops.items() if count},
    }


# ── growth ────────────────────────────────────────────────────────────────────────────────────────


def _growth(count: int) -> dict[str, Any]:
    rng = random.Random(count)
    graph = made_graph(count, seed=5)
    problem = _problem(rng, graph, "wild")
    chain = [problem]
    for _ in range(GROWTH_CHANGES):
        chain.append(changed(rng, chain[-1], "vertex"))
    _, found, taken_s = _followed(chain)
    regrets = [
        cost_s(chain[n + 1], found[n].tiers) / solve(chain[n + 1]).cost_s for n in range(19, len(found), 20)
    ]
    return {
        "vertices": count,
        "changes": GROWTH_CHANGES,
        "adjusted": {"mean": statistics.mean(regrets), "worst": max(regrets)},
        "examined_mean": statistics.mean(adjusted.examined for adjusted in found),
        "moved_mean": statistics.mean(len(adjusted.moved) for adjusted in found),
        "whole_share": sum(adjusted.why_stopped is Stop.SETTLED for adjusted in found) / GROWTH_CHANGES,
        "mean_s": statistics.mean(taken_s),
        "median_s": statistics.median(taken_s),
        "hpa_s": _timed(lambda: solve(_fresh(chain[-1]), "hpa")),
    }


# ── verdicts and tables ───────────────────────────────────────────────────────────────────────────


def _met(result: dict[str, Any]) -> dict[str, bool]:
    paper = [row for row in result["strategies"] if any(name in row["graph"] for name in PAPER_MODELS)]
    other = [row for row in result["strategies"] if row not in paper]
    largest = max(result["strategies"], key=lambda row: row["vertices"])
    chains = result["chains"]
    adjusting = max(chains, key=lambda row: row["vertices"])
    changes = sum(row["changes"] for row in chains)
    mean = sum(row["adjusted"]["mean"] * row["changes"] for row in chains) / changes
    least, most = result["growth"][0], result["growth"][-1]
    grown = most["vertices"] / least["vertices"]
    return {
        "hpa on the five networks": max(row["hpa"]["worst"] for row in paper) <= TARGETS["hpa_paper"],
        "hpa on others": max((row["hpa"]["worst"] for row in other), default=1.0) <= TARGETS["hpa_other"],
        "hpa, median time on the largest network": largest["hpa_median_s"] <= TARGETS["hpa_s"],
        "adjusted plans, mean regret": mean <= TARGETS["mean"],
        "adjusted plans, worst regret": max(r["adjusted"]["worst"] for r in chains) <= TARGETS["worst"],
        "adjusting, median time on the largest network": adjusting["median_s"] <= TARGETS["adjust_s"],
        "examined grows slower than the graph": most["examined_mean"] < least["examined_mean"] * grown,
        "time grows slower than the graph": most["mean_s"] < least["mean_s"] * grown,
    }


def _table(title: str, rows: list[dict[str, Any]]) -> Table:
    """A row each, as mean/worst where there are two; what is the same in all rows is left to the title."""
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    keys = [key for key in rows[0] if key not in ("stops", "changes", "problems")]
    for key in keys:
        name, _, unit = key.rpartition("_")
        heading = {"s": f"{name}\nms", "share": f"{name}\nshare", "mean": f"{name}\nmean"}.get(unit, key)
        justify: JustifyMethod = "left" if key == "graph" else "right"
        table.add_column(heading.replace("_", "\n").replace(" ", "\n"), justify=justify, no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(key, row[key]) for key in keys))
    return table


def _stops(rows: list[dict[str, Any]]) -> str:
    """Why adjustments stopped, and how often."""
    total = Counter[str]()
    for row in rows:
        total.update(row["stops"])
    counts = [(total[stop.name.lower()], stop.value) for stop in Stop]
    return "why adjusting stopped: " + "; ".join(f"{why} ({count} times)" for count, why in counts if count)


def _cell(key: str, value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['mean']:.3f}/{value['worst']:.3f}"
    if key.endswith("_s"):
        return f"{value * 1e3:.2f}"
    if key.endswith("_share"):
        return f"{value:.0%}"
    return f"{value:.1f}" if isinstance(value, float) else str(value)
