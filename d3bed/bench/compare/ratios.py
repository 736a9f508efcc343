"""The ratios that decide: ours against rivals and single tiers, over all cells of the grid. Pure.

Latency and rate: how many times as good as the other, per cell; the greatest, the geometric mean, the
least. The better rival is chosen anew in each cell: whichever of the two is better there. Of one frame with
our input it is a single tier where that is better still, as each of them could have chosen it: what a rival
planned on a reading that was off is not held against it. Bytes over the backbone: the other's over ours;
where ours are none that has no value, and such cells are counted beside; where both are none it is 1. Sums
are over all cells, one frame in each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import msgspec

from d3bed.bench.compare.grid import RIVALS, TIERS_ALONE, Results, Row

__all__ = [
    "AT_BEST",
    "Ratio",
    "Target",
    "Verdict",
    "headline",
    "over_the_better",
    "ratios",
    "targets",
    "verdicts",
]

BETTER, BETTER_PUBLISHED = "better rival", "better rival, as published"

#: What a rival's frame could take at best with our input.
AT_BEST = (*RIVALS, *TIERS_ALONE)

#: A gain below this is none.
_NO_GAIN = 1.02

#: Ways of ours that stand for all of them, the first that is in the grid.
_HEADLINES = ("optimal+vsm", "hpa+vsm", "optimal", "hpa", "layers")
_UNTILED = ("optimal", "hpa", "layers")

Cell = tuple[str, str]


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """Over `cells`; null where no cell has a value. `most_at` and `least_at` are model and network. For
    bytes: `total` is that of the sums, null if ours is 0; `only_other` counts cells where only the
    other sends."""

    what: str
    ours: str
    against: str
    cells: int
    most: float | None
    mean: float | None
    least: float | None
    most_at: Cell | None
    least_at: Cell | None
    total: float | None = None
    only_other: int = 0


class Target(msgspec.Struct, frozen=True):
    """`reached` null: this grid cannot tell. `wanted` is a least value."""

    text: str
    wanted: float
    found: float | None

    @property
    def reached(self) -> bool | None:
        return None if self.found is None else self.found >= self.wanted


class Verdict(msgspec.Struct, frozen=True):
    """How the headline way does in one cell, where that is no gain: `ratio` and why, in a sentence."""

    cell: Cell
    ratio: float
    text: str


def headline(results: Results, names: Sequence[str] = _HEADLINES) -> str | None:
    """The way of ours that stands for all of them."""
    there = {row.way.name for row in results.rows if not row.refused}
    return next((name for name in names if name in there), None)


def ratios(results: Results) -> list[Ratio]:
    """All that the grid has values for: latency first, then rate, then bytes over the backbone."""
    there = list(dict.fromkeys(row.way.name for row in results.rows))
    ours = [name for name in reversed(_HEADLINES) if name in there]
    found = []
    for what, value in (("latency", _latency), ("rate", _rate)):
        for name in ours:
            for against, others in (
                (BETTER, AT_BEST if value is _latency else RIVALS),
                (BETTER_PUBLISHED, tuple(f"{rival}*" for rival in RIVALS)),
                *((tier, (tier,)) for tier in TIERS_ALONE),
            ):
                pairs = list(_pairs(results, value, name, others))
                if pairs:
                    found.append(_ratio(what, name, against, pairs))
    for name in ours:
        for other in (*RIVALS, *(f"{rival}*" for rival in RIVALS), "cloud"):
            amounts = list(_bytes(results, name, other))
            if amounts:
                found.append(_bytes_ratio(name, other, amounts))
    return found


def over_the_better(results: Results, ours: str) -> list[tuple[Cell, float]]:
    """Cell by cell: how many times as fast as the better rival with our input."""
    return list(_pairs(results, _latency, ours, AT_BEST))


def _latency(row: Row) -> float | None:
    """Less is better: turned round."""
    return None if row.single is None else 1 / row.single.latency_s


def _rate(row: Row) -> float | None:
    return None if row.stream is None else row.stream.sustained_per_s


def _pairs(
    results: Results, value: Callable[[Row], float | None], ours: str, others: Sequence[str]
) -> Iterator[tuple[Cell, float]]:
    for cell in results.asked.cells:
        mine = results.row(*cell, ours)
        theirs = [v for name in others if (row := results.row(*cell, name)) and (v := value(row))]
        if mine is not None and (here := value(mine)) is not None and theirs:
            yield cell, here / max(theirs)


def _ratio(what: str, ours: str, against: str, pairs: Sequence[tuple[Cell, float]]) -> Ratio:
    most, least = max(pairs, key=lambda p: p[1]), min(pairs, key=lambda p: p[1])
    return Ratio(
        what=what,
        ours=ours,
        against=against,
        cells=len(pairs),
        most=most[1],
        mean=math.exp(sum(math.log(r) for _, r in pairs) / len(pairs)),
        least=least[1],
        most_at=most[0],
        least_at=least[0],
    )


def _bytes(results: Results, ours: str, other: str) -> Iterator[tuple[Cell, float, float]]:
    for cell in results.asked.cells:
        mine, theirs = results.row(*cell, ours), results.row(*cell, other)
        if mine and theirs and mine.single and theirs.single:
            yield cell, mine.single.backbone_bytes, theirs.single.backbone_bytes


def _bytes_ratio(ours: str, other: str, amounts: Sequence[tuple[Cell, float, float]]) -> Ratio:
    known = [(cell, their / mine if mine else 1.0) for cell, mine, their in amounts if mine or not their]
    both = [ratio for _, ratio in known if ratio]
    most = max(known, key=lambda k: k[1], default=None)
    least = min(known, key=lambda k: k[1], default=None)
    mine, theirs = sum(mine for _, mine, _ in amounts), sum(their for *_, their in amounts)
    return Ratio(
        what="backbone",
        ours=ours,
        against=other,
        cells=len(amounts),
        most=most and most[1],
        mean=math.exp(sum(map(math.log, both)) / len(both)) if both else None,
        least=least and least[1],
        most_at=most and most[0],
        least_at=least and least[0],
        total=theirs / mine if mine else None,
        only_other=len(amounts) - len(known),
    )


def targets(results: Results) -> list[Target]:
    """What d3bed sets out to reach, for 4 and 8 edge agents, and what this grid found."""
    best, untiled = headline(results) or _HEADLINES[0], headline(results, _UNTILED) or _UNTILED[0]
    table = {(r.what, r.ours, r.against): r for r in ratios(results)}
    edges = results.asked.edges
    found = []

    def add(text: str, wanted: float, what: str, ours: str, against: str, field: str) -> None:
        ratio = table.get((what, ours, against))
        found.append(Target(text, wanted, None if ratio is None else getattr(ratio, field)))

    if edges in (4, 8):
        for words, field, wanted in (
            ("best case", "most", {4: 2.5, 8: 3.4}[edges]),
            ("geometric mean", "mean", {4: 1.2, 8: 1.35}[edges]),
            ("least", "least", 0.97),
        ):
            text = f"one frame, {best}, over the better rival with our input, {edges} edges: {words}"
            add(text, wanted, "latency", best, BETTER, field)
    if edges == 4:
        text = f"one frame, {best}, over the better rival as published: best case"
        add(text, 3.4, "latency", best, BETTER_PUBLISHED, "most")
    for other, wanted in (("dads", 2.5), ("cloud", 3.0)):
        text = f"backbone bytes, {best}, summed over the grid: those of {other} over ours"
        add(text, wanted, "backbone", best, other, "total")
    add(f"backbone bytes, {best}: dads' over ours, best finite case", 3.68, "backbone", best, "dads", "most")
    add(f"backbone bytes, {best}: dads' over ours, least", 1 / 1.02, "backbone", best, "dads", "least")
    add(f"sustained rate, {untiled}, over the better rival: best case", 1.4, "rate", untiled, BETTER, "most")
    return found


def verdicts(results: Results) -> list[Verdict]:
    """Where the headline way is not faster than the better rival with our input, and why."""
    best = headline(results)
    found = []
    for cell in results.asked.cells:
        mine = results.row(*cell, best or "")
        others = [row for name in AT_BEST if (row := results.row(*cell, name)) and row.single]
        if mine is None or mine.single is None or not others:
            continue
        rival = min(others, key=lambda row: row.single.latency_s if row.single else math.inf)
        assert rival.single is not None
        ratio = rival.single.latency_s / mine.single.latency_s
        if ratio < _NO_GAIN:
            found.append(Verdict(cell, ratio, _why(mine, rival, ratio)))
    return found


def _why(mine: Row, rival: Row, ratio: float) -> str:
    assert mine.single is not None and rival.single is not None
    if mine.single.plan == rival.single.plan:
        alone = mine.single.alone
        where = f"all of it on the {alone}" if alone else "the same split"
        return f"{where} is the best plan there is, and {rival.way.name} finds it too"
    times = f"{mine.single.latency_s * 1e3:.0f} ms against {rival.single.latency_s * 1e3:.0f} ms"
    if mine.single.median_s is None:
        return f"{times} of {rival.way.name}"
    hoped = rival.single.predicted_s / mine.single.predicted_s
    word = "slower" if ratio < 1 else "hardly faster"
    return (
        f"{word} than {rival.way.name}, {times}, where {hoped:.2f}× was predicted: it was"
        f" {mine.single.latency_s / mine.single.predicted_s - 1:+.0%} off, the rival"
        f" {rival.single.latency_s / rival.single.predicted_s - 1:+.0%}"
    )
