"""What the README says of a comparison: `python -m d3bed.bench.compare.readme real real8 --into README.md`.

The first folder of `d3bed compare` gives the table and both plots, further ones a paragraph each. What stands
between the two marks of the README is replaced, and the plots that it shows beside it (in `docs/`).
"""

from __future__ import annotations

import statistics
import sys
import textwrap
from pathlib import Path

import typer

from d3bed.bench.compare import plots
from d3bed.bench.compare.grid import Results
from d3bed.bench.compare.ratios import BETTER, BETTER_PUBLISHED, Ratio, headline, over_the_better, ratios
from d3bed.bench.compare.report import read, standalone
from d3bed.core.errors import ConfigError, D3Error
from d3bed.lab.report import put

__all__ = ["BEGIN", "END", "as_readme", "put_into"]

BEGIN, END = "<!-- compare: -->", "<!-- :compare -->"
SPEED_UPS, STACKS = "docs/compare-speed-ups.svg", "docs/compare-stacks.svg"
_UNTILED = "optimal"
_WIDTH = 124


def as_readme(first: Results, *others: Results) -> str:
    best = headline(first) or _UNTILED
    boards = f"{first.asked.edges} edge box{'es' if first.asked.edges > 1 else ''}"
    parts = [
        f"```sh\n{first.machine['command']}      # {_minutes(first)}\n```",
        f"One frame at a time, **{first.how}**: how many times as fast as the better of Neurosurgeon and"
        f" DADS, both with our uint8 photo, `{best}` is on {boards}:",
        _table(first, best),
        _in_words(first, best),
        f"![Speed-up cell by cell]({SPEED_UPS})",
        "Bars: over the better rival with our input. Crosses: over the better rival as published. Diamonds:"
        " over one edge box alone; triangles: over the device (up) and the cloud (down).",
        f"![Where the time of a frame goes]({STACKS})",
        "Where the time goes, ours left, the better rival right. Orange: edge; purple: cloud; grey: links and"
        " waiting.",
        _conditions(first),
    ]
    for other in others:
        words = _in_words(other, headline(other) or _UNTILED)
        parts.append(
            f"On {other.asked.edges} edge boxes (`{other.machine['command']}`, {_minutes(other)}): {words}"
        )
    return "\n\n".join(
        part if "\n" in part else textwrap.fill(part, _WIDTH, break_long_words=False, break_on_hyphens=False)
        for part in parts
    )


def put_into(path: Path, first: Results, *others: Results) -> None:
    """Raises `ConfigError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError("--into", str(path), f"{error.strerror}", "give a README that there is") from error
    before, begun, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not begun or not ended:
        raise ConfigError(
            "--into", str(path), "has no place for it", f"write {BEGIN} and {END} where it belongs"
        )
    block = as_readme(first, *others)
    put(path, f"{before}{BEGIN}\n{block}\n{END}{after}".encode())
    put(path.parent / SPEED_UPS, standalone(plots.speed_ups(first)).encode())
    put(path.parent / STACKS, standalone(plots.stacks(first)).encode())


def _table(results: Results, best: str) -> str:
    networks = results.asked.networks
    found = dict(over_the_better(results, best))
    lines = [f"| times as fast | {' | '.join(networks)} |", "|---" + "|---:" * len(networks) + "|"]
    for model in results.asked.models:
        cells = (found.get((model, network)) for network in networks)
        lines.append(f"| {model} | {' | '.join('' if c is None else f'{c:.2f}' for c in cells)} |")
    return "\n".join(lines)


def _in_words(results: Results, best: str) -> str:
    table = {(r.what, r.ours, r.against): r for r in ratios(results)}
    said = []
    if (ours := table.get(("latency", best, BETTER))) is not None:
        text = _three(ours)
        if (published := table.get(("latency", best, BETTER_PUBLISHED))) is not None:
            text += f"; over rivals as published, which ship a float32 tensor, {_three(published)}"
        said.append(text)
    sums = [
        (r.total, other)
        for other in ("dads", "cloud")
        if (r := table.get(("backbone", best, other))) is not None and r.total is not None
    ]
    if sums:
        each = " and ".join(f"{total:.2f} times fewer than {_NAMES[other]}" for total, other in sums)
        most = table["backbone", best, "dads"].most if ("backbone", best, "dads") in table else None
        case = "" if most is None else f"; at best, where any cross, {most:.2f} times fewer than DADS"
        said.append(f"Bytes over the backbone, summed: {each}{case}")
    rates = [
        (r, words)
        for way, words in ((_UNTILED, "without tiles"), (best, "with tiles"))
        if (r := table.get(("rate", way, BETTER))) is not None and (way == _UNTILED or best != _UNTILED)
    ]
    if rates:
        each = "; ".join(f"{words} {_three(r)}" for r, words in rates)
        said.append(f"Frames a second, of streams that outrun everything, over the better rival: {each}")
    return ". ".join(said) + "."


_NAMES = {"dads": "DADS", "cloud": "the cloud alone"}


def _three(ratio: Ratio) -> str:
    most, mean, least = ("–" if n is None else f"{n:.2f}" for n in (ratio.most, ratio.mean, ratio.least))
    return f"{most} at best, {mean} on geometric average, {least} at least"


def _conditions(results: Results) -> str:
    on = results.machine
    text = " ".join(results.emulated)
    text += (
        f" The results depend on that: `configs/{results.asked.testbed}` has the reasons. {on['processor']},"
    )
    text += f" {on['cpus']} cores, torch {on['torch']}, {on['at']}, d3bed {on.get('commit') or 'unknown'}."
    off = [
        abs(row.single.median_s / row.single.predicted_s - 1)
        for row in results.rows
        if row.single is not None and row.single.median_s is not None and not row.single.same_as
    ]
    if len(off) > 1:
        ninth = statistics.quantiles(off, n=10, method="inclusive")[-1]
        text += (
            f" Predicted latencies were off by {statistics.median(off):.1%} in the median, {ninth:.0%} at the"
            f" 90th percentile, {max(off):.0%} at most."
        )
    return text


def _minutes(results: Results) -> str:
    rows = f"{len(results.rows)} rows"
    every = "" if results.how == "predicted" else ", every answer checked"
    whole = "" if results.complete else f", cut short after {len({r.cell for r in results.rows})} cells"
    return f"{max(1, round(results.taken_s / 60))} min, {rows}{every}{whole}"


def _main(folders: list[Path], into: Path = Path("README.md")) -> None:
    """Put what these folders of `d3bed compare` hold into a README."""
    found = []
    for folder in folders:
        results = read(folder)
        if results is None:
            raise ConfigError(
                "FOLDERS", str(folder), "holds no results", "make them with d3bed compare --out"
            )
        found.append(results)
    put_into(into, *found)


if __name__ == "__main__":
    try:
        typer.run(_main)
    except D3Error as error:
        sys.exit(str(error))
