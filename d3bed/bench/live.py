"""How plans follow changes on a real testbed: how soon, how calmly, and how far from the best possible.

Every figure comes from processes, shaped links and frames; scenarios are played (`lab/player`), and what came
of them is read from the run's history. What really held since when is known from the scenario (`lab/truth`),
so plans are judged by that and not by what monitors saw.

*Reaction*: changes of links and loads, most of which call for another plan: how long and for how many frames
the old one goes on, how long a decided one takes to be in force, how many switches a change costs. *Noise*:
links and speeds stray by 10 %; no plan should follow. *Day*: `camera-day`, beside an oracle that has the
exact plan at once, and beside the best plan that never changes, as predicted. *Static*: that one, played.
*Return*: an agent that was away (`returning`). *Switches*: 200 at random (`switching`).
"""

from __future__ import annotations

import asyncio
import random
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from d3bed.bench.activations import TARGET_S, activations_s, spread
from d3bed.bench.returning import returning
from d3bed.bench.switching import switching
from d3bed.config import Config, data_dir, read_config
from d3bed.core.errors import ConfigError, PlanInfeasible
from d3bed.core.ids import AgentId, Tier
from d3bed.core.plan import Plan
from d3bed.lab.hindsight import Hindsight, hindsight, planned, static_s
from d3bed.lab.player import Played, Stage, play
from d3bed.lab.scenario import Event, Link, Load, Reset, Scenario, Speed, find_scenario, read_scenario
from d3bed.lab.testbed import open_testbed
from d3bed.lab.truth import truth
from d3bed.server.circumstances import Circumstances, Ground
from d3bed.server.history import RunHistory

__all__ = ["PARTS", "TARGETS", "run_live"]

#: From a change to the first frame under the better plan: so many frames or seconds, whichever is later; from
#: a decision to its epoch; mean latency over the oracle's, and the best static plan's over it.
TARGETS = {"frames": 5, "reaction_s": 0.5, "activation_s": TARGET_S, "oracle": 1.10, "static": 1.3}

#: Seconds between two changes; before the first one, so that the testbed has come to rest.
_GAP_S, _SETTLE_S = 7.0, 8.0
_NOISE_S, _NOISE = 300.0, 0.10
#: A plan is kept although another is better by less than this: a switch must be worth it (`plan/adapt`).
_WORTH = 1.07

_EDGES, _DEVICE, _CLOUD = ("edge-1", "edge-2"), "pi-1", "cloud-1"
_TIERS = ("device", "edge", "cloud")


@dataclass(frozen=True)
class _Pass:
    """One scenario, played. `decided_s`: when the planner's latest answer for a cause came."""

    scenario: Scenario
    played: Played
    history: RunHistory
    held: list[Circumstances]
    decided_s: dict[str, float]

    @property
    def ends_s(self) -> float:
        return self.played.begun_s + self.scenario.duration_s

    @property
    def ground(self) -> Ground:
        return self.history.grounds[self.held[0].ground]

    @property
    def activations_s(self) -> list[float]:
        """Of epochs after the first one, in the scenario's time."""
        times_s = [epoch.activated_at for epoch in self.history.epochs if epoch.activated_at is not None]
        begun_s = self.played.begun_s
        return sorted(s - begun_s for s in times_s if begun_s <= s <= self.ends_s)

    @cached_property
    def judged(self) -> Hindsight:
        return hindsight(self.history, self.held)


def run_live(parts: Sequence[str], console: Console) -> dict[str, Any]:
    """Play, print and return the figures of these `PARTS`."""
    config = read_config(data_dir("configs") / "unpinned.toml")
    return {part: asyncio.run(PARTS[part](config, console)) for part in parts}


async def _pass(stage: Stage, scenario: Scenario, config: Config, console: Console) -> _Pass:
    def say(text: str) -> None:
        if " by the scenario" not in text and "undone" not in text:
            console.print(text, highlight=False, soft_wrap=True, markup=False, style="dim")

    (played,) = await play(scenario, stage, say)
    run = played.runs[-1]
    history = msgspec.convert(await stage.get(f"runs/{run}/history"), RunHistory)
    if not history.circumstances:
        raise ConfigError(scenario.name, "", "the server recorded no circumstances", "give it more time")
    ground = history.circumstances[0].ground
    return _Pass(
        scenario,
        played,
        history,
        truth(scenario, config, ground, played.begun_s),
        {plan["cause_id"]: plan["at_s"] for plan in reversed(await stage.get("plans"))},
    )


async def _adaptive(config: Config, scenario: Scenario, console: Console) -> _Pass:
    async with open_testbed(config, ["--port", "0"]) as bed:
        stage = Stage(bed.base, bed=bed, config=config)
        return await bed.watched(_pass(stage, scenario, config, console))


