"""What `d3bed compare` prints when it is done: ratios, targets, and where nothing is gained. Pure."""

from __future__ import annotations

import time
from collections.abc import Sequence

import rich.progress
from rich import box
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, TextColumn
from rich.table import Table
from rich.text import Text

from d3bed.bench.compare.grid import Results, Row
from d3bed.bench.compare.ratios import Ratio, headline, targets, verdicts
from d3bed.bench.compare.report import WHAT, shown, title

__all__ = ["Progress", "summary"]


def summary(results: Results) -> RenderableType:
    best = headline(results)
    parts: list[RenderableType] = [Text(title(results), style="bold")]
    parts.append(_ratios(shown(results)[0]))
    for target in targets(results):
        mark, style = {True: ("✓", "green"), False: ("✗", "red"), None: ("·", "dim")}[target.reached]
        found = "not part of this grid" if target.found is None else f"{target.found:.2f}"
        parts.append(Text(f"{mark} {target.text}: {found} (wanted ≥ {target.wanted:.2f})", style=style))
    idle = verdicts(results)
    cells = len({row.cell for row in results.rows})
    if idle and best:
        parts.append(Text(f"\n{best} is not faster than the better rival in {len(idle)} of {cells} cells:"))
        parts += [Text(f"  {' over '.join(v.cell)} ({v.ratio:.2f}×): {v.text}") for v in idle]
    refused = [row for row in results.rows if row.refused]
    parts += [Text(f"{row.model} over {row.network}, {row.way.name}: {row.refused}") for row in refused]
    return Group(*parts)


class Progress:
    """How far a real run is, and how long it will take: by its prediction, corrected by what was right so
    far. A line per cell; on a terminal a bar as well. Use as a context manager."""

    def __init__(self, console: Console, rows: int, left_s: float, done: int) -> None:
        self._console, self._all_s, self._rows = console, left_s, rows
        self._began_s = time.monotonic()
        columns = (BarColumn(), TextColumn("{task.completed} of {task.total} rows, {task.description}"))
        self._bar = rich.progress.Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task(self._words(left_s), total=rows, completed=done)

    def __enter__(self) -> Progress:
        self._bar.start()
        if not self._console.is_terminal:
            self._console.print(self._words(self._all_s), highlight=False)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def cell(self, rows: Sequence[Row], done: int, left_s: float) -> None:
        """These were measured."""
        for row in rows:
            self._console.print(_measured(row), highlight=False, soft_wrap=True)
        words = self._words(left_s)
        self._bar.update(self._task, completed=done, description=words)
        if not self._console.is_terminal:
            self._console.print(f"{done} of {self._rows} rows, {words}", highlight=False)

    def _words(self, left_s: float) -> str:
        planned_s, taken_s = self._all_s - left_s, time.monotonic() - self._began_s
        factor = max(0.2, min(5.0, taken_s / planned_s)) if planned_s > 0 else 1.0
        return f"about {max(1, round(left_s * factor / 60))} min left" if left_s > 0 else "done"


def _measured(row: Row) -> str:
    parts = [f"{row.model} over {row.network}, {row.way.name}:"]
    if row.refused:
        parts.append(row.refused)
    if (single := row.single) is not None:
        predicted = f"{single.predicted_s * 1e3:.0f} predicted, {single.frames} frames"
        parts.append(f"{single.latency_s * 1e3:.0f} ms ({predicted})")
        if single.same_as:
            parts.append(f"as {single.same_as}")
    if (stream := row.stream) is not None:
        parts.append(f"{stream.sustained_per_s:.2f} frames/s ({stream.predicted_per_s:.2f} predicted)")
        if stream.same_as:
            parts.append(f"as {stream.same_as}")
    if any(each is not None and each.identical is False for each in (row.single, row.stream)):
        parts.append("NOT all answers identical")
    return " ".join(parts)


def _ratios(found: Sequence[Ratio]) -> Table:
    table = Table("what", "ours", "over", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("most", "mean", "least", "summed"):
        table.add_column(heading, justify="right")
    for r in found:
        numbers = ("–" if n is None else f"{n:.2f}" for n in (r.most, r.mean, r.least))
        total = "" if r.what != "backbone" else "ours 0" if r.total is None else f"{r.total:.2f}"
        table.add_row(WHAT[r.what], r.ours, r.against, *numbers, total)
    return table
