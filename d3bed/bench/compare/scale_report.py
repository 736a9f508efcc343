"""What `d3bed compare --scale` leaves: `scale.json` and a page, `scale.html`, with its plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import markupsafe
import msgspec

from d3bed.bench.compare.report import environment
from d3bed.bench.compare.scale import SWEEPS, Crossing, Point, Scale, Timing
from d3bed.lab.charts import Axis, Chart
from d3bed.lab.report import put

__all__ = ["FILES", "write"]

FILES = ("scale.json", "scale.html")

#: How each way is drawn, and in which order: later ones lie on top.
KINDS = {
    "device": "device",
    "edge": "edge",
    "cloud": "cloud",
    "neurosurgeon": "published",
    "dads": "other",
    "optimal": "median",
    "optimal+vsm": "ours",
}
_TIMED = {
    "optimal": "median",
    "hpa": "ours",
    "layers": "device",
    "neurosurgeon": "published",
    "dads": "other",
}


def write(folder: Path, scale: Scale) -> None:
    """Raises `ConfigError`."""
    put(folder / "scale.json", msgspec.json.format(msgspec.json.encode(scale), indent=1))
    put(folder / "scale.html", _page(scale).encode())


def _page(scale: Scale) -> str:
    models = list(dict.fromkeys(point.model for point in scale.points))
    drawn = {
        sweep: [(model, markupsafe.Markup(_sweep(scale, sweep, model))) for model in models]
        for sweep in SWEEPS
    }
    return (
        environment()
        .get_template("scale.html")
        .render(
            scale=scale,
            drawn=drawn,
            sizes=markupsafe.Markup(_sizes(scale.timings)),
            crossings={sweep: _shown(scale.crossings, sweep) for sweep in SWEEPS},
            kinds=KINDS,
            timed=_TIMED,
        )
    )


def _sweep(scale: Scale, sweep: str, model: str) -> str:
    points = [point for point in scale.points if (point.sweep, point.model) == (sweep, model)]
    rates = sweep == "devices"
    lines = {name: [p for p in points if p.way == name] for name in KINDS}
    shown = {
        name: [(p, value) for p in sorted(line, key=lambda p: p.x) if (value := _value(p, rates)) is not None]
        for name, line in lines.items()
    }
    xs = [p.x for line in shown.values() for p, _ in line] or [1.0]
    ys = [value for line in shown.values() for _, value in line]
    log = sweep == "backbone"
    x = Axis(SWEEPS[sweep], min(xs) if log else 0.0, max(xs), log=log)
    y = Axis.of("frames a second" if rates else "ms a frame", ys, log=not rates)
    chart = Chart(f"{model}: {SWEEPS[sweep]}", x, y, 300)
    for crossing in _shown(scale.crossings, sweep):
        if crossing.model == model:
            words = f"{crossing.way}: {crossing.before} → {crossing.after}"
            chart.upright((crossing.low * crossing.high) ** 0.5, words)
    for name, line in shown.items():
        chart.line([(p.x, value) for p, value in line], KINDS[name], name)
        for p, value in line if sweep != "backbone" else ():
            chart.dot(p.x, value, KINDS[name], f"{name} at {p.x:.3g}: {value:.3g}, {p.words}")
    return chart.svg


def _value(point: Point, rates: bool) -> float | None:
    """Of a sweep over rates, the latency while the rate is kept up with."""
    if rates:
        return point.per_s
    if point.sweep == "rate" and (point.per_s is None or point.per_s < point.x * 0.999):
        return None
    return None if point.latency_s is None else 1e3 * point.latency_s


def _shown(found: Sequence[Crossing], sweep: str) -> list[Crossing]:
    """Those of the way of ours with tiles: the others' are in the file."""
    return [crossing for crossing in found if crossing.sweep == sweep and crossing.way == "optimal+vsm"]


def _sizes(timings: Sequence[Timing]) -> str:
    xs, ys = [float(t.vertices) for t in timings], [1e3 * t.plan_s for t in timings]
    x = Axis("vertices", min(xs, default=1.0), max(xs, default=10.0), log=True)
    chart = Chart("Time to plan by size of graph", x, Axis.of("ms to plan", ys, log=True), 300)
    for name, kind in _TIMED.items():
        mine = [t for t in timings if t.strategy == name]
        chart.line([(t.vertices, 1e3 * t.plan_s) for t in mine], kind, name)
        for t in mine:
            chart.dot(t.vertices, 1e3 * t.plan_s, kind, f"{name}, {t.vertices:,}: {1e3 * t.plan_s:.3g} ms")
    return chart.svg