def _frames(one: _Pass) -> dict[str, Any]:
    counts = one.history.report.frames
    return {
        "answered": counts.answered,
        "lost": one.played.lost,
        "repeated": len(one.history.frames.frame) - len(set(one.history.frames.frame)),
        "inexact": one.played.inexact,
        "rerun": one.played.rerun,
    }


# ── reaction ──────────────────────────────────────────────────────────────────────────────────────


def _reaction_scenario() -> tuple[Scenario, list[tuple[float, str]]]:
    """And when what changes, in words."""
    wifi = [Link(at_s=0, source=_DEVICE, target=edge, both=True, mbit_per_s=4) for edge in _EDGES]
    wifi_back = [Reset(at_s=0, source=_DEVICE, target=edge, both=True) for edge in _EDGES]
    line = [Link(at_s=0, source=edge, target=_CLOUD, both=True, mbit_per_s=100) for edge in _EDGES]
    line_back = [Reset(at_s=0, source=edge, target=_CLOUD, both=True) for edge in _EDGES]
    first, second = _EDGES
    steps: list[tuple[str, Sequence[Event]]] = [
        ("the Wi-Fi falls to 4 Mbit/s", wifi),
        ("the Wi-Fi is back", wifi_back),
        ("edge-1 is loaded", [Load(at_s=0, agent=first, processes=3)]),
        ("edge-2 is loaded, too", [Load(at_s=0, agent=second, processes=3)]),
        ("the backbone rises to 100 Mbit/s", line),
        ("the backbone is back", line_back),
        ("edge-1's load is over", [Load(at_s=0, agent=first, processes=0)]),
        ("edge-2's load is over", [Load(at_s=0, agent=second, processes=0)]),
    ]
    events: list[Event] = []
    changes = []
    for number, (text, now) in enumerate(2 * steps):
        at_s = _SETTLE_S + number * _GAP_S
        events += [msgspec.structs.replace(event, at_s=at_s) for event in now]
        changes.append((at_s, text))
    return _made("reaction", events, changes[-1][0] + _GAP_S), changes


async def _reaction(config: Config, console: Console) -> dict[str, Any]:
    scenario, changes = _reaction_scenario()
    one = await _adaptive(config, scenario, console)
    rows = [
        _follow(one, text, at_s, until_s)
        for (at_s, text), until_s in zip(
            changes, [*(at_s for at_s, _ in changes[1:]), scenario.duration_s], strict=True
        )
    ]
    console.print(_reaction_table(rows))
    resident_s, first_s = _activations_s(one)
    called = [row for row in rows if row["called_for"]]
    result = {
        "changes": rows,
        "called_for": len(called),
        "followed": sum(row["followed"] for row in called),
        "in_time": sum(row["in_time"] for row in called),
        "lag_s": spread([row["lag_s"] for row in called if row["followed"]]),
        "lag_frames": spread([row["lag_frames"] for row in called if row["followed"]]),
        "activation_s": spread(resident_s),
        "activation_first_s": spread(first_s),
        "frames": _frames(one),
        "met": {
            "every change that calls for it is followed in 5 frames or 500 ms": all(
                row["in_time"] for row in called
            ),
            "150 ms from decision to epoch, with what it needs resident": max(resident_s, default=0.0)
            <= TARGETS["activation_s"],
            "one switch a change": max(row["switches"] for row in rows) <= 1,
            "no frame lost, repeated or inexact": _is_clean(one),
        },
    }
    _say(console, result)
    _say_activations(console, resident_s, first_s)
    return result


def _say_activations(console: Console, resident_s: Sequence[float], first_s: Sequence[float]) -> None:
    for text, found in (("what it needs resident", spread(resident_s)), ("first", spread(first_s))):
        if found is not None:
            words = f"{found['median'] * 1e3:.0f} ms, at most {found['max'] * 1e3:.0f}"
            console.print(f"from decision to epoch, {text}: {words} ({found['count']})", highlight=False)


