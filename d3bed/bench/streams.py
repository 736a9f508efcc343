"""How many frames a second really come out of a stream that never waits.

Every figure comes from real processes and shaped links. First one frame at a time: that tells the slowest
stage, the agent or link that is busy longest with a frame; what it could do alone bounds the rate of the
plan. Then a camera that outruns every plan, under each single tier, and under a strategy that may use
several plans in turn (a mix). The rate is that of answers once the pipeline is full; what the linear program
promises for a mix, and what one plan's busiest stage allows by profile, stands beside it. Latency is of
frames in an overrun stream, where they wait for each other.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from d3bed.config import data_dir, override, read_config
from d3bed.core.ids import TIERS
from d3bed.lab.testbed import SwitchFailed, Testbed, open_testbed

__all__ = ["answers_per_s", "run"]

#: A stream reaches this share of what its slowest stage could do alone; a mix this of what is promised.
TARGET_STAGE, TARGET_MIX = 0.9, 0.85

#: The demo's testbed with faster boards, so that there is more to keep up with.
_SPEEDS = {"pi-1": 0.1, "edge-1": 0.4, "edge-2": 0.3, "cloud-1": 1.0}

#: More than any plan sustains, frames a second.
_OVERRUN_PER_S = 500.0


def run(
    json_path: Path | None,
    console: Console,
    *,
    models: Sequence[str],
    networks: Sequence[str],
    strategies: Sequence[str],
    seconds: float,
) -> dict[str, Any]:
    """Measure, print and optionally write the figures."""
    rows: list[dict[str, Any]] = []
    for network in networks:
        rows += asyncio.run(_session(network, models, strategies, seconds, console))
    result = {
        "format": "d3bed.bench.streams/1",
        "seconds": seconds,
        "load_average": os.getloadavg()[0],
        "target_stage": TARGET_STAGE,
        "target_mix": TARGET_MIX,
        "runs": rows,
    }
    console.print(_table(rows))
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


async def _session(
    network: str, models: Sequence[str], strategies: Sequence[str], seconds: float, console: Console
) -> list[dict[str, Any]]:
    rows = []
    config = override(
        read_config(data_dir("configs") / "demo.toml"), model=models[0], network=network, port=0
    )
    agents = tuple(msgspec.structs.replace(agent, speed=_SPEEDS[agent.name]) for agent in config.agents)
    config = msgspec.structs.replace(config, agents=agents)
    overrides = ["--model", models[0], "--network", network, "--port", "0", "--fixed"]
    async with open_testbed(config, overrides) as bed:
        for model in models:
            for strategy in strategies:
                try:
                    row = await _measured(bed, model, strategy, seconds)
                except SwitchFailed as error:
                    console.print(f"{model}, {strategy}, {network}: no plan: {error}", highlight=False)
                    continue
                rows.append({"model": model, "strategy": strategy, "network": network} | row)
                console.print(
                    f"{model}, {strategy}, {network}: {row['measured_per_s']:.2f} of "
                    f"{row['promised_per_s']:.2f} frames/s",
                    highlight=False,
                )
    return rows


async def _measured(bed: Testbed, model: str, strategy: str, seconds: float) -> dict[str, Any]:
    await bed.set_rate(None)
    await bed.switch(model=model, strategy=strategy)
    alone = await bed.run(10)
    view = await bed.set_rate(_OVERRUN_PER_S)
    report = await bed.stream(seconds)
    series = await bed.frames()
    frames, mix = report["frames"], view["mix"]
    slowest_s = None if mix else _slowest_s(alone)
    return {
        "plans": len(mix) or 1,
        "measured_per_s": answers_per_s(series),
        "promised_per_s": view["sustains_per_s"],
        "slowest_stage_per_s": 1 / slowest_s if slowest_s else None,
        "alone_s": alone["latency_s"]["median"],
        "latency_s": report["latency_s"]["median"],
        "frames": frames,
        "all_identical": report["exact"]["checked"] == report["exact"]["identical"] == frames["answered"],
    }


def answers_per_s(series: Mapping[str, Sequence[float]]) -> float:
    """Of `FrameSeries`: answers a second, from the first one, when the pipeline is full, until the last frame
    was started."""
    started_s = series["started_s"]
    answered_s = sorted(s + latency for s, latency in zip(started_s, series["latency_s"], strict=True))
    if len(answered_s) < 2:
        return 1 / series["latency_s"][0] if answered_s else 0.0
    inside = [at for at in answered_s[1:] if at <= max(started_s)]
    if len(inside) < 3:  # few frames: all of them
        return (len(answered_s) - 1) / (answered_s[-1] - answered_s[0])
    return len(inside) / (inside[-1] - answered_s[0])


def _slowest_s(report: dict[str, Any]) -> float:
    """Seconds that the slowest tier or link is busy with one frame."""
    frames = report["frames"]["answered"]
    links_s = [
        link["bytes"] / link["achieved_bytes_per_s"] / frames
        for link in report["links"]
        if link["achieved_bytes_per_s"]
    ]
    return float(max(*report["compute_s"].values(), *links_s, 0.0))


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(
        "model",
        "network",
        "strategy",
        "plans",
        "frames/s",
        "of stage",
        "of promise",
        "× best tier",
        "exact",
        title=f"streams (target {TARGET_STAGE:g} of the slowest stage, {TARGET_MIX:g} of a mix's promise)",
    )
    for row in rows:
        tiers = [
            other["measured_per_s"]
            for other in rows
            if (other["model"], other["network"]) == (row["model"], row["network"])
            and other["strategy"] in TIERS
        ]
        of_promise = row["measured_per_s"] / row["promised_per_s"]
        stage = row["slowest_stage_per_s"]
        of_stage = row["measured_per_s"] / stage if stage else None
        table.add_row(
            row["model"],
            row["network"],
            row["strategy"],
            str(row["plans"]),
            f"{row['measured_per_s']:.2f}",
            _share(of_stage, TARGET_STAGE),
            _share(of_promise, TARGET_MIX if row["plans"] > 1 else None),
            f"{row['measured_per_s'] / max(tiers):.2f}" if tiers else "",
            "yes" if row["all_identical"] else "[red]NO[/]",
        )
    return table


def _share(value: float | None, target: float | None) -> str:
    if value is None:
        return "–"
    if target is None:
        return f"{value:.2f}"
    return f"[green]{value:.2f}[/]" if value >= target else f"[red]{value:.2f} ✗[/]"
