"""The whole of `d3bed compare`: from what is asked to files in a folder."""

from __future__ import annotations

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

from d3bed.bench.compare import report
from d3bed.bench.compare.grid import Asked, Results, Row
from d3bed.bench.compare.predict import predicted_json
from d3bed.bench.compare.setting import Setting
from d3bed.bench.compare.show import summary
from d3bed.bench.compare.spread import spread
from d3bed.lab.planning import Say
from d3bed.server.about import about

__all__ = ["Request", "machine", "predict", "stamp"]


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


def _rows(pieces: Sequence[bytes], cluster: str | None) -> list[Row]:
    made = spread(predicted_json, pieces, cluster, workers=_cores())
    return [row for rows in made for row in msgspec.json.decode(rows, type=list[Row])]


def finish(request: Request, results: Results, console: Console) -> None:
    report.write(request.out, results)
    console.print(summary(results))
    files = ", ".join(report.FILES)
    console.print(f"{results.taken_s:.0f} s; in {request.out}: {files}", highlight=False, soft_wrap=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
