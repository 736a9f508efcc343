"""What the exact plan would have taken, in hindsight: the regret of the plans that were in force. Pure.

For the circumstances that were recorded, the exact plan is made and the plan in force is played, both with
the same numbers. Monitors need some samples to see a change, and the time until then is regret too:
circumstances are taken to have held since something was known to happen to an agent or a link, if that
was at most `KNOWN_S` before they were recorded, else since `LAG_S` before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from d3bed.core.errors import ConfigError, PlanInfeasible
from d3bed.core.ids import AgentId, Tier
from d3bed.core.measurements import LinkRate
from d3bed.core.plan import Plan
from d3bed.plan import Choice, choose, timeline
from d3bed.plan.vsm import PIECE_S, TileCosts
from d3bed.server.circumstances import Circumstances, Ground
from d3bed.server.history import RunHistory
from d3bed.server.views import EpochHistory

__all__ = ["KNOWN_S", "LAG_S", "MOST", "Hindsight", "Judged", "hindsight", "planned", "static_s"]

LAG_S, KNOWN_S = 0.5, 3.0
#: Planning takes some milliseconds each: of more circumstances only so many, spread evenly, are looked at.
MOST = 150


@dataclass(frozen=True)
class Judged:
    """From `start_s` to `end_s` (since the run's start) the exact plan was predicted to take `best_s` per
    frame, the plan in force `kept_s` (None: it could not be carried out any more)."""

    start_s: float
    end_s: float
    best_s: float
    kept_s: float | None


@dataclass(frozen=True)
class Hindsight:
    """`problem` says why nothing could be judged; "" where something was. While frames overlapped plans were
    not made for one frame's latency, and are not judged: `skips` says that there was such a time."""

    judged: tuple[Judged, ...]
    problem: str = ""
    skips: bool = False

    @property
    def best_s(self) -> float | None:
        """What a frame would have taken on average, had the exact plan been in force all the time: of frames
        that come one after the other, the shorter they take the more there are."""
        frames = sum((j.end_s - j.start_s) / j.best_s for j in self.judged)
        return sum(j.end_s - j.start_s for j in self.judged) / frames if frames else None

    @property
    def regret(self) -> float | None:
        """Mean over time of how much longer than the exact plan those in force were predicted to take."""
        parts = [(j.end_s - j.start_s, j.kept_s / j.best_s - 1) for j in self.judged if j.kept_s is not None]
        whole_s = sum(length_s for length_s, _ in parts)
        return sum(length_s * regret for length_s, regret in parts) / whole_s if whole_s else None


def hindsight(history: RunHistory, truth: Sequence[Circumstances] | None = None) -> Hindsight:
    """Takes up to some seconds. Where it is known what held since when, that is the `truth`; else what the
    monitors saw has to do."""
    run = history.run
    if truth is not None:
        history = msgspec.structs.replace(history, circumstances=tuple(truth))
    if not history.circumstances:
        return Hindsight((), "what plans were made from was not recorded, or is no longer kept")
    if not any(each.alone for each in history.circumstances):
        return Hindsight((), "frames overlapped, so that plans were not made for one frame's latency")
    ends_s = run.ended_s if run.ended_s is not None else max(history.frames.started_s, default=run.started_s)
    moments = _moments(history, ends_s, exactly=truth is not None)
    found = []
    untils_s = [*(at_s for at_s, _, _ in moments), ends_s][1:]
    for (at_s, seen, epoch), until_s in zip(moments, untils_s, strict=True):
        ground = history.grounds.get(seen.ground)
        if ground is None or until_s <= at_s or not seen.alone:
            continue
        try:
            best_s = planned(ground, seen).timeline.latency_s
        except (PlanInfeasible, ConfigError):
            continue
        route, plan = epoch.route, Plan.parse(epoch.plan)
        kept_s = _latency_s(ground, seen, plan, route) if route else None
        # The exact plan is exact before tiles: where tiles of the plan in force happen to be better, it is.
        best_s = min(best_s, kept_s or best_s)
        found.append(Judged(at_s - run.started_s, until_s - run.started_s, best_s, kept_s))
    problem = "" if found else "what was recorded does not allow a plan"
    return Hindsight(tuple(found), problem, not all(each.alone for each in history.circumstances))


def static_s(
    ground: Ground, truth: Sequence[Circumstances], ends_s: float, plan: Plan, route: Mapping[Tier, AgentId]
) -> float | None:
    """What a frame would have taken on average under one plan all the time; None where it could not be
    carried out."""
    frames = 0.0
    for seen, until_s in zip(truth, [*(each.at_s for each in truth[1:]), ends_s], strict=True):
        latency_s = _latency_s(ground, seen, plan, route)
        if latency_s is None:
            return None
        frames += (until_s - seen.at_s) / latency_s
    return (ends_s - truth[0].at_s) / frames


def planned(ground: Ground, seen: Circumstances, strategy: str = "optimal") -> Choice:
    """What a strategy would have planned. Raises `PlanInfeasible`, `ConfigError`."""
    costs = _costs(ground, seen)
    return choose(
        ground.graph,
        costs.times_s,
        {agent: tier for agent, tier in ground.agents.items() if agent in costs.times_s},
        _rates(seen),
        ground.device,
        strategy=strategy,
        pins=ground.pins,
        tiling=ground.tiling,
        fixed_s=costs.fixed_s,
    )


def _moments(
    history: RunHistory, ends_s: float, *, exactly: bool
) -> list[tuple[float, Circumstances, EpochHistory]]:
    """When something changed: what was seen (or, `exactly`, what held), or the plan in force."""
    start_s = history.run.started_s
    step = -(-len(history.circumstances) // MOST)
    known_s = [event.at_s for event in history.events if event.pipeline is None]
    seen = []
    for each in history.circumstances if exactly else history.circumstances[::step]:
        if exactly:
            seen.append((max(start_s, each.at_s), each))
            continue
        since_s = max((s for s in known_s if 0 <= each.at_s - s <= KNOWN_S), default=each.at_s - LAG_S)
        seen.append((max(start_s, since_s), each))
    plans = [(max(start_s, epoch.activated_at), epoch) for epoch in history.epochs if epoch.activated_at]
    times_s = sorted({at_s for at_s, _ in seen} | {at_s for at_s, _ in plans})
    found = []
    for at_s in times_s:
        before = [each for since_s, each in seen if since_s <= at_s]
        active = [epoch for since_s, epoch in plans if since_s <= at_s]
        if before and active and at_s < ends_s:
            found.append((at_s, before[-1], active[-1]))
    return found


def _costs(ground: Ground, seen: Circumstances) -> TileCosts:
    def slowed(times: dict[AgentId, tuple[float, ...]]) -> dict[AgentId, tuple[float, ...]]:
        return {
            agent: tuple(s * seen.factors.get(agent, 1.0) for s in times[agent])
            for agent in seen.factors
            if agent in times
        }

    return TileCosts(ground.graph, slowed(ground.profiles), slowed(ground.fixed), PIECE_S)


def _rates(seen: Circumstances) -> dict[tuple[AgentId, AgentId], LinkRate]:
    return {(a, b): LinkRate(bytes_per_s, latency_s) for a, b, bytes_per_s, latency_s in seen.rates}


def _latency_s(
    ground: Ground, seen: Circumstances, plan: Plan, route: Mapping[Tier, AgentId]
) -> float | None:
    costs = _costs(ground, seen)
    if len(plan.tiers) != len(ground.graph.vertices):
        return None
    try:
        return timeline(
            ground.graph, plan, dict(route), costs.times_s, _rates(seen), costs.tile_s, costs.piece_s
        ).latency_s
    except (PlanInfeasible, KeyError):
        return None
