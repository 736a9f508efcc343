"""How well the latency predictor knows a network that it has not seen.

Every network is exported and profiled here, in situ, on one thread, in rounds over all networks of which
each vertex keeps its shortest median: a busy moment of the machine then spoils no network alone. Then
each is predicted from the profiles of the others. Errors are |predicted / profiled − 1|, per vertex, and
per contiguous run of vertices in graph order, all of them, whose time is the sum of its vertices' (a
segment really run differs from that sum by a few per cent, see `d3bed bench predict`). For all networks
together, every vertex counts alike, but segments so that every network counts alike: a deep network has
far more. Beside it: time in proportion to FLOPs, at the median rate of the other networks' vertices.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from d3bed.core.errors import ConfigError
from d3bed.core.graph import Graph
from d3bed.core.messages import ModelSpec
from d3bed.plan import Predictor, samples_of, works

__all__ = ["run"]

#: Medians over all networks, per vertex and per segment.
TARGET_VERTEX, TARGET_SEGMENT = 0.20, 0.10
#: Quantiles of its segments that stand for a network among all.
_QUANTILES = 1000
#: A graph and seconds per vertex.
Profile = tuple[Graph, tuple[float, ...]]

#: Rounds over all networks, and timed passes through each network in a round.
ROUNDS, PASSES = 3, 5


def run(json_path: Path | None, console: Console, *, models: Sequence[str]) -> dict[str, Any]:
    """Measure, print and optionally write the figures. Returns them."""
    if len(set(models)) < 2:
        raise ConfigError("bench predictor", "--model", "needs at least two networks", "name another one")
    load_before = os.getloadavg()[0]
    profiles = _profile(list(dict.fromkeys(models)), console)
    rows = [
        _leave_out(model, profile, [p for m, p in profiles.items() if m != model])
        for model, profile in profiles.items()
    ]
    vertices = [error for row in rows for error in row.pop("vertex_errors")]
    segments = [error for row in rows for error in _spaced(row.pop("segment_errors"))]
    overall = {"vertex": _quantiles(vertices), "segment": _quantiles(segments)}
    result: dict[str, Any] = {
        "format": "d3bed.bench.predictor/1",
        "machine": {
            "cpus": os.cpu_count(),
            "architecture": platform.machine(),
            "load_average": [load_before, os.getloadavg()[0]],
        },
        "threads": 1,
        "rounds": ROUNDS,
        "passes": PASSES,
        "networks": rows,
        "all": overall,
        "targets": {"vertex_median": TARGET_VERTEX, "segment_median": TARGET_SEGMENT},
        "met": overall["vertex"]["median"] <= TARGET_VERTEX
        and overall["segment"]["median"] <= TARGET_SEGMENT,
    }
    console.print(_table(result))
    for row in rows:
        if row["unknown_kinds"]:
            kinds = ", ".join(row["unknown_kinds"])
            console.print(f"{row['model']}: the others hardly have {kinds}", highlight=False)
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _profile(names: Sequence[str], console: Console) -> dict[str, Profile]:
    import torch

    from d3bed.agent.profiler import measure
    from d3bed.model import load

    torch.set_num_threads(1)
    models = {name: load(ModelSpec(name)) for name in names}
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in names}
    for number in range(1, ROUNDS + 1):
        for name, model in models.items():
            found[name].append(measure(model, PASSES).times_s)
        whole = ", ".join(f"{name} {1e3 * sum(times[-1]):.1f} ms" for name, times in found.items())
        console.print(f"round {number}: {whole}", highlight=False)
    return {
        name: (model.graph, tuple(min(times) for times in zip(*found[name], strict=True)))
        for name, model in models.items()
    }


def _leave_out(model: str, profile: Profile, others: Sequence[Profile]) -> dict[str, Any]:
    graph, times_s = profile
    known = [sample for other in others for sample in samples_of(*other)]
    start_s = time.perf_counter()
    predictor = Predictor.fit(known)
    fit_s = time.perf_counter() - start_s
    start_s = time.perf_counter()
    predicted_s = predictor.predict(graph)
    predict_s = time.perf_counter() - start_s
    vertex_errors = [abs(p / t - 1) for p, t in zip(predicted_s, times_s, strict=True) if t > 0]
    segment_errors = _segment_errors(predicted_s, times_s)
    flop_s = statistics.median(s.time_s / s.work.flops for s in known if s.work.flops and s.time_s > 0)
    by_flops_s = tuple(flop_s * work.flops for work in works(graph))
    return {
        "model": model,
        "vertices": len(vertex_errors),
        "segments": len(segment_errors),
        "profiled_s": sum(times_s),
        "predicted_s": sum(predicted_s),
        "whole_error": sum(predicted_s) / sum(times_s) - 1,
        "vertex": _quantiles(vertex_errors),
        "segment": _quantiles(segment_errors),
        "segment_by_flops": _quantiles(_segment_errors(by_flops_s, times_s)),
        "unknown_kinds": list(predictor.unknown(graph)),
        "fit_s": fit_s,
        "predict_s": predict_s,
        "vertex_errors": vertex_errors,
        "segment_errors": segment_errors,
    }


def _segment_errors(predicted_s: Sequence[float], measured_s: Sequence[float]) -> list[float]:
    """Of every contiguous run of vertices after the input."""
    predicted, measured = list(accumulate(predicted_s)), list(accumulate(measured_s))
    return [
        abs((predicted[last] - predicted[first]) / (measured[last] - measured[first]) - 1)
        for first in range(len(measured))
        for last in range(first + 1, len(measured))
        if measured[last] > measured[first]
    ]


def _spaced(errors: Sequence[float]) -> list[float]:
    """`_QUANTILES` values that are distributed as `errors` are."""
    ordered = sorted(errors)
    return [ordered[int((n + 0.5) / _QUANTILES * len(ordered))] for n in range(_QUANTILES)]


def _quantiles(errors: Sequence[float]) -> dict[str, float]:
    ordered = sorted(errors)
    return {"median": statistics.median(ordered), "p90": ordered[int(0.9 * (len(ordered) - 1))]}


def _table(result: dict[str, Any]) -> Table:
    before, after = result["machine"]["load_average"]
    verdict = "met" if result["met"] else "missed"
    table = Table(
        title="predicted from the other networks' profiles: median / p90 of the error",
        caption=f"targets: median ≤ {TARGET_VERTEX:.0%} per vertex, ≤ {TARGET_SEGMENT:.0%} per segment: "
        f"{verdict}; load average {before:.1f} → {after:.1f} on {result['machine']['cpus']} CPUs",
    )
    table.add_column("network", no_wrap=True)
    for heading in ("ms", "whole", "per vertex", "per segment", "… by FLOPs"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in result["networks"]:
        table.add_row(
            row["model"],
            f"{row['profiled_s'] * 1e3:.1f}",
            f"{row['whole_error']:+.0%}",
            *(_pair(row[key]) for key in ("vertex", "segment", "segment_by_flops")),
        )
    table.add_section()
    table.add_row("all", "", "", _pair(result["all"]["vertex"]), _pair(result["all"]["segment"]))
    return table


def _pair(quantiles: dict[str, float]) -> str:
    return f"{quantiles['median']:.1%}/{quantiles['p90']:.0%}"