def _follow(one: _Pass, text: str, at_s: float, until_s: float) -> dict[str, Any]:
    """What became of one change. A better plan is one of which the exact plan has less than `_WORTH`."""
    begun_s = one.played.begun_s
    offset_s = begun_s - one.history.run.started_s
    regrets = [
        (j.start_s - offset_s, j.kept_s / j.best_s if j.kept_s else float("inf"))
        for j in one.judged.judged
        if j.end_s - offset_s > at_s + 1e-6 and j.start_s - offset_s < until_s
    ]
    called = bool(regrets) and regrets[0][1] > _WORTH
    better_s = next((start_s for start_s, regret in regrets if regret <= _WORTH), None)
    lag_s = lag_frames = None
    if called and better_s is not None:
        starts_s = [s - begun_s for s in one.history.frames.started_s]
        starts_s.sort()
        first = bisect_left(starts_s, better_s)
        if first < len(starts_s):
            lag_s = starts_s[first] - at_s
            lag_frames = first - bisect_left(starts_s, at_s)
    in_time = (lag_s is not None and lag_s <= TARGETS["reaction_s"]) or (
        lag_frames is not None and lag_frames <= TARGETS["frames"]
    )
    return {
        "change": text,
        "at_s": at_s,
        "called_for": called,
        "followed": lag_s is not None,
        "lag_s": lag_s,
        "lag_frames": lag_frames,
        "in_time": in_time,
        "switches": sum(at_s <= s < until_s for s in one.activations_s),
        "regret_before": regrets[0][1] if regrets else None,
        "regret_after": regrets[-1][1] if regrets else None,
    }


def _activations_s(one: _Pass) -> tuple[list[float], list[float]]:
    """Of every switch in the scenario."""
    return activations_s(one.history.epochs, one.decided_s, one.played.begun_s, one.ends_s)


def _reaction_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(
        "change",
        "at s",
        "regret before",
        "after",
        "lag ms",
        "frames",
        "switches",
        "in time",
        title="reaction: until the first frame under a plan within 7 % of the exact one",
        box=box.SIMPLE_HEAD,
    )
    for row in rows:
        lag_s = row["lag_s"]
        table.add_row(
            row["change"],
            f"{row['at_s']:.0f}",
            _ratio(row["regret_before"]),
            _ratio(row["regret_after"]),
            "–" if lag_s is None else f"{lag_s * 1e3:.0f}",
            "–" if lag_s is None else str(row["lag_frames"]),
            str(row["switches"]),
            ("yes" if row["in_time"] else "[red]no[/]") if row["called_for"] else "not called for",
        )
    return table


# ── noise ─────────────────────────────────────────────────────────────────────────────────────────


def _noise_scenario(config: Config, seed: int = 1) -> Scenario:
    """Twice a second a link or a speed is set to within ±10 % of what is configured."""
    draw = random.Random(seed)
    held = truth(_made("still", [], 1.0), config, "", 0.0)[0]
    events: list[Event] = []
    at_s = _SETTLE_S
    while at_s < _SETTLE_S + _NOISE_S:
        factor = 1 + draw.uniform(-_NOISE, _NOISE)
        source, target, bytes_per_s, _ = draw.choice(held.rates)
        events.append(Link(at_s=at_s, source=source, target=target, mbit_per_s=bytes_per_s * 8e-6 * factor))
        agent = draw.choice(config.agents)
        speed = min(1.0, agent.speed * (1 + draw.uniform(-_NOISE, _NOISE)))
        events.append(Speed(at_s=at_s + 0.25, agent=agent.name, speed=speed))
        at_s += 0.5
    return _made("noise", events, _SETTLE_S + _NOISE_S)


async def _noise(config: Config, console: Console) -> dict[str, Any]:
    one = await _adaptive(config, _noise_scenario(config), console)
    switches = sum(s >= _SETTLE_S for s in one.activations_s)
    kept = sum(d.choice == "keep" and d.at_s >= one.played.begun_s + _SETTLE_S for d in one.history.decisions)
    result = {
        "seconds": _NOISE_S,
        "noise": _NOISE,
        "switches": switches,
        "reconsidered_and_kept": kept,
        "frames": _frames(one),
        "met": {
            "no switch by noise alone": switches == 0,
            "no frame lost, repeated or inexact": _is_clean(one),
        },
    }
    console.print(
        f"noise: {switches} switches in {_NOISE_S:g} s of ±{_NOISE:.0%}, {kept} times reconsidered and kept",
        highlight=False,
    )
    _say(console, result)
    return result


# ── a day of a camera ─────────────────────────────────────────────────────────────────────────────


