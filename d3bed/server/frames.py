"""Joins what the device says of a frame with the spans that other agents send later.

Pure. A frame is ripe when its answer is here and every tier's compute spans are complete (as many
as its program has steps), or `PATIENCE_S` after its answer. At most `SHOWN_PER_S` frames a second
are shown; the compute time of all is counted, once per frame and tier: when complete, else when
patience ends. Memory is bounded: the oldest of `TRACKED` frames is let go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from d3bed.core.ids import AgentId, Epoch, FrameId, PipelineId, Tier
from d3bed.core.measurements import FrameReport, Span, SpanKind
from d3bed.server.views import FrameView, SpanView

__all__ = ["PATIENCE_S", "SHOWN_PER_S", "TRACKED", "FrameTracker"]

PATIENCE_S = 0.5
SHOWN_PER_S = 20.0
TRACKED = 128
_BURST = 10.0


class _Tracked:
    def __init__(self) -> None:
        self.report: FrameReport | None = None
        self.answered_at_s = 0.0
        self.spans: list[SpanView] = []
        self.compute_s: dict[Tier, float] = {}
        self.steps: dict[Tier, int] = {}
        self.counted: set[Tier] = set()
        self.ripe = False


class FrameTracker:
    """`steps_of` gives the compute steps per tier of an epoch; empty for one that is not known.

    `count` is called with the compute seconds that one frame took on one tier.
    """

    def __init__(
        self,
        pipeline: PipelineId,
        steps_of: Callable[[Epoch], Mapping[Tier, int]],
        count: Callable[[Tier, float], None],
    ) -> None:
        self._pipeline = pipeline
        self._steps_of = steps_of
        self._count = count
        self._tracked: dict[tuple[FrameId, Epoch], _Tracked] = {}
        self._allowance = _BURST
        self._topped_up_s = 0.0

    def __len__(self) -> int:
        return len(self._tracked)

    def _of(self, frame: FrameId, epoch: Epoch) -> _Tracked:
        tracked = self._tracked.get((frame, epoch))
        if tracked is None:
            tracked = self._tracked[(frame, epoch)] = _Tracked()
            if len(self._tracked) > TRACKED:
                del self._tracked[next(iter(self._tracked))]
        return tracked

    def add_report(self, report: FrameReport, now: float) -> None:
        tracked = self._of(report.frame, report.epoch)
        tracked.report, tracked.answered_at_s = report, now

    def add_spans(self, agent: AgentId, tier: Tier, spans: Iterable[Span]) -> None:
        for span in spans:
            tracked = self._of(span.frame, span.epoch)
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
                )
            )
            if span.kind is SpanKind.COMPUTE:
                tracked.compute_s[tier] = tracked.compute_s.get(tier, 0.0) + span.end_s - span.start_s
                tracked.steps[tier] = tracked.steps.get(tier, 0) + 1
                if tracked.steps[tier] == self._steps_of(span.epoch).get(tier):
                    self._count_once(tracked, tier)

    def _count_once(self, tracked: _Tracked, tier: Tier) -> None:
        if tier not in tracked.counted:
            tracked.counted.add(tier)
            self._count(tier, tracked.compute_s[tier])

    def take_ripe(self, now: float) -> list[FrameView]:
        """Frames to show now, in order of their answers; each is given out once."""
        since = max(0.0, now - self._topped_up_s)
        self._allowance = min(_BURST, self._allowance + since * SHOWN_PER_S)
        self._topped_up_s = now
        ripe = []
        for (frame, epoch), tracked in self._tracked.items():
            report = tracked.report
            if tracked.ripe or report is None or not self._is_ripe(tracked, epoch, now):
                continue
            tracked.ripe = True
            for tier in tracked.compute_s:
                self._count_once(tracked, tier)
            if self._allowance < 1:
                continue
            self._allowance -= 1
            ripe.append(
                FrameView(
                    pipeline=self._pipeline,
                    frame=frame,
                    epoch=epoch,
                    photo=report.photo,
                    answer=report.answer,
                    started_s=report.started_s,
                    latency_s=report.latency_s,
                    identical=report.identical,
                    max_rel_err=report.max_rel_err,
                    attempts=report.attempts,
                    compute_s=dict(tracked.compute_s),
                    spans=tuple(sorted(tracked.spans, key=lambda s: s.start_s)),
                )
            )
        return ripe

    def _is_ripe(self, tracked: _Tracked, epoch: Epoch, now: float) -> bool:
        if now - tracked.answered_at_s >= PATIENCE_S:
            return True
        wanted = self._steps_of(epoch)
        return bool(wanted) and all(tracked.steps.get(tier, 0) >= steps for tier, steps in wanted.items())
