"""The plots of a comparison, as SVG text. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable

from d3bed.bench.compare.grid import RIVALS, TIERS_ALONE, Results, Row
from d3bed.bench.compare.ratios import AT_BEST, headline
from d3bed.core.ids import TIERS
from d3bed.lab.charts import Axis, Chart
from d3bed.lab.plots import bars

__all__ = ["backbone", "predictions", "regret", "speed_ups", "stacks", "sustained"]

Cell = tuple[str, str]

#: Nothing is drawn higher than so many times as good: single tiers would flatten all others.
_MOST = 20.0
#: And no bar of regret is longer: a slow device would flatten all others.
_WORST = 2.0


def speed_ups(results: Results) -> str:
    """Latency of each other over ours, cell by cell."""
    return _times_as_good(results, "latency", lambda row: 1 / row.single.latency_s if row.single else None)


def sustained(results: Results) -> str:
    """Our highest rate over each other's, cell by cell."""
    return _times_as_good(
        results, "frames a second", lambda row: row.stream.sustained_per_s if row.stream else None
    )


def _times_as_good(results: Results, what: str, value: Callable[[Row], float | None]) -> str:
    best = headline(results) or ""
    found: list[tuple[int, Cell, str, str, float]] = []
    cells = _cells(results)
    for number, cell in enumerate(cells):
        mine = _value(results, cell, best, value)
        for kind, others in (
            *((tier, (tier,)) for tier in TIERS_ALONE),
            ("published", tuple(f"{rival}*" for rival in RIVALS)),
            ("ours", AT_BEST),
        ):
            theirs = [(v, name) for name in others if (v := _value(results, cell, name, value))]
            if mine and theirs:
                most, name = max(theirs)
                found.append((number, cell, kind, name, mine / most))
    y = Axis.of(f"times as good: {what}", [min(r, _MOST) for *_, r in found] or [1.0, 2.0], log=True)
    chart = Chart(f"{best} over the others: {what}", _by_cell(cells), y)
    chart.level(1.0)
    for number, cell, kind, name, ratio in found:
        title = f"{' over '.join(cell)}: {best} is {ratio:.2f} times as good as {name}"
        if kind == "ours":
            chart.bar(number, 1.0, ratio, "good" if ratio >= 1 else "bad", title, 0.0, 15.0)
        else:
            chart.dot(number, min(ratio, _MOST), kind, title)
    return chart.svg


def stacks(results: Results) -> str:
    """Compute per tier and the rest, of ours beside the better rival's."""
    best, cells = headline(results) or "", _cells(results)
    pairs = []
    for number, cell in enumerate(cells):
        mine = results.row(*cell, best)
        rivals = [row for name in AT_BEST if (row := results.row(*cell, name)) and row.single]
        rival = min(rivals, key=_latency_s, default=None)
        for row, shift in ((mine, -7.0), (rival, 7.0)):
            if row is not None and row.single is not None:
                pairs.append((number, row, shift))
    y = Axis.of("ms a frame", [1e3 * _latency_s(row) for _, row, _ in pairs])
    chart = Chart(f"Where the time goes, {best} and the better rival", _by_cell(cells), y)
    for number, row, shift in pairs:
        assert row.single is not None
        single, low = row.single, 0.0
        shares = {tier.value: single.compute_s.get(tier, 0.0) for tier in TIERS}
        shares["rest"] = max(0.0, single.latency_s - sum(shares.values()))
        words = ", ".join(f"{kind} {1e3 * s:.0f} ms" for kind, s in shares.items() if s >= 5e-4)
        title = f"{row.model} over {row.network}, {row.way.name}: {words}"
        for kind, seconds in shares.items():
            if seconds > 0:
                chart.bar(number, low, low + 1e3 * seconds, kind, title, shift, 12.0)
                low += 1e3 * seconds
        if single.low_s is not None and single.high_s is not None:
            chart.whisker(number, 1e3 * single.low_s, 1e3 * single.high_s, "spread", shift)
    return chart.svg


def backbone(results: Results) -> str:
    """Bytes of one frame in each cell, summed, by way."""
    sums: dict[str, float] = {}
    for row in results.rows:
        if row.single is not None:
            sums[row.way.name] = sums.get(row.way.name, 0.0) + row.single.backbone_bytes
    paints = {"device": "device", "edge": "edge", "cloud": "cloud"}
    best = headline(results)
    rows = [
        (name, size / 1e6, f"{size / 1e6:.2f} MB", "good" if name == best else paints.get(name, "rest"))
        for name, size in sums.items()
    ]
    return bars("Bytes over the backbone, one frame in each cell", rows)


def predictions(results: Results) -> str:
    """Measured over predicted latency."""
    points = [
        (row, row.single.predicted_s, row.single.median_s)
        for row in results.rows
        if row.single is not None and row.single.median_s is not None and not row.single.same_as
    ]
    both = [1e3 * s for _, predicted, measured in points for s in (predicted, measured)]
    axis = Axis.of("", both, log=True)
    x = Axis("predicted, ms", axis.low, axis.high, log=True)
    y = Axis("measured, ms", axis.low, axis.high, log=True)
    chart = Chart("Measured over predicted latency", x, y, 420.0)
    chart.line([(axis.low, axis.low), (axis.high, axis.high)], "predicted")
    for row, predicted, measured in points:
        title = (
            f"{row.model} over {row.network}, {row.way.name}: predicted {1e3 * predicted:.1f} ms,"
            f" measured {1e3 * measured:.1f} ms ({measured / predicted - 1:+.0%})"
        )
        name = row.way.name.rstrip("*")
        kind = name if name in TIERS_ALONE else "other" if name in RIVALS else "ours"
        chart.dot(1e3 * predicted, 1e3 * measured, kind, title)
    return chart.svg


def regret(results: Results) -> str:
    """How much longer each way takes than the best way of the cell with our input: mean and worst."""
    least = {
        cell: min(_latency_s(row) for row in results.rows if row.cell == cell and not row.way.published)
        for cell in _cells(results)
    }
    rows = []
    for name in dict.fromkeys(row.way.name for row in results.rows):
        mine = [row for row in results.rows if row.way.name == name and row.single is not None]
        over = [_latency_s(row) / least[row.cell] for row in mine]
        if over:
            mean = math.exp(sum(map(math.log, over)) / len(over))
            kind = name if name in TIERS_ALONE else "good" if name == headline(results) else "rest"
            words = f"{mean - 1:+.0%}, at worst {max(over) - 1:+.0%}"
            rows.append((name, min(mean - 1, _WORST), words, kind))
    return bars("Latency over the best of the cell, less one", rows)


def _cells(results: Results) -> list[Cell]:
    there = {row.cell for row in results.rows}
    return [cell for cell in results.asked.cells if cell in there]


def _by_cell(cells: list[Cell]) -> Axis:
    names = tuple(f"{model} {network}" for model, network in cells)
    return Axis("", -0.7, max(0, len(names) - 1) + 0.7, names=names)


def _value(results: Results, cell: Cell, name: str, value: Callable[[Row], float | None]) -> float | None:
    row = results.row(*cell, name)
    return None if row is None else value(row)


def _latency_s(row: Row) -> float:
    return math.inf if row.single is None else row.single.latency_s
