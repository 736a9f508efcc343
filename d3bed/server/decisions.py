"""What was decided for a pipeline, on what evidence, and what came of it: one record a cause.

Pure. A decision is made when a wish is settled: frames move to another epoch, the present one is kept, or
the wish cannot be granted. The record says what was seen, what could have been done and what that would
take; once the first frames of a new epoch are answered, what they really took. It is stored, published and
shown as one sentence, which grows with it. Nothing is decided here.
"""

from __future__ import annotations

import statistics
from typing import Literal

import msgspec

from d3bed.core.ids import CauseId, Epoch, PipelineId, Tier
from d3bed.core.measurements import FrameReport
from d3bed.plan import Choice
from d3bed.server.epochs import PlannedEpoch, Wish, placement
from d3bed.server.views import AlternativeView, DecisionView, MoveView
from d3bed.server.world import World

__all__ = ["KEPT", "LEAST_FRAMES", "LEAST_TOLD", "MEASURED_FRAMES", "Decisions"]

#: The measured result of a move is the median over so many first frames of its epoch; if that is over
#: sooner, over at least `LEAST_FRAMES`.
MEASURED_FRAMES, LEAST_FRAMES = 8, 3
#: A gain that is told as one: so many times as fast.
LEAST_TOLD = 1.05
#: How many decisions the page is shown.
KEPT = 100
#: So many of the vertices that moved are named.
_NAMED = 12


class Decisions:
    """Those of one pipeline; `latest` are shown, oldest first."""

    def __init__(self, pipeline: PipelineId, world: World) -> None:
        self._pipeline, self._world = pipeline, world
        self._shown: dict[CauseId, DecisionView] = {}
        self._open: dict[Epoch, tuple[DecisionView, list[float]]] = {}
        #: The epoch that each of them followed, and what the last frame under that took.
        self._before: dict[Epoch, Epoch] = {}
        self._last_s: dict[Epoch, float] = {}

    @property
    def latest(self) -> tuple[DecisionView, ...]:
        return tuple(self._shown.values())

    def planned(self, wish: Wish, choice: Choice) -> None:
        """A plan was made; whether it comes into force is still to be decided."""
        self._world.record(
            "plans",
            at_s=self._world.now,
            cause_id=wish.cause_id,
            pipeline=self._pipeline,
            model=wish.model.name,
            strategy=wish.strategy,
            cost_s=choice.solution.cost_s,
            plan_time_s=choice.solution.plan_time_s,
            latency_s=choice.timeline.latency_s,
            route=dict(choice.route),
            tiers=choice.plan.describe(),
        )

    # ── what was decided ──────────────────────────────────────────────────────────────────────────

    def moved(self, epoch: PlannedEpoch, before: PlannedEpoch | None, reason: str) -> None:
        """Frames go on under `epoch`; its answers are still to come."""
        view = self._view(
            epoch.wish,
            choice="move",
            epoch=epoch.number,
            reason=reason,
            plan=epoch.sentence(),
            alternatives=_alternatives(epoch.choice, before),
            kept_s=epoch.choice.kept_s,
            predicted_s=epoch.choice.latency_s,
            moves=_moves(epoch, before),
        )
        self._open[epoch.number] = (view, [])
        if before is not None and before.wish.model == epoch.wish.model:
            self._before[epoch.number] = before.number
        self._world.orders.decided(self._pipeline, "move", f"epoch {epoch.number} is in force")
        if len(self._open) > KEPT:
            del self._open[next(iter(self._open))]
        self._put(view)

    def kept(self, active: PlannedEpoch, wish: Wish, choice: Choice, reason: str, *, news: bool) -> None:
        """The active epoch goes on, and not what was planned. What is no news is only stored."""
        view = self._view(
            wish,
            choice="keep",
            epoch=active.number,
            reason=reason,
            plan=active.sentence(),
            alternatives=_alternatives(choice, active),
            kept_s=choice.kept_s,
            predicted_s=choice.kept_s,
        )
        self._put(view, shown=news)
        kept = f"epoch {active.number} kept, because {reason}"
        self._world.orders.decided(self._pipeline, "keep", kept)

    def failed(
        self,
        wish: Wish,
        problem: str,
        active: PlannedEpoch | None,
        level: Literal["warn", "error"],
        *,
        news: bool = True,
    ) -> None:
        """The wish could not be granted; an active epoch goes on, as far as it can. What is no news is only
        stored."""
        view = self._view(
            wish,
            choice="fail",
            epoch=active.number if active else None,
            reason=problem,
            plan=active.sentence() if active and not active.broken else "",
            level=level,
        )
        self._put(view, shown=news)
        self._world.orders.decided(self._pipeline, "fail", problem)

    # ── what came of it ───────────────────────────────────────────────────────────────────────────

    def answered(self, frame: FrameReport, lead: Epoch, in_flight: int) -> DecisionView | None:
        """Under the plan, at the first try. Returns a move that has its measured result with it; `lead`: the
        epoch that leads the mix of the frame's. Of frames that waited for others (`in_flight`) the
        prediction, which is of one alone, is not judged."""
        latency_s = frame.latency_s - frame.waited_s
        self._last_s[lead] = latency_s
        if len(self._last_s) > KEPT:
            del self._last_s[next(iter(self._last_s))]
        found = self._open.get(lead)
        if found is None:
            return None
        found[1].append(latency_s)
        return self._settle(lead, in_flight) if len(found[1]) >= MEASURED_FRAMES else None

    def closed(self, epoch: Epoch, in_flight: int) -> DecisionView | None:
        """No more answers will come of this epoch: those that came have to do."""
        return self._settle(epoch, in_flight)

    def _settle(self, number: Epoch, in_flight: int) -> DecisionView | None:
        view, latencies_s = self._open.pop(number, (None, []))
        before = self._before.pop(number, None)
        if view is None or len(latencies_s) < LEAST_FRAMES:
            return None
        measured_s = statistics.median(latencies_s)
        predicted_s = view.predicted_s if in_flight == 1 else None
        view = msgspec.structs.replace(
            view,
            measured_s=measured_s,
            frames=len(latencies_s),
            error=measured_s / predicted_s - 1 if predicted_s else None,
            # Where plans follow at once, a change reached one frame only: the last one under the plan left.
            before_s=None if before is None else self._last_s.get(before),
        )
        view = msgspec.structs.replace(view, text=_sentence(view))
        self._put(view)
        return view

    # ── rows and words ────────────────────────────────────────────────────────────────────────────

    def _view(
        self,
        wish: Wish,
        *,
        choice: Literal["move", "keep", "fail"],
        epoch: Epoch | None,
        reason: str,
        plan: str,
        alternatives: tuple[AlternativeView, ...] = (),
        kept_s: float | None = None,
        predicted_s: float | None = None,
        level: Literal["info", "warn", "error"] = "info",
        moves: tuple[MoveView, ...] = (),
    ) -> DecisionView:
        view = DecisionView(
            pipeline=self._pipeline,
            cause_id=wish.cause_id,
            at_s=self._world.now,
            cause=wish.cause,
            seen=wish.seen,
            alternatives=alternatives,
            choice=choice,
            epoch=epoch,
            plan=plan,
            reason=reason,
            kept_s=kept_s,
            predicted_s=predicted_s,
            moves=moves,
            level=level,
        )
        return msgspec.structs.replace(view, text=_sentence(view))

    def _put(self, view: DecisionView, *, shown: bool = True) -> None:
        data = msgspec.to_builtins(view)
        self._world.record(
            "decisions",
            cause_id=view.cause_id,
            pipeline=view.pipeline,
            at_s=view.at_s,
            choice=view.choice,
            view=data,
        )
        if shown:
            self._shown[view.cause_id] = view
            if len(self._shown) > KEPT:
                del self._shown[next(iter(self._shown))]
            self._world.publish("decision", view, view.cause_id)


