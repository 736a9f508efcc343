"""The whole of `d3bed compare`: from what is asked to files in a folder."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import importlib.metadata
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from d3bed.bench.compare import report, scale_report
from d3bed.bench.compare.grid import Asked, Results, Row, ways
from d3bed.bench.compare.measure import Guess, measured, remaining
from d3bed.bench.compare.predict import predicted_json
from d3bed.bench.compare.scale import Point, Scale, Timing, crossings, done_json, pieces, read_done
from d3bed.bench.compare.setting import Setting
from d3bed.bench.compare.show import Progress, summary
from d3bed.bench.compare.spread import spread
from d3bed.core.errors import ConfigError
from d3bed.lab.planning import Say
from d3bed.server.about import about

__all__ = ["Request", "machine", "measure", "predict", "scale", "stamp"]


@dataclass(frozen=True)
class Request:
    """`cluster`: address of a Dask cluster, None: an embedded one."""

    asked: Asked
    setting: Setting
    out: Path
    cache_dir: Path
    cluster: str | None = None


def machine() -> dict[str, Any]:
    """On what, with which versions, by which command, from now on."""
    found: dict[str, Any] = msgspec.to_builtins(about())
    try:
        torch = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        torch = "none"
    command = shlex.join(["d3bed", *sys.argv[1:]])
    return found | {"torch": torch, "load": os.getloadavg()[0], "at": stamp(), "command": command}


def stamp() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def predict(request: Request, console: Console, say: Say) -> Results:
    """The grid from profiles alone; writes the files and prints a summary. Raises `ConfigError`."""
    started_s, on = time.monotonic(), machine()
    asked, setting = request.asked, request.setting
    cases = setting.cases(asked, request.cache_dir, say)
    say(f"planning {len(cases)} cells …")
    pieces = [msgspec.json.encode(case) for case in cases]
    rows = list(_rows(pieces, request.cluster))
    results = Results(
        how="predicted",
        asked=asked,
        machine=on,
        emulated=setting.emulated(asked.networks),
        rows=tuple(rows),
        taken_s=time.monotonic() - started_s,
    )
    finish(request, results, console)
    return results


def measure(request: Request, console: Console, say: Say) -> Results:
    """The grid really run, or the rest of it; writes the files after every cell. Raises `ConfigError`,
    `ChildDied`."""
    asked, setting = request.asked, request.setting
    before = report.read(request.out)
    if before is not None and (before.how, before.asked, before.emulated) != (
        "measured",
        asked,
        setting.emulated(asked.networks),
    ):
        raise ConfigError("--out", str(request.out), "holds another comparison", "choose another folder")
    results = before or Results(
        how="measured",
        asked=asked,
        machine=machine(),
        emulated=setting.emulated(asked.networks),
        rows=(),
        complete=False,
    )
    cases = setting.cases(asked, request.cache_dir, say)
    if setting.remote:
        names, port = ", ".join(setting.remote), setting.config.port
        say(f"waiting for {names}: d3bed agent --name NAME --server http://THIS-MACHINE:{port} on each")
    say("planning what will be run …")
    guesses = _rows([msgspec.json.encode(case) for case in cases], request.cluster)
    guess = {(row.model, row.network, row.way.name): row for row in guesses}

    try:
        asyncio.run(_measure(request, results, guess, console))
    finally:  # whatever was measured before a Ctrl-C is shown too
        found = report.read(request.out)
        if found is not None:
            finish(request, found, console)
    return found or results


async def _measure(request: Request, results: Results, guess: Guess, console: Console) -> None:
    """`results.json` grows with every cell."""
    asked, commit = request.asked, about().commit
    wanted, done = ways(asked.strategies), dict(results.table)
    shapes = {network: request.setting.shapes(network) for network in asked.networks}
    began_s, before_s = time.monotonic(), results.taken_s

    def stamped(row: Row) -> Row:
        load = round(os.getloadavg()[0], 2)
        return msgspec.structs.replace(row, commit=commit, at=stamp(), load=load)

    def left_s() -> float:
        return remaining(asked, wanted, shapes, guess, done)

    with Progress(console, len(guess), left_s(), len(done)) as progress:
        cells = measured(request.setting, asked, wanted, shapes, guess, done, stamped)
        async with contextlib.aclosing(cells):
            async for rows in cells:
                done |= {(row.model, row.network, row.way.name): row for row in rows}
                results = msgspec.structs.replace(
                    results,
                    rows=tuple(done[key] for key in guess if key in done),
                    complete=len(done) == len(guess),
                    taken_s=before_s + time.monotonic() - began_s,
                )
                report.save(request.out, results)
                progress.cell(rows, len(done), left_s())


def _rows(pieces: Sequence[bytes], cluster: str | None) -> list[Row]:
    made = spread(predicted_json, pieces, cluster, workers=_cores())
    return [row for rows in made for row in msgspec.json.decode(rows, type=list[Row])]


def scale(request: Request, full: Setting, console: Console, say: Say) -> Scale:
    """How it grows; `full` has all edge agents of the testbed. Writes the files. Raises `ConfigError`."""
    started_s, on = time.monotonic(), machine()
    first = msgspec.structs.replace(request.asked, networks=request.asked.networks[:1])
    cases = request.setting.cases(first, request.cache_dir, say)
    by_model = {case.model: case for case in cases}
    widest = [
        msgspec.structs.replace(by_model[model], agents=full.pipeline.tiers, speeds=full.speeds)
        for model in first.models
    ]
    work = pieces(cases, widest)
    say(f"planning {len(work)} points …")
    points, timings = list[Point](), list[Timing]()
    encoded = [msgspec.json.encode(piece) for piece in work]
    for done in spread(done_json, encoded, request.cluster, workers=_cores()):
        some_points, some_timings = read_done(done)
        points += some_points
        timings += some_timings
    found = Scale(
        network=first.networks[0],
        edges=len(request.setting.pipeline.edges),
        machine=on,
        points=tuple(points),
        timings=tuple(timings),
        crossings=tuple(crossings(points)),
        taken_s=time.monotonic() - started_s,
    )
    scale_report.write(request.out, found)
    changes = sum(crossing.way == "optimal+vsm" for crossing in found.crossings)
    console.print(
        f"{len(points):,} plans at {len(work)} points, {changes} crossings of optimal+vsm;"
        f" {found.taken_s:.0f} s; in {request.out}: {', '.join(scale_report.FILES)}",
        highlight=False,
        soft_wrap=True,
    )
    return found


def finish(request: Request, results: Results, console: Console) -> None:
    report.write(request.out, results)
    console.print(summary(results))
    files = ", ".join(report.FILES)
    console.print(f"{results.taken_s:.0f} s; in {request.out}: {files}", highlight=False, soft_wrap=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
