"""What flows through one pipeline: answers, spans and transfers become numbers, views and rows.

Pure. Decides nothing; `pipeline` does. Numbers count into the pipeline's latest run. Answers from a
source that nobody here started (the server restarted, the device did not) begin a run of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from d3bed.core.graph import Graph
from d3bed.core.ids import AgentId, Epoch, FrameId, Tier
from d3bed.core.measurements import FrameReport, Span, SpanKind, Transfer
from d3bed.core.models import CLOSE, TORCH
from d3bed.plan import Segment
from d3bed.plan.vsm import TileCosts
from d3bed.server.circumstances import Witness
from d3bed.server.drawings import Drawings
from d3bed.server.epochs import PlannedEpoch
from d3bed.server.events import Record
from d3bed.server.frames import Allowance, FrameTracker
from d3bed.server.history import frame_row, spans_row
from d3bed.server.pace import SHOWN_PER_S
from d3bed.server.pipeline import Pipeline
from d3bed.server.runs import Run
from d3bed.server.seconds import Seconds
from d3bed.server.statistics import Totals
from d3bed.server.tiles import tile_reports
from d3bed.server.views import (
    EpochView,
    ExactView,
    FramesView,
    FrameView,
    LatencyView,
    MixedView,
    PipelineView,
    PredictionView,
    RunReport,
    TileReport,
)
from d3bed.server.world import AgentRecord

__all__ = ["DEVIATION_LIMIT", "Traffic"]

#: Shaped links that are further off their target than this are flagged.
DEVIATION_LIMIT = 0.02


#: What spans are held against is worked out once, and kept for so many steps; tiles of so many frames may be
#: on their way to being all told.
_DUES, _PARTS = 256, 256


class _Due(NamedTuple):
    """What a compute span is of: a step, or all tiles of its agent in a frame; and how long that takes by
    profile, good for this profile alone. `steps`: how many it is of."""

    segment: Segment
    profiled_s: float
    steps: int
    profile_s: tuple[float, ...]
    fixed_s: tuple[float, ...]


class Traffic:
    """Counts for one pipeline, and shows it; `totals` are over all its runs. Where pipelines are so many that
    fewer of its frames are shown, spans are kept of these alone: so few are kept that they would be gone
    before anybody could ask for them."""

    def __init__(self, pipeline: Pipeline, drawings: Drawings, shown_per_s: float = SHOWN_PER_S) -> None:
        self._pipeline, self._drawings = pipeline, drawings
        self._world = pipeline.world
        self._frames = FrameTracker(
            pipeline.settings.id, pipeline.settings.tiers, self._steps_of, self._count_compute
        )
        self._allowance = Allowance(shown_per_s)
        self._keeps_all = shown_per_s >= SHOWN_PER_S
        self._shown: set[tuple[FrameId, Epoch]] = set()
        self.seconds = Seconds(pipeline.settings.id, pipeline.settings.tiers)
        self.totals = Totals()
        self.witness = Witness(pipeline)
        self._tiled: tuple[Epoch, tuple[TileReport, ...]] | None = None
        self._dues: dict[tuple[object, ...], _Due] = {}
        self._parts: dict[tuple[AgentId, Epoch, FrameId], tuple[int, float]] = {}
        self._shown_epochs: dict[Epoch, EpochView] = {}
        self._dirty_links: set[tuple[AgentId, AgentId]] = set()

    # ── what agents report ────────────────────────────────────────────────────────────────────────

    def frames_answered(self, sent: int, frames: Sequence[FrameReport], dropped: int) -> None:
        stream = self._pipeline.stream
        run = stream.run
        if run is None or not stream.is_counting:
            run = stream.adopt(self._pipeline.active)
            run.sent_before, run.dropped_before = max(0, sent - len(frames)), dropped
        sent, dropped = sent - run.sent_before, max(0, dropped - run.dropped_before)
        run.unsaved = True
        if any(frame.alone for frame in frames):  # of these there are no spans
            self._world.agents[self._pipeline.settings.device].worked_s = self._world.now
        for frame in frames:
            self.totals.add_answer(frame)
            self._frames.add_report(frame, self._world.now, run.id)
            epoch = self._pipeline.epochs.get(frame.epoch)
            run.numbers.add_answer(frame, frame.epoch if epoch is None else epoch.lead)
            if epoch is None:
                self._world.saw_epoch(frame.epoch)
                continue
            if frame.attempts == 1 and not frame.alone:
                epoch.latency_s.add(frame.latency_s - frame.waited_s)
                pipe = self._pipeline
                made = pipe.decisions.answered(frame, epoch.lead, pipe.stream.in_flight)
                if made is not None:
                    pipe.measured(made)
            far = (frame.max_rel_err or 0.0) > CLOSE
            off = frame.identical is False and (far or self._promises_bits(epoch))
            tolerated = bool(epoch.plan.tiles) and self._pipeline.settings.tolerates(frame.max_rel_err)
            if off and not tolerated and not epoch.differed:
                epoch.differed = True
                self._note(f"frame {frame.frame} differs from the undivided model (epoch {frame.epoch})")
        run.numbers.sent = max(run.numbers.sent, sent)
        self.totals.dropped += max(0, dropped - run.numbers.dropped)
        run.numbers.dropped = dropped

    def spans_recorded(self, agent: AgentId, spans: Iterable[Span], clock_error_s: float) -> None:
        self._frames.add_spans(agent, spans)
        record = self._world.agents[agent]
        record.clock_error_s = clock_error_s
        jumped, epochs = False, self._pipeline.epochs
        for span in spans:
            epoch = epochs.get(span.epoch)
            if span.kind is SpanKind.TILED and epoch is not None:
                epoch.tiled(span.vertices, span.end_s - span.start_s)
            if span.kind is not SpanKind.COMPUTE:
                continue
            record.worked_s = self._world.now
            if epoch is None or agent not in epoch.agents:
                continue
            due = self._due(epoch, record, span)
            taken_s = self._taken_s(agent, span, due.steps) if due is not None else None
            if due is not None and taken_s is not None:
                jumped |= record.correction.observe(due.segment, taken_s, due.profiled_s, self._world.now)
        if jumped:
            self._pipeline.watch()

    def _due(self, epoch: PlannedEpoch, record: AgentRecord, span: Span) -> _Due | None:
        """What a compute span is held against; None where its agent has no such step, or no profile."""
        agent, model = record.register.agent, epoch.wish.model
        profile_s, fixed_s = record.times_s(model), record.fixed.get(model, ())
        key = (epoch.number, agent, span.vertices, span.tile)
        known = self._dues.get(key)
        if known is not None and known.profile_s is profile_s and known.fixed_s is fixed_s:
            return known
        step = epoch.step_of(agent, span)
        if step is None or profile_s is None:
            return None
        steps = [step] if step.tile is None else epoch.tiles_on(agent)
        costs = TileCosts(epoch.graph, {agent: profile_s}, {agent: fixed_s})
        profiled_s = sum(
            sum(profile_s[vertex] for vertex in each.vertices)
            if each.tile is None
            else epoch.tile_time_s(agent, each.tile) or costs.tile_s(agent, each.tile)
            for each in steps
        )
        vertices = tuple(sorted({vertex for each in steps for vertex in each.vertices}))
        tiles = " ".join(str(each.tile.makes) for each in steps if each.tile is not None)
        if len(self._dues) >= _DUES:
            self._dues.clear()
        segment = Segment(epoch.graph.digest, vertices, tiles)
        found = self._dues[key] = _Due(segment, profiled_s, len(steps), profile_s, fixed_s)
        return found

    def _taken_s(self, agent: AgentId, span: Span, steps: int) -> float | None:
        """Of so many steps that count as one, once all of a frame are told: what one is late by, an emulated
        board takes off the next."""
        told, taken_s = self._parts.pop((agent, span.epoch, span.frame), (0, 0.0))
        told, taken_s = told + 1, taken_s + span.end_s - span.start_s
        if told >= steps:
            return taken_s
        if len(self._parts) >= _PARTS:
            del self._parts[next(iter(self._parts))]
        self._parts[agent, span.epoch, span.frame] = told, taken_s
        return None

    def transferred(self, agent: AgentId, transfers: Iterable[Transfer]) -> None:
        run, news, now = self._pipeline.stream.run, False, self._world.now
        for transfer in transfers:
            ends = (agent, transfer.peer)
            link = self._world.link(*ends)
            link.traffic.add(transfer)
            self.seconds.add_transfer(agent, transfer)
            jumped = link.estimator.transferred(transfer.bytes, transfer.taken_s, now)
            if not jumped and link.estimator.leaning:
                news = True  # that it is to be looked at
                self._world.link_leans(*ends)
                jumped = link.estimator.confirm(self._world.others_went(*ends), now)
            if jumped:
                news = True
                self._world.link_changed(*ends)
            self._dirty_links.add(ends)
            if run is not None:
                run.numbers.add_transfer(agent, transfer)
                run.unsaved = True
        if news:
            self._pipeline.watch()

    def source_ended(self, sent: int, answered: int, dropped: int) -> None:
        run = self._pipeline.stream.run
        if run is None or run.ended_s is not None:
            return
        sent, answered = sent - run.sent_before, answered - run.sent_before
        dropped = max(0, dropped - run.dropped_before)
        self.totals.dropped += max(0, dropped - run.numbers.dropped)
        run.numbers.sent, run.numbers.dropped = max(sent, run.numbers.answered), dropped
        run.numbers.lost = 0 if run.stopped else max(0, sent - answered)
        self.totals.lost += run.numbers.lost
        self._pipeline.stream.end()
        text = f"run {run.id} {'stopped' if run.stopped else 'ended'}: {answered} of {sent} frames answered"
        if dropped:
            text += f"; {dropped} more came too fast and were dropped"
        self._note(text, error=run.numbers.lost > 0)

    def _count_compute(self, tier: Tier, compute_s: float) -> None:
        self.totals.add_compute(tier, compute_s)
        if self._pipeline.stream.run is not None:
            self._pipeline.stream.run.numbers.add_compute(tier, compute_s)
            self._pipeline.stream.run.unsaved = True

    def _steps_of(self, number: Epoch) -> Mapping[AgentId, int]:
        epoch = self._pipeline.epochs.get(number)
        return epoch.steps if epoch is not None else {}

    def _note(self, text: str, *, error: bool = True) -> None:
        epoch = self._pipeline.active
        self._world.note(
            text,
            "error" if error else "info",
            pipeline=self._pipeline.settings.id,
            cause_id=epoch.wish.cause_id if epoch else None,
        )

    # ── from time to time ─────────────────────────────────────────────────────────────────────────

    def take_ripe(self) -> list[FrameView]:
        """Frames to be shown now; those of which nothing more is to come are stored."""
        ripe = self._frames.take_ripe(self._world.now)
        for frame in ripe:
            epoch = self._pipeline.epochs.get(frame.epoch)
            self.seconds.add_frame(frame, epoch.graph.output_bytes[0] if epoch else 0)
        shown = [frame for frame in ripe if self._allowance.take(self._world.now)]
        self._shown |= {(frame.frame, frame.epoch) for frame in shown}
        self.keep_frames(self._world.now)
        return shown

    def keep_frames(self, now: float) -> None:
        """Store the frames that are settled at `now`."""
        for frame in self._frames.take_settled(now):
            self._world.command(Record("frames", frame_row(frame)))
            was_shown = (frame.frame, frame.epoch) in self._shown
            if was_shown or self._keeps_all:
                self._world.command(Record("spans", spans_row(frame, self._clock_error_s())))
            self._shown.discard((frame.frame, frame.epoch))

    def _clock_error_s(self) -> dict[AgentId, float]:
        agents = self._world.agents
        return {a: agents[a].clock_error_s for a in self._pipeline.settings.tiers if a in agents}

    def count_seconds(self) -> None:
        """Publish the second that is over."""
        active = self._pipeline.active
        if self.seconds.tick(
            self._world.now,
            counting=self._pipeline.stream.is_counting,
            epoch=active.number if active else None,
            predicted_s=active.predicted_s if active else None,
        ):
            self._world.publish("second", self.seconds.last)

    def publish_numbers(self) -> None:
        """Publish links that carried something and epochs whose measured latency changed."""
        self.witness.look()
        for ends in sorted(self._dirty_links):
            self._world.publish("link", self._world.links[ends].view(*ends, self._world.now))
        self._dirty_links.clear()
        for epoch in (self._pipeline.active, *self._pipeline.draining.values()):
            if epoch is not None and self._shown_epochs.get(epoch.number) != epoch.view:
                self._shown_epochs = {epoch.number: epoch.view}
                self._world.publish("epoch", epoch.view, epoch.wish.cause_id)

    def record_again(self, *, everything: bool) -> None:
        """The store did not keep the latest: the run, or `everything` that it must have."""
        if everything:
            self._pipeline.record_again()
            self.witness.forget()
        if self._pipeline.stream.run is not None:
            self._pipeline.stream.run.unsaved = True

    def save_run(self) -> None:
        """Store the latest run as it is now, if it changed, and those before it that were not stored yet."""
        stream = self._pipeline.stream
        before, stream.unsaved = stream.unsaved, []
        for run in (*before, *([stream.run] if stream.run is not None and stream.run.unsaved else [])):
            self._save(run)

    def _save(self, run: Run) -> None:
        run.unsaved = False
        self._world.record(
            "runs",
            id=run.id,
            pipeline=run.pipeline,
            started_s=run.started_s,
            ended_s=run.ended_s,
            view=msgspec.to_builtins(run.view),
            report=msgspec.to_builtins(self.report(run)),
        )

    def judge_links(self) -> None:
        """Once a run is over: say which links were not as fast as they were meant to be."""
        run = self._pipeline.stream.run
        if run is None or run.judged or self._pipeline.stream.is_counting:
            return
        run.judged = True
        for (source, target), traffic in run.numbers.traffic.items():
            if abs(traffic.deviation or 0.0) > DEVIATION_LIMIT:
                text = f"link {source}→{target} ran {traffic.deviation:+.1%} off its emulated rate"
                self._world.note(text, "warn", pipeline=run.pipeline)

    # ── views ─────────────────────────────────────────────────────────────────────────────────────

    def report(self, run: Run) -> RunReport:
        agents = self._world.agents
        return run.report([agents[agent] for agent in self._pipeline.settings.tiers if agent in agents])

    def view(self, before: PipelineView | None) -> PipelineView:
        """The pipeline as it is now; with `before`, its running numbers are taken from there."""
        pipe, epoch, run = self._pipeline, self._pipeline.active, self._pipeline.stream.run
        target = pipe.target
        phase, phase_text = pipe.phase
        graph = self._graph()
        device = self._world.agents.get(pipe.settings.device)
        numbers: PipelineView | Run | None = before or run
        return PipelineView(
            id=pipe.settings.id,
            phase=phase,
            phase_text=phase_text,
            model=(target.model if target else pipe.settings.model).name,
            strategy=target.strategy if target else pipe.settings.strategy,
            network=pipe.settings.network,
            epoch=epoch.number if epoch else None,
            plan=epoch.plan.tiers if epoch else None,
            plan_text=epoch.text if epoch else None,
            route=epoch.route if epoch else {},
            graph=self._drawings.of(graph) if graph else None,
            profile_s=self._profiles(epoch) if epoch else {},
            guessed=pipe.guessed,
            predicted=PredictionView(epoch.choice.latency_s, epoch.choice.compute_s) if epoch else None,
            frames=numbers.frames if numbers else FramesView(),
            exact=numbers.exact if numbers else ExactView(),
            latency_s=numbers.latency_s if numbers else LatencyView(),
            compute_s=numbers.compute_s if numbers else {},
            emulated=bool(pipe.settings.shapes) or self._is_slowed(),
            same_fingerprint=epoch is not None and self._promises_bits(epoch),
            run=run.id if run else None,
            counting=pipe.stream.is_counting,
            tiles=self._tiles(epoch) if epoch else (),
            rate_per_s=pipe.stream.rate_per_s,
            sustains_per_s=epoch.choice.frames_per_s if epoch else None,
            mix=tuple(MixedView(each.number, each.share, each.text, each.predicted_s) for each in epoch.group)
            if epoch and epoch.others
            else (),
            members=dict(pipe.settings.tiers),
            photos=tuple(device.thumbnails) if device else (),
        )

    def _graph(self) -> Graph | None:
        """Of the active epoch; before there is one, of the model that is wanted."""
        pipe = self._pipeline
        if pipe.active is not None:
            return pipe.active.graph
        record = self._world.agents.get(pipe.settings.device)
        loaded = record.loaded.get(pipe.wish.model) if record and pipe.wish else None
        return loaded.graph if loaded else None

    def _tiles(self, epoch: PlannedEpoch) -> tuple[TileReport, ...]:
        """As planned and checked; made once an epoch."""
        if self._tiled is None or self._tiled[0] != epoch.number:
            self._tiled = (epoch.number, tile_reports(epoch))
        return self._tiled[1]

    def _profiles(self, epoch: PlannedEpoch) -> dict[Tier, tuple[float, ...]]:
        """Seconds per vertex on the agents of the route, as far as they are known."""
        found = {t: self._world.agents[a].times_s(epoch.wish.model) for t, a in epoch.route.items()}
        return {tier: times_s for tier, times_s in found.items() if times_s is not None}

    def _is_slowed(self) -> bool:
        agents = self._world.agents
        members = (agents[a].register for a in self._pipeline.settings.tiers if a in agents)
        return any(register.speed != 1 or register.cpus is not None for register in members)

    def _promises_bits(self, epoch: PlannedEpoch) -> bool:
        """Whether answers must have the undivided network's bits: all compute alike, and by torch."""
        loaded = [self._world.agents[agent].loaded.get(epoch.wish.model) for agent in epoch.agents]
        alike = len({each.fingerprint if each else None for each in loaded}) == 1
        return alike and all(each is not None and each.engine == TORCH for each in loaded)