def _alternatives(choice: Choice, present: PlannedEpoch | None) -> tuple[AlternativeView, ...]:
    """The plan that was made, the one in force, and each tier alone; what takes least comes first."""
    found = [AlternativeView(placement(choice.plan, choice.route), choice.latency_s)]
    if present is not None and choice.kept_s is not None and present.sentence() != found[0].plan:
        found.append(AlternativeView(f"as it was: {present.sentence()}", choice.kept_s))
    found += [AlternativeView(f"all on {choice.agents[tier]}", s) for tier, s in choice.alone_s.items()]
    return tuple(sorted(found, key=lambda each: each.predicted_s))


def _moves(epoch: PlannedEpoch, before: PlannedEpoch | None) -> tuple[MoveView, ...]:
    if before is None or before.wish.model != epoch.wish.model:
        return ()
    names: dict[tuple[Tier, Tier], list[str]] = {}
    for vertex in epoch.plan.moved(before.plan):
        ends = before.plan.tiers[vertex], epoch.plan.tiers[vertex]
        names.setdefault(ends, []).append(epoch.graph.vertices[vertex].name)
    return tuple(MoveView(*ends, len(found), tuple(found[:_NAMED])) for ends, found in names.items())


def _sentence(view: DecisionView) -> str:
    """As in `pi-1→edge-1 fell from 80 to 11 Mbit/s → epoch 4: …; predicted 412 → 265 ms a frame, measured
    405 → 271 ms, 1.5 times as fast`."""
    if view.choice == "fail":
        goes_on = f"; epoch {view.epoch} goes on" if view.plan else ""
        if view.epoch is not None and not view.plan:
            goes_on = "; the device answers alone"
        return f"{view.cause}: {view.reason}{goes_on}"
    if view.choice == "keep":
        return f"{view.cause}: epoch {view.epoch} kept, because {view.reason}"
    kept = f"{_ms(view.kept_s)} → " if view.kept_s is not None else ""
    assert view.predicted_s is not None
    words = "; ".join(part for part in (view.plan, view.reason) if part)
    measured = ""
    if view.measured_s is not None:
        before = f"{_ms(view.before_s)} → " if view.before_s is not None else ""
        gain = (view.before_s or 0.0) / view.measured_s
        measured = f", measured {before}{_ms(view.measured_s)} ms"
        measured += f", {gain:.1f} times as fast" if gain >= LEAST_TOLD else ""
    predicted = f"predicted {kept}{_ms(view.predicted_s)} ms a frame{measured}"
    return f"{view.cause} → epoch {view.epoch}: {words}; {predicted}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.0f}"
