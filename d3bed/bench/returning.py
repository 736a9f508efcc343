"""How soon an agent that was away is planned with again, under a stream of frames.

Its process is killed and started anew, or stopped and continued, a few times. Three stages: until it has
registered (a new process: Python, torch), until a plan with it is made (the model from disk, its profile, its
links), until that is in force.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from d3bed.config import Config
from d3bed.lab.player import Stage
from d3bed.lab.testbed import Testbed, open_testbed, start_agent

__all__ = ["BACK_S", "returning"]

#: From its start, or from when it goes on, to a plan in force that has it.
BACK_S = 5.0

_AGENT = "edge-1"
_ROUNDS = 3
#: Seconds that frames flow before it is gone; that it is away for; that it may take to be back.
_BEFORE_S, _AWAY_S, _MOST_S = 4.0, 5.0, 60.0
_LOOK_S = 0.02


async def returning(config: Config, console: Console) -> dict[str, Any]:
    """Print and return the figures; `config` has an agent `edge-1` that plans want."""
    async with open_testbed(config, ["--port", "0"]) as bed:
        stage = Stage(bed.base, bed=bed, config=config)
        await stage.post(f"pipelines/{bed.pipeline}/start", {})
        rows = [row async for row in _rounds(config, bed, stage)]
        frames = (await stage.get(f"pipelines/{bed.pipeline}"))["frames"]
    table = Table("away", "registered s", "planned with s", "in force s", "in all s", box=box.SIMPLE_HEAD)
    for row in rows:
        stages = (row[name] for name in ("registered_s", "planned_s", "in_force_s", "in_all_s"))
        table.add_row(row["away"], *("–" if s is None else f"{s:.2f}" for s in stages))
    console.print(table)
    met = {
        f"back in the plan within {BACK_S:g} s": all((r["in_all_s"] or _MOST_S) <= BACK_S for r in rows),
        "no frame lost": frames["lost"] == 0,
    }
    for target, held in met.items():
        console.print(f"{target}: {'met' if held else 'missed'}", style=None if held else "red")
    return {"returns": rows, "frames": frames, "met": met}


async def _rounds(config: Config, bed: Testbed, stage: Stage) -> AsyncIterator[dict[str, Any]]:
    for away in ("restarted",) * _ROUNDS + ("stopped and continued",) * _ROUNDS:
        await bed.watched(_planned_with(stage, bed.pipeline))
        await asyncio.sleep(_BEFORE_S)
        if away == "restarted":
            await stage.post(f"agents/{_AGENT}/kill", {})
            await bed.children.left(_AGENT)
            await asyncio.sleep(_AWAY_S)
            began_s = time.time()
            await start_agent(config, _AGENT, bed.base, bed.children)
        else:
            bed.children.send(_AGENT, signal.SIGSTOP)
            await asyncio.sleep(_AWAY_S)
            began_s = time.time()
            bed.children.send(_AGENT, signal.SIGCONT)
        yield await bed.watched(_back(stage, bed.pipeline, away, began_s))


async def _back(stage: Stage, pipeline: str, away: str, began_s: float) -> dict[str, Any]:
    joined_s: float | None = None
    try:
        async with asyncio.timeout(_MOST_S):
            while joined_s is None:
                agents = {agent["agent"]: agent for agent in await stage.get("agents")}
                if agents[_AGENT]["state"] == "connected":
                    joined_s = time.time() - began_s
                await asyncio.sleep(_LOOK_S)
            in_all_s = await _planned_with(stage, pipeline) - began_s
    except TimeoutError:
        return {
            "away": away,
            "registered_s": joined_s,
            "planned_s": None,
            "in_force_s": None,
            "in_all_s": None,
        }
    plans = [p["at_s"] - began_s for p in await stage.get("plans") if p["at_s"] > began_s]
    planned_s = max((s for s in plans if joined_s <= s <= in_all_s), default=in_all_s)
    return {
        "away": away,
        "registered_s": joined_s,
        "planned_s": planned_s - joined_s,
        "in_force_s": in_all_s - planned_s,
        "in_all_s": in_all_s,
    }


async def _planned_with(stage: Stage, pipeline: str) -> float:
    """Wait until the plan in force has it; when that is."""
    while True:
        view = await stage.get(f"pipelines/{pipeline}")
        takers = set(view["route"].values()) | {a for tile in view["tiles"] for a in tile["agents"]}
        if view["phase"] == "running" and _AGENT in takers:
            return time.time()
        await asyncio.sleep(_LOOK_S)
