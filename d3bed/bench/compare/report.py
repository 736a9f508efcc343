"""A comparison as files: `results.json`, `results.csv`, `table.md`, a page, `report.html`, and its plots.

The page carries its plots and styles itself and runs no script; so does each plot in `plots/`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import msgspec

from d3bed.bench.compare import plots
from d3bed.bench.compare.grid import Results, Row
from d3bed.bench.compare.ratios import Ratio, headline, ratios, targets, verdicts
from d3bed.config import data_dir
from d3bed.core.errors import ConfigError
from d3bed.lab.report import put

__all__ = ["FILES", "as_csv", "as_html", "as_markdown", "environment", "read", "save", "shown", "write"]

RESULTS, PLOTS = "results.json", "plots"
FILES = (RESULTS, "results.csv", "table.md", "report.html")

#: What each quantity of a ratio is called.
WHAT = {
    "latency": "latency of one frame",
    "rate": "highest sustained rate",
    "backbone": "bytes over the backbone",
}


def read(folder: Path) -> Results | None:
    """What `results.json` of a folder holds, None if there is none. Raises `ConfigError`."""
    path = folder / RESULTS
    try:
        return msgspec.json.decode(path.read_bytes(), type=Results)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(str(path), "", f"cannot be read ({error})", "choose another --out") from error


def write(folder: Path, results: Results) -> None:
    """All files; the page last. Raises `ConfigError`."""
    save(folder, results)
    put(folder / "results.csv", as_csv(results).encode())
    put(folder / "table.md", as_markdown(results).encode())
    (folder / PLOTS).mkdir(exist_ok=True)
    for name, plot in _drawn(results).items():
        if plot:
            put(folder / PLOTS / f"{name}.svg", standalone(plot).encode())
    put(folder / "report.html", as_html(results).encode())


def save(folder: Path, results: Results) -> None:
    """`results.json` alone, so that it is whole at any moment."""
    whole = folder / f"{RESULTS}.new"
    put(whole, msgspec.json.format(msgspec.json.encode(results), indent=1))
    whole.replace(folder / RESULTS)


def as_csv(results: Results) -> str:
    """A line per way and cell; times in seconds, bytes of one frame."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        [
            "model",
            "network",
            "way",
            "edges",
            "refused",
            "predicted_s",
            "median_s",
            "low_s",
            "high_s",
            "frames",
        ]
        + ["device_s", "edge_s", "cloud_s", "backbone_bytes", "tiles", "same_as", "identical"]
        + ["predicted_per_s", "per_s", "stream_s", "stream_frames", "stream_dropped", "stream_plans"]
        + ["stream_median_s", "stream_low_s", "stream_high_s", "stream_same_as", "stream_identical"]
        + ["commit", "at", "load"]
    )
    for row in results.rows:
        single, stream = row.single, row.stream
        line: list[Any] = [row.model, row.network, row.way.name, results.asked.edges, row.refused]
        line += (
            [single.predicted_s, single.median_s, single.low_s, single.high_s, single.frames]
            + [single.compute_s.get(tier) for tier in ("device", "edge", "cloud")]  # type: ignore[call-overload]
            + [single.backbone_bytes, single.tiles, single.same_as, single.identical]
            if single
            else [""] * 12
        )
        line += (
            [stream.predicted_per_s, stream.per_s, stream.seconds, stream.frames, stream.dropped]
            + [stream.plans, stream.median_s, stream.low_s, stream.high_s]
            + [stream.same_as, stream.identical]
            if stream
            else [""] * 11
        )
        table.writerow([*("" if value is None else value for value in line), row.commit, row.at, row.load])
    return text.getvalue()


# ── table.md ──────────────────────────────────────────────────────────────────────────────────────


