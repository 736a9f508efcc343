"""The grid really run: processes, sockets, shaped links, photos.

One testbed for each network and each input (uint8, or float32 as published); models and strategies are
switched while it runs. What was measured is kept after every cell, so that a run that was cut short is
continued. Ways that have the same plan in a cell share one measurement, and say so: what differs between
two runs of one plan is noise.

A run is given so many frames as fit `BUDGET_S` by its prediction, two at least: a hopeless one is measured
with fewer frames, and the row says how many. A stream lasts until it can have answered `_ANSWERS` frames,
within bounds; its rate counts from the first answer, when the pipeline is full, to the last start.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from d3bed.bench.compare.grid import Asked, Row, Single, Stream, Way
from d3bed.bench.compare.predict import OVERRUN_PER_S
from d3bed.bench.compare.setting import Setting
from d3bed.core.ids import Tier
from d3bed.lab.testbed import SwitchFailed, Testbed, open_testbed

__all__ = ["BUDGET_S", "Guess", "measured", "remaining"]

#: Seconds of frames a run, by prediction; never fewer frames than that.
BUDGET_S, _LEAST_FRAMES = 10.0, 2
#: Frames that are longer need no warm-up.
_WARMED_S = 2.0
#: Frames that a stream is to answer, and how long it may last.
_ANSWERS, _SHORTEST_S, _LONGEST_S = 20.0, 5.0, 25.0
#: What a testbed, a model and a switch take before frames flow: to tell the time that is left.
_START_S, _LOAD_S, _SWITCH_S = 15.0, 8.0, 2.0

#: Prediction of what a way takes in a cell: seconds a frame, and frames a second.
Guess = Mapping[tuple[str, str, str], Row]
Key = tuple[str, str, str]


def remaining(asked: Asked, wanted: Sequence[Way], guess: Guess, done: Mapping[Key, Row]) -> float:
    """Seconds that what is not done yet will take, roughly."""
    total_s = 0.0
    for network, _, models in _sessions(asked, wanted, done):
        total_s += _START_S
        for model, ways in models.items():
            total_s += _LOAD_S
            plans: set[str] = set()
            for way in ways:
                row = guess[model, network, way.name]
                total_s += _row_s(asked, row, plans)
    return total_s


def _row_s(asked: Asked, row: Row, plans: set[str]) -> float:
    """`plans`: those that are known in the cell, this row's added."""
    taken_s = 0.0
    if row.single is not None and row.single.plan not in plans:
        plans.add(row.single.plan)
        taken_s += _SWITCH_S + (0.5 + _frames(asked, row.single.predicted_s)) * row.single.predicted_s
    if row.stream is not None and (stream := f"stream {row.stream.plan}") not in plans:
        plans.add(stream)
        taken_s += _SWITCH_S + _stream_s(row.stream.predicted_per_s)
    return taken_s


def _frames(asked: Asked, predicted_s: float) -> int:
    return max(_LEAST_FRAMES, min(asked.frames or 0, int(BUDGET_S / predicted_s) if predicted_s else 10**6))


def _stream_s(per_s: float) -> float:
    return min(_LONGEST_S, max(_SHORTEST_S, _ANSWERS / per_s if per_s else _LONGEST_S))


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


async def measured(
    setting: Setting,
    asked: Asked,
    wanted: Sequence[Way],
    guess: Guess,
    done: Mapping[Key, Row],
    stamp: Callable[[Row], Row],
) -> AsyncGenerator[list[Row], None]:
    """The rows that are not done yet, cell by cell (and input by input), as they are measured."""
    for network, _, models in _sessions(asked, wanted, done):
        first, ways = next(iter(models.items()))
        with tempfile.TemporaryDirectory(prefix="d3bed-compare-") as folder:
            config = setting.write(Path(folder), network, first, ways[0])
            async with open_testbed(*setting.started(config)) as bed:
                for model, each in models.items():
                    known = [row for key, row in done.items() if key[:2] == (model, network)]
                    known = [row for row in known if row.way.published is each[0].published]
                    rows = await _cell(bed, asked, [guess[model, network, way.name] for way in each], known)
                    yield [stamp(row) for row in rows]