async def _day(config: Config, console: Console) -> dict[str, Any]:
    scenario = read_scenario(find_scenario("camera-day"))
    one = await _adaptive(config, scenario, console)
    found = one.judged
    best_s, mean_s, regret = found.best_s, one.played.mean_s, found.regret
    if best_s is None or mean_s is None or regret is None:
        raise ConfigError(scenario.name, "", f"cannot be judged: {found.problem}", "see the server's log")
    statics_s = _statics_s(one)
    static_name, least_s = min(statics_s.items(), key=lambda item: item[1])
    changes_s = sorted({event.at_s for event in scenario.events})
    edges_s = [0.0, *changes_s, scenario.duration_s]
    per_change = [sum(a <= s < b for s in one.activations_s) for a, b in pairwise(edges_s)]
    resident_s, first_s = _activations_s(one)
    result = {
        "mean_s": mean_s,
        "oracle_s": best_s,
        "over_oracle": mean_s / best_s,
        "regret": regret,
        "static": static_name,
        "static_s": least_s,
        "static_over_mean": least_s / mean_s,
        "statics_s": statics_s,
        "changes": len(changes_s),
        "switches": len(one.activations_s),
        "most_switches_per_change": max(per_change),
        "activation_s": spread(resident_s),
        "activation_first_s": spread(first_s),
        "frames": _frames(one),
        "met": {
            "mean latency within 10 % of the oracle's": mean_s / best_s <= TARGETS["oracle"],
            "1.3 times better than the best static plan (predicted)": least_s / mean_s >= TARGETS["static"],
            "at most one switch per change": max(per_change) <= 1,
            "no frame lost, repeated or inexact": _is_clean(one),
        },
    }
    console.print(
        f"day: {mean_s * 1e3:.0f} ms on average; an oracle {best_s * 1e3:.0f} ms ({mean_s / best_s:.2f}×), "
        f"predicted regret {regret:.1%}; the best static plan ({static_name}) {least_s * 1e3:.0f} ms, "
        f"{least_s / mean_s:.2f}×; {len(one.activations_s)} switches at {len(changes_s)} changes, at most "
        f"{max(per_change)} at one",
        highlight=False,
        soft_wrap=True,
    )
    _say(console, result)
    return result


def _statics_s(one: _Pass) -> dict[str, float]:
    """What each plan would have taken on average, all the time: those that strategies make at the start, and
    the exact plan of every moment; by name."""
    found: dict[str, float] = {}
    plans = dict(_first_plans(one.ground, one.held[0]))
    for number, seen in enumerate(one.held):
        try:
            choice = planned(one.ground, seen)
        except (PlanInfeasible, ConfigError):
            continue
        plans.setdefault(f"the exact plan of change {number}", (choice.plan, choice.route))
    for name, (plan, route) in plans.items():
        mean_s = static_s(one.ground, one.held, one.ends_s, plan, route)
        if mean_s is not None:
            found[name] = mean_s
    return found


def _first_plans(ground: Ground, seen: Circumstances) -> list[tuple[str, tuple[Plan, dict[Tier, AgentId]]]]:
    found = []
    for strategy in (*_TIERS, "optimal"):
        try:
            choice = planned(ground, seen, strategy)
        except (PlanInfeasible, ConfigError):
            continue
        found.append((strategy, (choice.plan, choice.route)))
    return found


async def _static(config: Config, console: Console) -> dict[str, Any]:
    """The best of the plans that strategies make at the start, kept all day."""
    scenario = read_scenario(find_scenario("camera-day"))
    async with open_testbed(config, ["--port", "0", "--fixed"]) as bed:
        stage = Stage(bed.base, bed=bed, config=config)
        still = await bed.watched(_pass(stage, _made("still", [], 3.0), config, console))
        held = truth(scenario, config, still.held[0].ground, 0.0)
        means_s = {
            name: static_s(still.ground, held, scenario.duration_s, plan, route)
            for name, (plan, route) in _first_plans(still.ground, held[0])
        }
        strategy = min(means_s, key=lambda name: means_s[name] or float("inf"))
        await bed.switch(strategy=strategy)
        one = await bed.watched(_pass(stage, scenario, config, console))
    mean_s = one.played.mean_s or float("nan")
    console.print(
        f"static: the first plan of {strategy} takes {mean_s * 1e3:.0f} ms on average", highlight=False
    )
    return {"strategy": strategy, "mean_s": mean_s, "predicted_s": means_s[strategy], "frames": _frames(one)}


# ── words and numbers ─────────────────────────────────────────────────────────────────────────────


def _made(name: str, events: Sequence[Event], duration_s: float) -> Scenario:
    return Scenario(name, f"{name}.toml", name, duration_s, tuple(events), ("",) * len(events))


def _is_clean(one: _Pass) -> bool:
    frames = _frames(one)
    return not (frames["lost"] or frames["repeated"] or frames["inexact"])


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _say(console: Console, result: Mapping[str, Any]) -> None:
    for target, met in result["met"].items():
        console.print(f"{target}: {'met' if met else 'missed'}", style=None if met else "red")


PARTS: dict[str, Callable[[Config, Console], Any]] = {
    "reaction": _reaction,
    "noise": _noise,
    "day": _day,
    "static": _static,
    "return": returning,
    "switches": switching,
}
