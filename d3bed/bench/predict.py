"""How well predictions hold, and how well slowness is emulated, in whole runs of the real testbed.

Every figure comes from a headless demo: server and agents as processes, shaped links, photos. Predicted
latency is the planner's timeline made from profile and measured links before the first frame; measured
latency is the median over the frames. Runs are emulated (`configs/demo.toml`) and with every agent at
full speed (`configs/full-speed.toml`), because a held deadline makes an emulated prediction partly true
by construction. At full speed the best plan is the device alone, so the cloud runs too: there the photo
and the result cross both links. One frame at a time, so agents at full speed do not compete for cores.

Emulated slowness compares the device's compute time for the whole network at `speed` = 0.2 with that at
`speed` = 1 (target: 5× within 5 %).
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from d3bed.config import data_dir, override, read_config
from d3bed.core.errors import D3Error
from d3bed.lab.demo import DemoOptions, run_demo

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


class RunFailed(D3Error):
    """A run did not end with a report."""


def run(
    json_path: Path | None, console: Console, *, models: list[str], network: str, frames: int
) -> dict[str, Any]:
    """Measure, print and optionally write the figures."""
    demo, full = data_dir("configs") / "demo.toml", data_dir("configs") / "full-speed.toml"
    rows = []
    for model in models:
        for kind, path, strategy in (
            ("emulated", demo, "optimal"),
            ("full speed", full, "optimal"),
            ("full speed, cloud", full, "cloud"),
        ):
            report = _report(path, model=model, network=network, strategy=strategy, frames=frames)
            rows.append(_row(model, kind, report))
            console.print(_line(rows[-1]), highlight=False)
    slowness = [_slowness(model, frames) for model in ("alexnet", "resnet18")]
    result = {
        "format": "d3bed.bench.predict/1",
        "network": network,
        "frames": frames,
        "target_error": TARGET_PREDICTION,
        "runs": rows,
        "target_slowness_error": TARGET_SLOWNESS,
        "slowness": slowness,
    }
    console.print(_table(rows), _slowness_table(slowness))
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def _report(path: Path, *, model: str, network: str | None, strategy: str, frames: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="d3bed-bench-") as folder:
        target = Path(folder) / "report.json"
        given = {
            "--model": model,
            "--network": network,
            "--strategy": strategy,
            "--frames": str(frames),
            "--port": "0",
        }
        overrides = tuple(word for key, value in given.items() if value is not None for word in (key, value))
        config = override(
            read_config(path), model=model, network=network, strategy=strategy, frames=frames, port=0
        )
        quiet = Console(quiet=True)
        asyncio.run(run_demo(DemoOptions(config, overrides, frames, headless=True, report=target), quiet))
        if not target.exists():
            raise RunFailed(f"{model} with {path.name} ended without a report; run `d3bed demo` to see why")
        return dict(json.loads(target.read_text(encoding="utf-8")))


def _row(model: str, kind: str, report: dict[str, Any]) -> dict[str, Any]:
    latency, exact, plan = report["latency_s"], report["exact"], report["plan"]
    return {
        "model": model,
        "kind": kind,
        "predicted_s": latency["predicted"],
        "median_s": latency["median"],
        "p95_s": latency["p95"],
        "error": latency["predicted"] / latency["median"] - 1,
        "vertices": {tier: list(plan.values()).count(tier) for tier in ("device", "edge", "cloud")},
        "all_identical": exact["checked"] == exact["identical"] == report["frames"]["sent"],
        "links": report["links"],
    }


def _slowness(model: str, frames: int) -> dict[str, Any]:
    times = {}
    for speed in (1.0, 0.2):
        with tempfile.TemporaryDirectory(prefix="d3bed-bench-") as folder:
            path = Path(folder) / "slow.toml"
            path.write_text(_SLOW_DEVICE.format(speed=speed), encoding="utf-8")
            report = _report(path, model=model, network=None, strategy="device", frames=frames)
            times[speed] = report["compute_s"]["device"]
    factor = times[0.2] / times[1.0]
    return {
        "model": model,
        "full_s": times[1.0],
        "slow_s": times[0.2],
        "factor": factor,
        "error": factor / 5 - 1,
    }


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['model']}, {row['kind']}: predicted {row['predicted_s'] * 1e3:.1f} ms, "
        f"median {row['median_s'] * 1e3:.1f} ms"
    )


def _table(rows: list[dict[str, Any]]) -> Table:
    names = ("model", "run", "device/edge/cloud", "predicted ms", "median ms", "p95 ms", "error", "exact")
    table = Table(*names, title=f"predicted against measured (target ±{TARGET_PREDICTION:.0%})")
    for row in rows:
        error = f"{row['error']:+.1%}"
        good = abs(row["error"]) <= TARGET_PREDICTION
        table.add_row(
            row["model"],
            row["kind"],
            "/".join(str(n) for n in row["vertices"].values()),
            f"{row['predicted_s'] * 1e3:.1f}",
            f"{row['median_s'] * 1e3:.1f}",
            f"{row['p95_s'] * 1e3:.1f}",
            f"[green]{error}[/]" if good else f"[red]{error} ✗[/]",
            "yes" if row["all_identical"] else "[red]NO[/]",
        )
    return table


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