async def _cell(bed: Testbed, asked: Asked, guesses: Sequence[Row], known: Sequence[Row]) -> list[Row]:
    """All ways of one cell with one input, frames one at a time first; `known` are those done before."""
    found = {row.way: msgspec.structs.replace(row, single=None, stream=None) for row in guesses}
    for what, measure in (("single", _single), ("stream", _stream)):
        if (what == "single" and asked.frames is None) or (what == "stream" and not asked.streams):
            continue
        await bed.set_rate(None if what == "single" else asked.rate_per_s or OVERRUN_PER_S)
        for guess in guesses:
            way = guess.way
            try:
                view = await bed.switch(model=guess.model, strategy=way.strategy, tiling=way.tiling)
                one = await measure(bed, asked, view, [*known, *found.values()])
            except SwitchFailed as refusal:
                found[way] = msgspec.structs.replace(found[way], refused=str(refusal))
                continue
            found[way] = msgspec.structs.replace(found[way], refused="", **{what: one})
    return list(found.values())


async def _single(bed: Testbed, asked: Asked, view: dict[str, Any], known: Sequence[Row]) -> Single:
    plan = str(view["plan_text"])
    for row in known:
        if row.single is not None and row.single.plan == plan:
            return msgspec.structs.replace(row.single, same_as=row.single.same_as or row.way.name)
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
        plan=plan,
        vertices={tier: tiers.count(tier) for tier in Tier if tier in tiers},
        tiles=len(report["tiles"]),
        identical=exact["checked"] == exact["identical"] == frames["answered"],
    )


async def _stream(bed: Testbed, asked: Asked, view: dict[str, Any], known: Sequence[Row]) -> Stream:
    mix = view["mix"]
    plan = "\n\n".join(f"{part['share']:.3f}\n{part['text']}" for part in mix) or str(view["plan_text"])
    for row in known:
        if row.stream is not None and row.stream.plan == plan:
            return msgspec.structs.replace(row.stream, same_as=row.stream.same_as or row.way.name)
    promised = min(float(view["sustains_per_s"] or OVERRUN_PER_S), asked.rate_per_s or OVERRUN_PER_S)
    seconds = _stream_s(promised)
    report, _ = await bed.stream(seconds)
    series = await bed.frames()
    frames, exact = report["frames"], report["exact"]
    low_s, median_s, high_s = _quartiles(sorted(series["latency_s"]))
    return Stream(
        rate_per_s=asked.rate_per_s,
        predicted_per_s=promised,
        alone_s=float(view["predicted"]["latency_s"]),
        per_s=_per_s(series),
        seconds=seconds,
        frames=frames["answered"],
        dropped=frames["dropped"],
        median_s=median_s,
        low_s=low_s,
        high_s=high_s,
        plans=len(mix) or 1,
        link_bytes=_link_bytes(report),
        plan=plan,
        identical=exact["checked"] == exact["identical"] == frames["answered"],
    )


def _per_s(series: Mapping[str, Sequence[float]]) -> float:
    """Answers a second, from the first one, when the pipeline is full, until the last frame was started."""
    started_s = series["started_s"]
    answered_s = sorted(s + latency for s, latency in zip(started_s, series["latency_s"], strict=True))
    if len(answered_s) < 2:
        return 1 / series["latency_s"][0] if answered_s else 0.0
    inside = [at for at in answered_s[1:] if at <= max(started_s)]
    if len(inside) < 3:  # few frames: all of them
        return (len(answered_s) - 1) / (answered_s[-1] - answered_s[0])
    return len(inside) / (inside[-1] - answered_s[0])


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
