"""The grid really run: processes, sockets, shaped links, photos.

One testbed for each network and each input (uint8, or float32 as published); models and strategies are
switched while it runs. What was measured is kept after every cell, so that a run that was cut short is
continued.

Nothing is measured twice, and what is shared says of which it is (`same_as`): ways that have the same plan in
a cell; a plan on another network that shapes every link which it uses alike (the device alone uses none, the
edge alone only that to the device); a stream that outruns everything under HPA, which then takes the mix of
plans that `optimal` takes. What would differ is noise.

A run is given so many frames as fit `BUDGET_S` by its prediction, two at least: a hopeless one is measured
with fewer frames, and the row says how many. A stream lasts until it can have answered so many frames as
`_ANSWERS` says, within bounds; its rate counts from the first answer, when the pipeline is full, to the last
start.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from d3bed.bench.compare.grid import TIERS_ALONE, Asked, Row, Single, Stream, Way
from d3bed.bench.compare.predict import OVERRUN_PER_S
from d3bed.bench.compare.setting import Setting
from d3bed.bench.streams import answers_per_s
from d3bed.core.ids import Tier
from d3bed.core.measurements import LinkShape
from d3bed.lab.testbed import SwitchFailed, Testbed, open_testbed

__all__ = ["BUDGET_S", "Guess", "measured", "remaining"]

#: Seconds of frames a run, by prediction; never fewer frames than that.
BUDGET_S, _LEAST_FRAMES = 6.0, 2
#: Frames that are longer need no warm-up.
_WARMED_S = 2.0
#: Frames that a stream is to answer under one plan, and under a mix, whose plans take turns; its bounds.
_ANSWERS, _ANSWERS_OF_MIX, _SHORTEST_S, _LONGEST_S = 7.0, 10.0, 3.0, 12.0
#: What a testbed, a model, a switch, tiles and a run take beside its frames: to tell the time that is left.
_START_S, _LOAD_S, _SWITCH_S, _TILES_S, _RUN_S = 18.0, 5.0, 0.4, 4.0, 2.5

#: Prediction of what a way takes in a cell: seconds a frame, and frames a second.
Guess = Mapping[tuple[str, str, str], Row]
Key = tuple[str, str, str]
#: Of each network, by pair of tiers.
Shapes = Mapping[str, Mapping[str, LinkShape]]

What = Literal["single", "stream"]


def remaining(
    asked: Asked, wanted: Sequence[Way], shapes: Shapes, guess: Guess, done: Mapping[Key, Row]
) -> float:
    """Seconds that what is not done yet will take, roughly."""
    total_s = 0.0
    known = list(done.values())
    for network, _, models in _sessions(asked, wanted, done):
        total_s += _START_S
        for model, ways in models.items():
            total_s += _LOAD_S
            for way in ways:
                row = guess[model, network, way.name]
                total_s += _row_s(asked, row, known, shapes)
                known.append(row)
    return total_s


def _row_s(asked: Asked, row: Row, known: Iterable[Row], shapes: Shapes) -> float:
    taken_s = 0.0
    tiles_s = _TILES_S if row.way.tiling != "none" else 0.0
    if row.single is not None:
        taken_s += _SWITCH_S
        if _same(row, row.single.plan, "single", known, shapes) is None:
            frames = _frames(asked, row.single.predicted_s) + (row.single.predicted_s < _WARMED_S)
            taken_s += tiles_s + _RUN_S + frames * row.single.predicted_s
    if row.stream is not None:
        taken_s += _SWITCH_S
        if _same(row, row.stream.plan, "stream", known, shapes) is None:
            taken_s += tiles_s + _RUN_S + _stream_s(row.stream.predicted_per_s, row.stream.plans)
            taken_s += 2 * (row.stream.alone_s or 0.0)  # until the first answer, and after the last start
    return taken_s


def _frames(asked: Asked, predicted_s: float) -> int:
    return max(_LEAST_FRAMES, min(asked.frames or 0, int(BUDGET_S / predicted_s) if predicted_s else 10**6))


def _stream_s(per_s: float, plans: int) -> float:
    answers = _ANSWERS if plans == 1 else _ANSWERS_OF_MIX
    return min(_LONGEST_S, max(_SHORTEST_S, answers / per_s if per_s else _LONGEST_S))


def _sessions(
    asked: Asked, wanted: Sequence[Way], done: Mapping[Key, Row]
) -> Iterator[tuple[str, bool, dict[str, list[Way]]]]:
    """Testbeds that are needed for what is not done: the network, whether the input is float32, ways by
    model."""
    for floats in (False, True):  # a run that is cut short has all links with our input first
        for network in asked.networks:
            models = {
                model: ways
                for model in asked.models
                if (
                    ways := [
                        way
                        for way in wanted
                        if way.published is floats and (model, network, way.name) not in done
                    ]
                )
            }
            if models:
                yield network, floats, models


# ── what is known already ─────────────────────────────────────────────────────────────────────────


def _same(
    row: Row, plan: str | None, what: What, known: Iterable[Row], shapes: Shapes
) -> tuple[Row, Single | Stream] | None:
    """A row whose measurement is that of `row` as well: of the same plan with the same input, over links that
    are alike. `plan` None: of the same way, whatever its plan."""
    for other in known:
        found: Single | Stream | None = getattr(other, what)
        if (
            found is not None
            and (other.model, other.way.published) == (row.model, row.way.published)
            and (found.plan == plan if plan is not None else other.way == row.way)
            and (other.network == row.network or _alike(found, other.network, row.network, shapes))
        ):
            return other, found
    return None


def _alike(found: Single | Stream, here: str, there: str, shapes: Shapes) -> bool:
    """Whether both networks shape every link alike that was used."""
    used = [pair for pair, size in found.link_bytes.items() if size]
    ways = [f"{a}-{b}" for pair in used for a, b in (pair.split("-"), pair.split("-")[::-1])]
    return all(way in shapes[here] and shapes[here][way] == shapes[there].get(way) for way in ways)


def _shared(row: Row, other: Row, found: Single | Stream) -> Single | Stream:
    """What was measured of another row, for this one."""
    where = "" if other.network == row.network else f" over {other.network}"
    return msgspec.structs.replace(found, same_as=found.same_as or f"{other.way.name}{where}")


async def measured(
    setting: Setting,
    asked: Asked,
    wanted: Sequence[Way],
    shapes: Shapes,
    guess: Guess,
    done: Mapping[Key, Row],
    stamp: Callable[[Row], Row],
) -> AsyncGenerator[list[Row], None]:
    """The rows that are not done yet, cell by cell (and input by input), as they are measured."""
    known = list(done.values())
    for network, _, models in _sessions(asked, wanted, done):
        first, ways = next(iter(models.items()))
        with tempfile.TemporaryDirectory(prefix="d3bed-compare-") as folder:
            config = setting.write(Path(folder), network, first, ways[0])
            async with open_testbed(*setting.started(config)) as bed:
                for model, each in models.items():
                    guesses = [guess[model, network, way.name] for way in each]
                    rows = [stamp(row) for row in await _cell(bed, asked, guesses, known, shapes)]
                    known += rows
                    yield rows


async def _cell(
    bed: Testbed, asked: Asked, guesses: Sequence[Row], known: Sequence[Row], shapes: Shapes
) -> list[Row]:
    """All ways of one cell with one input, frames one at a time first; `known` are all rows done before.

    Streams begin with the way that comes last for single frames, which is in force then: the server makes a
    plan for the new rate at once, and need not make another one.
    """
    found = {row.way: msgspec.structs.replace(row, single=None, stream=None) for row in guesses}
    if asked.frames is not None:
        if asked.streams:  # of the cell before
            await bed.set_rate(None)
        for way in list(found):
            found[way] = await _measured(bed, asked, found[way], "single", [*known, *found.values()], shapes)
    if asked.streams:
        await bed.set_rate(asked.rate_per_s or OVERRUN_PER_S)
        for way in reversed(list(found)):
            found[way] = await _measured(bed, asked, found[way], "stream", [*known, *found.values()], shapes)
    return list(found.values())


async def _measured(
    bed: Testbed, asked: Asked, row: Row, what: What, known: Sequence[Row], shapes: Shapes
) -> Row:
    """The row with its `single` or `stream`, or with why there is none."""
    way = row.way
    same = _without_a_plan(asked, row, what, known, shapes)
    if same is None:
        try:
            view = await bed.switch(model=row.model, strategy=way.strategy, tiling=way.tiling)
            same = _same(row, _plan_of(view, what), what, known, shapes)
            if same is None:
                run = _single if what == "single" else _stream
                return msgspec.structs.replace(row, refused="", **{what: await run(bed, asked, view)})
        except SwitchFailed as refusal:
            return msgspec.structs.replace(row, refused=str(refusal))
    return msgspec.structs.replace(row, refused="", **{what: _shared(row, *same)})


def _without_a_plan(
    asked: Asked, row: Row, what: What, known: Sequence[Row], shapes: Shapes
) -> tuple[Row, Single | Stream] | None:
    """A row of which it is known without asking for a plan that this one is the same."""
    if row.way.strategy in TIERS_ALONE:
        return _same(row, None, what, known, shapes)
    if row.way.strategy == "hpa" and what == "stream" and asked.rate_per_s is None:
        mixed = msgspec.structs.replace(row, way=msgspec.structs.replace(row.way, strategy="optimal"))
        return _same(mixed, None, what, [r for r in known if r.network == row.network], shapes)
    return None


def _plan_of(view: Mapping[str, Any], what: What) -> str:
    """The plan's text; of a stream that of all plans which take turns, each below its share."""
    mix = view["mix"] if what == "stream" else ()
    return "\n\n".join(f"{part['share']:.3f}\n{part['text']}" for part in mix) or str(view["plan_text"])