def as_markdown(results: Results) -> str:
    """Ratios, targets, where nothing is gained, then every cell."""
    parts = [f"# d3bed compare: {title(results)}", "", about(results), ""]
    if not results.complete:
        parts += [f"**Not complete**: {coverage(results)}.", ""]
    first, others = shown(results)
    parts += ["## Ratios", "", *_ratios_markdown(first), ""]
    parts += ["## Targets", "", "| target | wanted | found | |", "|---|---|---|---|"]
    for target in targets(results):
        mark = {True: "reached", False: "**not reached**", None: "not part of this grid"}[target.reached]
        parts.append(f"| {target.text} | ≥ {target.wanted:.2f} | {_times(target.found)} | {mark} |")
    parts += ["", f"## Where {headline(results)} is not faster than the better rival with our input", ""]
    parts += [f"- {' over '.join(v.cell)} ({v.ratio:.2f}×): {v.text}." for v in verdicts(results)] or [
        "Nowhere."
    ]
    for heading, cell in (
        ("Latency of one frame, ms", _single_cell),
        ("Sustained rate, frames/s", _stream_cell),
    ):
        lines = _cells_markdown(results, cell)
        if lines:
            parts += ["", f"## {heading}", "", *lines]
    parts += ["", "## Ratios of our other strategies", "", *_ratios_markdown(others)] if others else []
    parts += ["", "## How this was made", "", *(f"- {line}" for line in footnotes(results))]
    return "\n".join(parts) + "\n"


def title(results: Results) -> str:
    asked = results.asked
    return (
        f"{len(asked.models)} networks × {len(asked.networks)} links × {len(asked.strategies)} strategies,"
        f" {asked.edges} edge {'agents' if asked.edges > 1 else 'agent'}, {results.how}"
    )


def about(results: Results) -> str:
    how = (
        "Every number is a prediction from profiles of this machine; nothing ran."
        if results.how == "predicted"
        else "Every number was measured in real runs of processes and sockets; medians over frames."
    )
    return f"{how} Rivals marked * ship the float32 tensor of their papers, the others our uint8 photo."


def coverage(results: Results) -> str:
    asked = results.asked
    there = {row.cell for row in results.rows}
    return f"{len(there)} of {len(asked.cells)} cells have results so far"


def shown(results: Results) -> tuple[list[Ratio], list[Ratio]]:
    """Ratios to be looked at first: of the headline way, and rates without tiles; and all others."""
    best, found = headline(results), ratios(results)
    first = [r for r in found if r.ours == best or (r.what == "rate" and r.ours == "optimal")]
    return first, [r for r in found if r not in first]


