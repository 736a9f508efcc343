"""A lab up and down, again and again; and what a pulled cable costs. As root.

Up: until every agent has its model, links are measured, a plan is in force and all limits hold; then until
the first frame is answered. Down: until the last process, namespace and control group is gone. Then one lab
more, in which the cable of the edge agent that frames go through is pulled and put back while they flow.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from d3bed.config import Config
from d3bed.core.errors import D3Error
from d3bed.lab import client
from d3bed.lab.boards import Lab, left
from d3bed.lab.testbed import Testbed

__all__ = ["run"]

#: Of the issue: seconds until a lab is up; until a plan without a lost board, and with one that is back.
TARGET_UP_S, TARGET_REPLANNED_S, TARGET_BACK_S = 30.0, 3.0, 5.0
_NAME = "benchlab"
_PATIENCE_S = 120.0
_POLL_S = 0.02


def run(json_file: Path | None, console: Console, config: Config, times: int, cut_s: float) -> None:
    """Raises what a lab raises."""
    console.print(f"{len(config.agents)} boards, {times} times; {os.cpu_count()} cores", highlight=False)
    rounds = [asyncio.run(_round(config, number, console)) for number in range(1, times + 1)]
    fault = asyncio.run(_cut(config, cut_s)) if cut_s else None
    console.print(_table(rounds, fault))
    if json_file is not None:
        found = {"boards": len(config.agents), "load": os.getloadavg(), "rounds": rounds, "cut": fault}
        json_file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


async def _round(config: Config, number: int, console: Console) -> dict[str, Any]:
    began_s = time.monotonic()
    async with Lab(_NAME, config, [], lambda _: None) as lab:
        bed = await lab.up()
        up_s = time.monotonic() - began_s
        await lab.start_frames()
        await _until(lambda: _answered(bed, 1), "the first frame")
        first_s = time.monotonic() - began_s
        pids = [agent["pid"] for agent in await client.get(lab.url, "/api/agents")]
        ending_s = time.monotonic()
    down_s = time.monotonic() - ending_s
    remains = left(_NAME) + [f"process {pid}" for pid in pids if Path(f"/proc/{pid}").exists()]  # noqa: ASYNC240
    what = ", ".join(remains) or "nothing left"
    console.print(f"{number:3d}: up {up_s:.1f} s, first frame {first_s:.1f} s, down {down_s:.1f} s, {what}")
    return {"up_s": up_s, "first_frame_s": first_s, "down_s": down_s, "left": remains}


async def _cut(config: Config, cut_s: float) -> dict[str, Any]:
    """Seconds from pulling the cable to a plan without the board, and from plugging it in until the board is
    back; the slowest frame; frames lost."""
    async with Lab(_NAME, config, [], lambda _: None) as lab:
        bed = await lab.up()
        await lab.start_frames()
        await _until(lambda: _answered(bed, 20), "frames")
        view = await _view(bed)
        board = view["route"]["edge"]
        lab.network.plug(board, in_=False)
        pulled_s = time.monotonic()
        await _until(lambda: _is_without(bed, board), "a plan without the board")
        replanned_s = time.monotonic() - pulled_s
        await asyncio.sleep(max(0.0, cut_s - replanned_s))
        lab.network.plug(board, in_=True)
        plugged_s = time.monotonic()
        await _until(lambda: _is_connected(bed, board), "the board")
        connected_s = time.monotonic() - plugged_s
        before = await _view(bed)
        await _until(lambda: _answered(bed, before["frames"]["answered"] + 10), "frames afterwards")
        report = await client.get(lab.url, f"/api/runs/{before['run']}/report")
        frames = await client.get(lab.url, f"/api/runs/{before['run']}/frames")
        found = {
            "board": board,
            "cut_s": cut_s,
            "replanned_s": replanned_s,
            "connected_s": connected_s,
            "longest_s": max(frames["latency_s"]),
            "frames": report["frames"],
            "exact": report["exact"],
        }
    return found


async def _view(bed: Testbed) -> dict[str, Any]:
    return dict(await client.get(bed.base, f"/api/pipelines/{bed.pipeline}"))


async def _answered(bed: Testbed, frames: int) -> bool:
    return bool((await _view(bed))["frames"]["answered"] >= frames)


async def _is_without(bed: Testbed, board: str) -> bool:
    """Whether an epoch without it is in force; a better one, with tiles, may follow."""
    return board not in (await _view(bed))["route"].values()


async def _is_connected(bed: Testbed, board: str) -> bool:
    agents = await client.get(bed.base, "/api/agents")
    return any(agent["agent"] == board and agent["state"] == "connected" for agent in agents)


async def _until(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline_s = time.monotonic() + _PATIENCE_S
    while not await holds():
        if time.monotonic() > deadline_s:
            raise D3Error(f"waited {_PATIENCE_S:g} s in vain for {what}")
        await asyncio.sleep(_POLL_S)


def _table(rounds: list[dict[str, Any]], fault: dict[str, Any] | None) -> Table:
    table = Table("figure", "median", "worst", "target", title="lab")
    for key, name, target in (
        ("up_s", "up", TARGET_UP_S), ("first_frame_s", "first frame", None), ("down_s", "down", None),
    ):  # fmt: skip
        found = [each[key] for each in rounds]
        if found:
            worst = max(found)
            table.add_row(name, f"{statistics.median(found):.1f} s", _judged(worst, target), _at_most(target))
    if rounds:
        clean = sum(not each["left"] for each in rounds)
        table.add_row("nothing left", "", f"{clean} of {len(rounds)}", "all")
    if fault is not None:
        for key, name, target in (
            ("replanned_s", f"plan without {fault['board']}, its cable pulled", TARGET_REPLANNED_S),
            ("connected_s", "it is back, once plugged in", TARGET_BACK_S),
            ("longest_s", "slowest frame", None),
        ):
            table.add_row(name, "", _judged(fault[key], target), _at_most(target))
        table.add_row("frames lost", "", str(fault["frames"]["lost"]), "0")
    return table


def _judged(seconds: float, target: float | None) -> str:
    if target is None:
        return f"{seconds:.1f} s"
    return f"[green]{seconds:.1f} s[/]" if seconds <= target else f"[red]{seconds:.1f} s ✗[/]"


def _at_most(target: float | None) -> str:
    return "" if target is None else f"≤ {target:g} s"
