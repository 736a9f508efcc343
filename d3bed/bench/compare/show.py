"""What `d3bed compare` prints when it is done: ratios, targets, and where nothing is gained. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from d3bed.bench.compare.grid import Results
from d3bed.bench.compare.ratios import Ratio, headline, targets, verdicts
from d3bed.bench.compare.report import WHAT, shown, title

__all__ = ["summary"]


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


def _ratios(found: Sequence[Ratio]) -> Table:
    table = Table("what", "ours", "over", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("most", "mean", "least", "summed"):
        table.add_column(heading, justify="right")
    for r in found:
        numbers = ("–" if n is None else f"{n:.2f}" for n in (r.most, r.mean, r.least))
        total = "" if r.what != "backbone" else "ours 0" if r.total is None else f"{r.total:.2f}"
        table.add_row(WHAT[r.what], r.ours, r.against, *numbers, total)
    return table