async def _single(bed: Testbed, asked: Asked, view: dict[str, Any]) -> Single:
    predicted_s = float(view["predicted"]["latency_s"])
    if predicted_s < _WARMED_S:
        await bed.run(1)
    report = await bed.run(_frames(asked, predicted_s))
    low_s, median_s, high_s = _quartiles(sorted((await bed.frames())["latency_s"]))
    tiers, frames, exact = list(report["plan"].values()), report["frames"], report["exact"]
    return Single(
        predicted_s=predicted_s,
        median_s=median_s,
        low_s=low_s,
        high_s=high_s,
        frames=frames["answered"],
        compute_s={Tier(tier): seconds for tier, seconds in report["compute_s"].items()},
        link_bytes=_link_bytes(report),
        plan=_plan_of(view, "single"),
        vertices={tier: tiers.count(tier) for tier in Tier if tier in tiers},
        tiles=len(report["tiles"]),
        identical=exact["checked"] == exact["identical"] == frames["answered"],
    )


async def _stream(bed: Testbed, asked: Asked, view: dict[str, Any]) -> Stream:
    plans = len(view["mix"]) or 1
    promised = min(float(view["sustains_per_s"] or OVERRUN_PER_S), asked.rate_per_s or OVERRUN_PER_S)
    seconds = _stream_s(promised, plans)
    report = await bed.stream(seconds)
    series = await bed.frames()
    frames, exact = report["frames"], report["exact"]
    low_s, median_s, high_s = _quartiles(sorted(series["latency_s"]))
    return Stream(
        rate_per_s=asked.rate_per_s,
        predicted_per_s=promised,
        alone_s=float(view["predicted"]["latency_s"]),
        per_s=answers_per_s(series),
        seconds=seconds,
        frames=frames["answered"],
        dropped=frames["dropped"],
        median_s=median_s,
        low_s=low_s,
        high_s=high_s,
        plans=plans,
        link_bytes=_link_bytes(report),
        plan=_plan_of(view, "stream"),
        identical=exact["checked"] == exact["identical"] == frames["answered"],
    )


def _quartiles(ordered: Sequence[float]) -> tuple[float, float, float]:
    if len(ordered) < 2:
        return ordered[0], ordered[0], ordered[0]
    low, middle, high = statistics.quantiles(ordered, n=4, method="inclusive")
    return low, middle, high


def _link_bytes(report: Mapping[str, Any]) -> dict[str, float]:
    """By pair of tiers, of one frame, both directions."""
    tiers = {agent["agent"]: Tier(agent["tier"]) for agent in report["agents"]}
    frames = max(1, report["frames"]["answered"])
    found: dict[str, float] = {}
    for link in report["links"]:
        ends = sorted((tiers[link["from"]], tiers[link["to"]]), key=lambda tier: tier.rank)
        pair = "-".join(ends)
        found[pair] = found.get(pair, 0.0) + link["bytes"] / frames
    return found
