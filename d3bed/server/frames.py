"""Joins what the device says of a frame with the spans that other agents send later.

Pure. A frame is ripe when its answer is here and every tier's compute spans are complete (as many
as its program has steps), or `PATIENCE_S` after its answer, or when memory runs out: the oldest of
`TRACKED` frames is let go. It is settled `SETTLED_S` after its answer, when nothing more is to come: not
everything that is told of a frame is needed to show it; then it is forgotten. Every answered frame is given
out once as ripe and once as settled. The compute time of all is counted, once per frame and tier: when
complete, else when it is ripe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from d3bed.core.ids import AgentId, Epoch, FrameId, PipelineId, Tier
from d3bed.core.measurements import FrameReport, Span, SpanKind
from d3bed.server.pace import SHOWN_PER_S
from d3bed.server.seconds import parts
from d3bed.server.views import FrameView, SpanView

__all__ = ["PATIENCE_S", "SETTLED_S", "TRACKED", "Allowance", "FrameTracker"]

#: A frame is shown after so long, complete or not; many agents tell of it half a second after each other.
PATIENCE_S, SETTLED_S = 0.5, 0.75
TRACKED = 128
_BURST_S = 0.5


class Allowance:
    """Says which of many frames are shown: a few at once, and `per_s` from then on."""

    def __init__(self, per_s: float = SHOWN_PER_S) -> None:
        self._per_s = per_s
        self._left = self._most = max(1.0, _BURST_S * per_s)
        self._topped_up_s = 0.0

    def take(self, now: float) -> bool:
        since_s = max(0.0, now - self._topped_up_s)
        self._left = min(self._most, self._left + since_s * self._per_s)
        self._topped_up_s = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class _Tracked:
    __slots__ = (
        "answered_at_s", "busy_s", "counted", "report", "ripe", "run", "settled", "spans", "steps", "view"
    )  # fmt: skip

    def __init__(self) -> None:
        self.report: FrameReport | None = None
        self.run = ""
        self.answered_at_s = 0.0
        self.spans: list[SpanView] = []
        self.busy_s: dict[AgentId, float] = {}
        self.steps: dict[AgentId, int] = {}
        self.counted: set[Tier] = set()
        self.ripe = False
        self.settled = False
        #: As it was given out, as long as nothing was told of it since.
        self.view: FrameView | None = None

    def has_done(self, wanted: Mapping[AgentId, int]) -> bool:
        """Whether all these compute steps were seen."""
        if not wanted:
            return False
        for agent, steps in wanted.items():  # no generator: this is done for every span
            if self.steps.get(agent, 0) < steps:
                return False
        return True


class FrameTracker:
    """`steps_of` gives the compute steps per agent of an epoch; empty for one that is not known.

    `tiers` are the agents'. `count` is called with the compute seconds that one frame took on one tier.
    """

    def __init__(
        self,
        pipeline: PipelineId,
        tiers: Mapping[AgentId, Tier],
        steps_of: Callable[[Epoch], Mapping[AgentId, int]],
        count: Callable[[Tier, float], None],
    ) -> None:
        self._pipeline = pipeline
        self._tiers = tiers
        self._steps_of = steps_of
        self._count = count
        self._tracked: dict[tuple[FrameId, Epoch], _Tracked] = {}
        self._let_go: dict[tuple[FrameId, Epoch], _Tracked] = {}
        #: Answered, and not ripe, or not settled yet: of many that are tracked, few.
        self._raw: dict[tuple[FrameId, Epoch], _Tracked] = {}
        self._moving: dict[tuple[FrameId, Epoch], _Tracked] = {}

    def __len__(self) -> int:
        return len(self._tracked)

    def _of(self, frame: FrameId, epoch: Epoch) -> _Tracked:
        tracked = self._tracked.get((frame, epoch))
        if tracked is None:
            tracked = self._tracked[(frame, epoch)] = _Tracked()
            if len(self._tracked) > TRACKED:
                oldest = next(iter(self._tracked))
                gone = self._tracked.pop(oldest)
                self._raw.pop(oldest, None)
                self._moving.pop(oldest, None)
                if gone.report is not None:
                    self._let_go[oldest] = gone
        return tracked

    def add_report(self, report: FrameReport, now: float, run: str = "") -> None:
        tracked = self._of(report.frame, report.epoch)
        tracked.report, tracked.answered_at_s, tracked.run, tracked.view = report, now, run, None
        self._raw[report.frame, report.epoch] = self._moving[report.frame, report.epoch] = tracked

    def add_spans(self, agent: AgentId, spans: Iterable[Span]) -> None:
        tier = self._tiers[agent]
        wanted_of, wanted = None, dict[AgentId, int]()
        for span in spans:
            tracked = self._of(span.frame, span.epoch)
            tracked.view = None
            tracked.spans.append(
                SpanView(
                    agent=agent,
                    tier=tier,
                    kind=span.kind,
                    start_s=span.start_s,
                    end_s=span.end_s,
                    held_s=span.held_s,
                    vertices=span.vertices,
                    peer=span.peer,
                    tile=span.tile,
                )
            )
            if span.kind is SpanKind.COMPUTE:
                tracked.busy_s[agent] = tracked.busy_s.get(agent, 0.0) + span.end_s - span.start_s
                tracked.steps[agent] = tracked.steps.get(agent, 0) + 1
                if span.epoch != wanted_of:
                    steps, wanted_of = self._steps_of(span.epoch), span.epoch
                    wanted = {a: n for a, n in steps.items() if self._tiers.get(a) is tier}
                if tier not in tracked.counted and tracked.has_done(wanted):
                    self._count_once(tracked, tier, self._compute_s(tracked)[tier])

    def _count_once(self, tracked: _Tracked, tier: Tier, compute_s: float) -> None:
        if tier not in tracked.counted:
            tracked.counted.add(tier)
            self._count(tier, compute_s)

    def take_ripe(self, now: float) -> list[FrameView]:
        """Frames that are ripe now, in order of their answers."""
        ripe = {key: t for key, t in self._raw.items() if self._is_ripe(t, key[1], now)}
        found = [self._view(*key, t) for key, t in {**self._let_go, **ripe}.items() if not t.ripe]
        for tracked in (*self._let_go.values(), *ripe.values()):
            tracked.ripe = True
        for key in ripe:
            del self._raw[key]
        return found

    def take_settled(self, now: float) -> list[FrameView]:
        """Frames of which nothing more is to come, in order of their answers. Call it after `take_ripe`."""
        calm = {key: t for key, t in self._moving.items() if now - t.answered_at_s >= SETTLED_S}
        found = [self._view(*key, t) for key, t in {**self._let_go, **calm}.items() if not t.settled]
        for key, tracked in calm.items():
            tracked.settled = True
            del self._moving[key], self._tracked[key]
        self._let_go.clear()
        return found

    def _view(self, frame: FrameId, epoch: Epoch, tracked: _Tracked) -> FrameView:
        report = tracked.report
        assert report is not None
        if tracked.view is not None:
            return tracked.view
        compute_s = self._compute_s(tracked)
        for tier, seconds in compute_s.items():
            self._count_once(tracked, tier, seconds)
        tracked.view = FrameView(
            pipeline=self._pipeline,
            run=tracked.run,
            frame=frame,
            epoch=epoch,
            photo=report.photo,
            answer=report.answer,
            started_s=report.started_s,
            latency_s=report.latency_s,
            identical=report.identical,
            max_rel_err=report.max_rel_err,
            attempts=report.attempts,
            compute_s=compute_s,
            spans=tuple(sorted(tracked.spans, key=lambda s: s.start_s)),
            waited_s=report.waited_s,
            parts_s=parts(report.started_s, report.latency_s, report.waited_s, tracked.spans),
            top=report.top,
        )
        return tracked.view

    def _compute_s(self, tracked: _Tracked) -> dict[Tier, float]:
        """Per tier; where several agents share the work, of the one that computed longest."""
        found: dict[Tier, float] = {}
        for agent, busy_s in tracked.busy_s.items():
            tier = self._tiers[agent]
            found[tier] = max(found.get(tier, 0.0), busy_s)
        return found

    def _is_ripe(self, tracked: _Tracked, epoch: Epoch, now: float) -> bool:
        if now - tracked.answered_at_s >= PATIENCE_S:
            return True
        return tracked.has_done(self._steps_of(epoch))
