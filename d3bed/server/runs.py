"""One run of a pipeline's source, and its report (`d3bed.report/1`). Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from d3bed.core.ids import CauseId, PipelineId, Tier
from d3bed.server.epochs import PlannedEpoch
from d3bed.server.statistics import RunStatistics
from d3bed.server.tiles import tile_reports
from d3bed.server.views import (
    AgentReport,
    ExactView,
    FramesView,
    LatencyReport,
    LatencyView,
    LinkReport,
    RunReport,
    RunView,
)
from d3bed.server.world import AgentRecord

__all__ = ["Run", "Start"]


class Start(msgspec.Struct, frozen=True):
    """A run that was asked for and waits for an active epoch."""

    frames: int | None
    in_flight: int | None
    order: CauseId | None = None


@dataclass
class Run:
    """`epochs`: those that were active in it, in order; `frames_wanted` None: until stopped."""

    id: str
    pipeline: PipelineId
    network: str
    tolerance: float
    started_s: float
    frames_wanted: int | None
    in_flight: int | None
    epochs: list[PlannedEpoch] = field(default_factory=list)
    ended_s: float | None = None
    numbers: RunStatistics = field(default_factory=RunStatistics)
    #: What its device had sent, and dropped, before: it may have gone on while the server was down.
    sent_before: int = 0
    dropped_before: int = 0
    #: True from each change on until the run's row is written.
    unsaved: bool = True
    #: Whether the user stopped it: frames under way then were given up, not lost.
    stopped: bool = False
    #: Whether its links were compared with their targets.
    judged: bool = False

    @property
    def frames(self) -> FramesView:
        numbers = self.numbers
        return FramesView(
            sent=numbers.sent, answered=numbers.answered, lost=numbers.lost, dropped=numbers.dropped
        )

    @property
    def exact(self) -> ExactView:
        numbers = self.numbers
        return ExactView(numbers.checked, numbers.identical, numbers.max_rel_err)

    @property
    def latency_s(self) -> LatencyView:
        """Of the latest epoch that answered frames: what its prediction is to be compared with."""
        recent = self.numbers.latency_s
        return LatencyView(last=recent.last, median=recent.median, p95=recent.p95)

    @property
    def compute_s(self) -> dict[Tier, float]:
        medians = {tier: recent.median for tier, recent in self.numbers.compute_s.items()}
        return {tier: medians[tier] or 0.0 for tier in Tier if tier in medians}

    @property
    def _last(self) -> PlannedEpoch | None:
        return self.epochs[-1] if self.epochs else None

    @property
    def view(self) -> RunView:
        return RunView(
            id=self.id,
            pipeline=self.pipeline,
            started_s=self.started_s,
            ended_s=self.ended_s,
            model=self._last.wish.model.name if self._last else "",
            strategy=self._last.wish.strategy if self._last else "",
            network=self.network,
            frames=self.frames,
        )

    def report(self, agents: list[AgentRecord]) -> RunReport:
        last, latency = self._last, self.latency_s
        return RunReport(
            format="d3bed.report/1",
            model=last.wish.model.name if last else "",
            strategy=last.wish.strategy if last else "",
            network=self.network,
            tolerance=self.tolerance,
            frames=self.frames,
            exact=self.exact,
            latency_s=LatencyReport(latency.median, latency.p95, last.predicted_s if last else None),
            compute_s={tier: self.compute_s.get(tier, 0.0) for tier in Tier},
            agents=tuple(_agent(record) for record in agents),
            links=tuple(
                LinkReport(
                    source=source,
                    target=target,
                    bytes=traffic.bytes,
                    target_bytes_per_s=traffic.target_bytes_per_s,
                    achieved_bytes_per_s=traffic.achieved_bytes_per_s,
                    deviation=traffic.deviation,
                )
                for (source, target), traffic in sorted(self.numbers.traffic.items())
            ),
            epochs=tuple(epoch.report for epoch in self.epochs),
            plan={v.name: t for v, t in zip(last.graph.vertices, last.plan.tiers, strict=True)}
            if last
            else {},
            tiles=tile_reports(last) if last else (),
        )


def _agent(record: AgentRecord) -> AgentReport:
    register, loaded = record.register, record.last_loaded
    return AgentReport(
        agent=register.agent,
        tier=register.tier,
        pid=register.pid,
        data_address=register.data_address,
        speed=register.speed,
        engine=loaded.engine if loaded else register.engine,
        threads=loaded.threads if loaded else None,
        fingerprint=loaded.fingerprint if loaded else None,
        cpus=register.cpus,
        tc=register.tc,
    )
