"""How well predictions hold, and how well slowness is emulated, in whole runs of the real testbed.

Every figure comes from real processes, shaped links and photos, one frame at a time. Predicted latency is
the planner's timeline made from profiles and measured links before the first frame; measured latency is
the median over the frames. Testbeds run emulated (`configs/demo.toml`) and with every agent at full speed
(`configs/full-speed.toml`), because a held deadline makes an emulated prediction partly true by
construction. A testbed is started once per network; models and strategies are switched while it runs.

Emulated slowness compares the device's compute time for the whole network at `speed` = 0.2 with that at
`speed` = 1 (target: 5x within 5 %).
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from d3bed.config import data_dir, override, read_config
from d3bed.lab.testbed import SwitchFailed, open_testbed

__all__ = ["run"]

#: Predicted latency may be off by this share; emulated slowness by that.
TARGET_PREDICTION, TARGET_SLOWNESS = 0.10, 0.05

_SLOW_DEVICE = """
agents = [
    {{ name = "pi-1", tier = "device", speed = {speed} }},
]
[pipelines.main]
device = "pi-1"
strategy = "device"
"""


def run(
    json_path: Path | None,
    console: Console,
    *,
    models: Sequence[str],
    networks: Sequence[str],
    strategies: Sequence[str],
    frames: int,
) -> dict[str, Any]:
    """Measure, print and optionally write the figures."""
    rows: list[dict[str, Any]] = []
    for kind, name in (("emulated", "demo.toml"), ("full speed", "full-speed.toml")):
        for network in networks:
            found = asyncio.run(
                _session(data_dir("configs") / name, network, models, strategies, frames, console)
            )
            rows += [{"kind": kind, "network": network} | row for row in found]
    slowness = [asyncio.run(_slowness(model, frames)) for model in ("alexnet", "resnet18")]
    result = {
        "format": "d3bed.bench.predict/2",
        "frames": frames,
        "load_average": os.getloadavg()[0],
        "target_error": TARGET_PREDICTION,
        "errors": {
            kind: _spread([r for r in rows if r["kind"] == kind]) for kind in ("emulated", "full speed")
        },
        "runs": rows,
        "target_slowness_error": TARGET_SLOWNESS,
        "slowness": slowness,
    }
    console.print(*(_table(rows, kind) for kind in ("emulated", "full speed")), _slowness_table(slowness))
    for kind, spread in result["errors"].items():  # type: ignore[attr-defined]
        console.print(
            f"{kind}: |error| median {spread['median']:.1%}, 90th percentile {spread['p90']:.1%}, "
            f"largest {spread['largest']:.1%} over {spread['runs']} runs",
            highlight=False,
        )
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


async def _session(
    path: Path, network: str, models: Sequence[str], strategies: Sequence[str], frames: int, console: Console
) -> list[dict[str, Any]]:
    """One testbed, all models and strategies."""
    rows = []
    config = override(read_config(path), model=models[0], network=network, port=0)
    overrides = ["--model", models[0], "--network", network, "--port", "0", "--fixed"]
    async with open_testbed(config, overrides) as bed:
        for model in models:
            for strategy in strategies:
                try:
                    await bed.switch(model=model, strategy=strategy)
                except SwitchFailed as error:
                    console.print(f"{model}, {strategy}, {network}: no plan: {error}", highlight=False)
                    continue
                row = {"model": model, "strategy": strategy} | _row(await bed.run(frames))
                rows.append(row)
                console.print(_line(row | {"network": network, "kind": path.stem}), highlight=False)
    return rows


def _row(report: dict[str, Any]) -> dict[str, Any]:
    latency, exact, plan = report["latency_s"], report["exact"], report["plan"]
    return {
        "predicted_s": latency["predicted"],
        "median_s": latency["median"],
        "p95_s": latency["p95"],
        "error": latency["predicted"] / latency["median"] - 1,
        "vertices": {tier: list(plan.values()).count(tier) for tier in ("device", "edge", "cloud")},
        "all_identical": exact["checked"] == exact["identical"] == report["frames"]["sent"],
        "links": report["links"],
    }


async def _slowness(model: str, frames: int) -> dict[str, Any]:
    times_s = {}
    for speed in (1.0, 0.2):
        with tempfile.TemporaryDirectory(prefix="d3bed-bench-") as folder:
            path = Path(folder) / "slow.toml"
            path.write_text(_SLOW_DEVICE.format(speed=speed), encoding="utf-8")
            config = override(read_config(path), model=model, port=0)
            async with open_testbed(config, ["--model", model, "--port", "0", "--fixed"]) as bed:
                times_s[speed] = (await bed.run(frames))["compute_s"]["device"]
    factor = times_s[0.2] / times_s[1.0]
    return {
        "model": model,
        "full_s": times_s[1.0],
        "slow_s": times_s[0.2],
        "factor": factor,
        "error": factor / 5 - 1,
    }


def _spread(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of the absolute errors."""
    errors = sorted(abs(row["error"]) for row in rows) or [0.0]
    place = min(len(errors) - 1, round(0.9 * (len(errors) - 1)))
    return {
        "median": statistics.median(errors),
        "p90": errors[place],
        "largest": errors[-1],
        "runs": len(rows),
    }


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['model']}, {row['strategy']}, {row['network']}, {row['kind']}: "
        f"predicted {row['predicted_s'] * 1e3:.1f} ms, median {row['median_s'] * 1e3:.1f} ms"
    )


def _table(rows: list[dict[str, Any]], kind: str) -> Table:
    """Error of every run of one kind: models and strategies down, networks across."""
    mine = [row for row in rows if row["kind"] == kind]
    networks = list(dict.fromkeys(row["network"] for row in mine))
    title = f"{kind}: predicted over measured latency, less one (target ±{TARGET_PREDICTION:.0%})"
    table = Table("model", "strategy", *networks, "exact", title=title)
    for model, strategy in dict.fromkeys((row["model"], row["strategy"]) for row in mine):
        these = {r["network"]: r for r in mine if (r["model"], r["strategy"]) == (model, strategy)}
        exact = all(row["all_identical"] for row in these.values())
        cells = [_error(these.get(network)) for network in networks]
        table.add_row(model, strategy, *cells, "yes" if exact else "[red]NO[/]")
    return table


def _error(row: dict[str, Any] | None) -> str:
    if row is None:
        return "no plan"
    error = f"{row['error']:+.1%}"
    return f"[green]{error}[/]" if abs(row["error"]) <= TARGET_PREDICTION else f"[red]{error} ✗[/]"


def _slowness_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        "model", "speed 1 ms", "speed 0.2 ms", "factor", "error", title="emulated slowness (target 5× ±5 %)"
    )
    for row in rows:
        table.add_row(
            row["model"],
            f"{row['full_s'] * 1e3:.1f}",
            f"{row['slow_s'] * 1e3:.1f}",
            f"{row['factor']:.2f}",
            f"{row['error']:+.1%}",
        )
    return table