def _ratios_markdown(found: Sequence[Ratio]) -> list[str]:
    lines = [
        "| what | ours | over | cells | most | geometric mean | least | sums |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in found:
        sums = "" if r.what != "backbone" else _times(r.total) if r.total is not None else "ours is 0"
        if r.only_other:
            sums += f"; in {r.only_other} cells only the other sends"
        most = _times(r.most) + (f" ({' '.join(r.most_at)})" if r.most_at else "")
        least = _times(r.least) + (f" ({' '.join(r.least_at)})" if r.least_at else "")
        lines.append(
            f"| {WHAT[r.what]} | {r.ours} | {r.against} | {r.cells} | {most} | {_times(r.mean)} | {least} |"
            f" {sums} |"
        )
    return lines


def _cells_markdown(results: Results, cell: Any) -> list[str]:
    names = list(dict.fromkeys(row.way.name for row in results.rows))
    if not any(cell(row) for row in results.rows):
        return []
    lines = [f"| network | links | {' | '.join(names)} |", f"|---|---|{'---|' * len(names)}"]
    for model, network in results.asked.cells:
        rows = [results.row(model, network, name) for name in names]
        if any(rows):
            cells = " | ".join("" if row is None else "no plan" if row.refused else cell(row) for row in rows)
            lines.append(f"| {model} | {network} | {cells} |")
    return lines


def _single_cell(row: Row) -> str:
    if row.single is None:
        return ""
    found = f"{1e3 * row.single.latency_s:.0f}"
    if row.single.low_s is not None and row.single.high_s is not None:
        found += f" ({1e3 * row.single.low_s:.0f}–{1e3 * row.single.high_s:.0f}, {row.single.frames})"
    return found


def _stream_cell(row: Row) -> str:
    if row.stream is None:
        return ""
    stream = row.stream
    if stream.low_s is None or stream.high_s is None:
        return f"{stream.sustained_per_s:.2f}"
    return (
        f"{stream.sustained_per_s:.2f} ({1e3 * stream.low_s:.0f}–{1e3 * stream.high_s:.0f}, {stream.frames})"
    )


def footnotes(results: Results) -> list[str]:
    """Machine, versions, what was emulated, how numbers are to be read."""
    machine, found = results.machine, list(results.emulated)
    commit = machine.get("commit") or "unknown"
    found.append(
        f"d3bed {machine['version']} at commit {commit}, Python {machine['python']}, torch"
        f" {machine['torch']}, {machine['processor']}, {machine['cpus']} cores, {machine['system']};"
        f" {machine['at']}, load average {machine['load']:.1f}."
    )
    if results.how == "measured":
        found.append(
            "In brackets: quartiles of the latency in ms, and the number of frames. Ways with the same plan"
            " in a cell share one measurement (`same_as` in results.json); so do links that are alike where a"
            " plan needs them, and streams of HPA and `optimal` where nothing keeps up: one mix."
        )
        each = [each for row in results.rows for each in (row.single, row.stream) if each]
        bits = [one.identical for one in each if not one.same_as]
        found.append(
            f"{sum(bit is True for bit in bits)} of {len(bits)} measurements had every answer checked and"
            " bit-identical to the undivided network."
        )
        commits = {row.commit for row in results.rows if row.commit}
        if len(commits) > 1:
            found.append(f"Rows were measured at several commits: {', '.join(sorted(commits))}.")
    found.append(f"Made by `{machine['command']}` in {results.taken_s:.0f} s.")
    return found


def _times(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


# ── report.html ───────────────────────────────────────────────────────────────────────────────────


def environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(data_dir("web") / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def as_html(results: Results) -> str:
    page = environment()
    page.filters |= {"times": _times}
    return page.get_template("compare.html").render(
        results=results,
        title=title(results),
        about=about(results),
        coverage=coverage(results),
        headline=headline(results),
        ratios=shown(results),
        what=WHAT,
        targets=targets(results),
        verdicts=verdicts(results),
        footnotes=footnotes(results),
        names=list(dict.fromkeys(row.way.name for row in results.rows)),
        single_cell=_single_cell,
        stream_cell=_stream_cell,
        single_same_as=lambda row: row.single.same_as if row.single else "",
        stream_same_as=lambda row: row.stream.same_as if row.stream else "",
        plots={name: markupsafe.Markup(plot) for name, plot in _drawn(results).items()},
    )


def _drawn(results: Results) -> dict[str, str]:
    """The plots by name; empty where the results have nothing for one."""
    singles, streams = (any(getattr(row, what) for row in results.rows) for what in ("single", "stream"))
    return {
        "speed_ups": plots.speed_ups(results) if singles else "",
        "stacks": plots.stacks(results) if singles else "",
        "backbone": plots.backbone(results) if singles else "",
        "regret": plots.regret(results) if singles else "",
        "predictions": plots.predictions(results) if singles and results.how == "measured" else "",
        "sustained": plots.sustained(results) if streams else "",
    }


def standalone(plot: str) -> str:
    """A plot with the page's colours and textures in it, to be shown by itself."""
    folder = data_dir("web") / "templates"
    style = (folder / "_style.html").read_text(encoding="utf-8")
    _, _, paints = (folder / "_paints.html").read_text(encoding="utf-8").partition("<defs>")
    head, _, body = plot.partition(">")
    ground = '<rect width="100%" height="100%" style="fill: var(--card)"/>'
    defs = f"<defs>{paints.partition('</defs>')[0]}</defs>"
    return f'{head} xmlns="http://www.w3.org/2000/svg">{style.strip()}{defs}{ground}{body}\n'
