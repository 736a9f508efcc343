"""What this agent tells the server, batched and out of band.

Spans, transfers and answers wait here for `batch_s`, as the server says; facts, for which it may be waiting,
leave at once and take along what is there. Nothing that computes ever waits for the server. While the server
is away the buffers keep the newest entries and drop the oldest. Local times become server times here, once,
and to the microsecond: digits that mean nothing cost bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict, deque

import msgspec

from d3bed.agent.clock import ClockOffset
from d3bed.agent.executor import Observer
from d3bed.core.ids import AgentId, Epoch, FrameId, PipelineId
from d3bed.core.measurements import BoardSample, FrameReport, Span, Transfer
from d3bed.core.messages import (
    BoardSampled,
    FrameFailed,
    FrameRescued,
    FramesAnswered,
    FromAgent,
    Heartbeat,
    LinkLost,
    SpansRecorded,
    Transferred,
)

__all__ = ["Reporter"]

_KEEP = 2000
_PER_MESSAGE = 500


class Reporter(Observer):
    """Collects facts; `drain` makes them into messages, `wait` returns when there are some."""

    def __init__(self, clock: ClockOffset) -> None:
        self._clock = clock
        self._spans: dict[PipelineId, deque[Span]] = defaultdict(lambda: deque(maxlen=_KEEP))
        self._transfers: dict[PipelineId, deque[Transfer]] = defaultdict(lambda: deque(maxlen=_KEEP))
        self._frames: dict[PipelineId, deque[FrameReport]] = defaultdict(lambda: deque(maxlen=_KEEP))
        self._counts: dict[PipelineId, tuple[int, int]] = {}
        self._facts: deque[FromAgent] = deque(maxlen=_KEEP)
        self._board: BoardSample | None = None
        self._beat: Heartbeat | None = None
        self._some, self._urgent = asyncio.Event(), asyncio.Event()
        self.batch_s = 0.1
        #: CPU seconds that telling the server has taken so far.
        self.spent_s = 0.0

    def span(self, pipeline: PipelineId, span: Span) -> None:
        self._spans[pipeline].append(span)
        self._some.set()

    def transfer(self, pipeline: PipelineId, transfer: Transfer) -> None:
        taken_s = round(transfer.taken_s, 7)
        self._transfers[pipeline].append(msgspec.structs.replace(transfer, taken_s=taken_s))
        self._some.set()

    def frame(self, pipeline: PipelineId, report: FrameReport, sent: int, dropped: int) -> None:
        self._frames[pipeline].append(report)
        self._counts[pipeline] = sent, dropped
        self._some.set()

    def lost(self, pipeline: PipelineId, epoch: Epoch, peer: AgentId, problem: str) -> None:
        self.fact(LinkLost(pipeline, epoch, peer, problem))

    def failed(self, pipeline: PipelineId, epoch: Epoch, frame: FrameId, problem: str) -> None:
        self.fact(FrameFailed(pipeline, epoch, frame, problem))

    def rescued(self, pipeline: PipelineId, epoch: Epoch, frame: FrameId, problem: str) -> None:
        self._facts.append(FrameRescued(pipeline, epoch, frame, problem))  # the frame goes on: it may wait
        self._some.set()

    def sampled(self, board: BoardSample) -> None:
        """How the board does now; an older sample that did not leave yet is forgotten."""
        self._board = board
        self._some.set()

    def beat(self, heartbeat: Heartbeat) -> None:
        """That the agent is alive; it goes along with what else there is."""
        self._beat = heartbeat
        self._some.set()

    def fact(self, message: FromAgent) -> None:
        """Queue any other message; order among facts is kept, and they follow what came before."""
        self._facts.append(message)
        self._some.set()
        self._urgent.set()

    async def wait(self) -> None:
        """Until there is something to report."""
        await self._some.wait()

    async def rest(self) -> None:
        """Between two reports: for `batch_s`, or until there is a fact."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._urgent.wait(), self.batch_s)

    def drain(self) -> list[FromAgent]:
        """Everything collected so far, oldest first: spans and answers before other facts."""
        self._some.clear()
        self._urgent.clear()
        messages: list[FromAgent] = []
        for pipeline, spans in self._spans.items():
            while spans:
                batch = tuple(
                    self._on_server_clock(spans.popleft()) for _ in range(min(len(spans), _PER_MESSAGE))
                )
                messages.append(SpansRecorded(pipeline, min(self._clock.error_s, 1e6), batch))
        for pipeline, transfers in self._transfers.items():
            while transfers:
                taken = tuple(transfers.popleft() for _ in range(min(len(transfers), _PER_MESSAGE)))
                messages.append(Transferred(pipeline, taken))
        for pipeline, frames in self._frames.items():
            while frames:
                answers = tuple(
                    msgspec.structs.replace(
                        f,
                        started_s=round(self._clock.to_server(f.started_s), 6),
                        answered_s=round(self._clock.to_server(f.answered_s), 6),
                    )
                    for f in (frames.popleft() for _ in range(min(len(frames), _PER_MESSAGE)))
                )
                sent, dropped = self._counts[pipeline]
                messages.append(FramesAnswered(pipeline, sent, answers, dropped))
        if self._board is not None:
            messages.append(BoardSampled(self._board))
            self._board = None
        if self._beat is not None:
            messages.append(self._beat)
            self._beat = None
        messages += self._facts
        self._facts.clear()
        return messages

    def _on_server_clock(self, span: Span) -> Span:
        to_server = self._clock.to_server
        return msgspec.structs.replace(
            span,
            start_s=round(to_server(span.start_s), 6),
            end_s=round(to_server(span.end_s), 6),
            held_s=round(span.held_s, 6),
        )
