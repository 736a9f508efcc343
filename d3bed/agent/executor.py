"""Runs frames through this agent's part of each epoch: receive, compute, forward, free.

The asyncio shell around `FrameSchedule`: it turns its orders into jobs on the compute thread and
sends on links, and measures what they took. All state lives on the event loop; only jobs run
elsewhere. An epoch and frame together name a run, so that a frame that is run again under a later
epoch can never mix with its first try.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from d3bed.agent.compute import ComputeThread, Hold, Timed, run_held
from d3bed.agent.schedule import FrameSchedule, Run, Send
from d3bed.core.errors import ConfigError, D3Error, RemoteProtocolError, StaleEpoch
from d3bed.core.graph import TensorSpec, Value
from d3bed.core.ids import AgentId, Epoch, FrameId, PipelineId
from d3bed.core.measurements import Span, SpanKind, Transfer
from d3bed.core.program import Program, Step
from d3bed.model import LoadedModel, from_wire, to_wire
from d3bed.net import Sender, TensorMessage

__all__ = ["EpochWork", "Executor", "Observer", "nominal_times"]

_log = logging.getLogger(__name__)

#: How long the owner of tiles waits for them: this often what it would take alone for all frames under way
#: (`UNKNOWN_S` where that is not known) and for what other pipelines have under way, and that many seconds.
PATIENCE_FACTOR, PATIENCE_S, UNKNOWN_S = 1.5, 0.25, 10.0

#: Frames of one epoch that may be under way on one agent before a peer is told off.
MAX_FRAMES = 64


@dataclass
class EpochWork:
    """What `Prepare` made ready: compiled steps, their nominal seconds, and the links to use.

    `rescues` and `rescue_s` are the same for the program's rescues. Without an agent of the `route` no frame
    can be finished.
    """

    pipeline: PipelineId
    epoch: Epoch
    model: LoadedModel
    program: Program
    calls: tuple[Callable[..., tuple[torch.Tensor, ...]], ...]
    nominal_s: tuple[float, ...]
    senders: Mapping[AgentId, Sender]
    keep: frozenset[Value]
    rescues: tuple[Callable[..., tuple[torch.Tensor, ...]], ...] = ()
    rescue_s: tuple[float, ...] = ()
    route: frozenset[AgentId] = frozenset()
    rescued: deque[FrameId] = field(default_factory=lambda: deque(maxlen=MAX_FRAMES))
    frames: dict[FrameId, _FrameWork] = field(default_factory=dict)
    broken: bool = False
    lost: set[AgentId] = field(default_factory=set)
    #: What comes over links.
    specs: dict[Value, TensorSpec] = field(init=False)

    def __post_init__(self) -> None:
        self.specs = {value: self.model.graph.spec(value) for value in self.program.receives}


@dataclass
class _FrameWork:
    schedule: FrameSchedule
    values: dict[Value, torch.Tensor]
    #: Of values made here that are to be sent: dtype, shape, strides and bytes.
    wires: dict[Value, tuple[str, tuple[int, ...], tuple[int, ...], memoryview]] = field(default_factory=dict)
    idle_since_s: float | None = None
    #: Per rescue: since when its tiles are under way, and when they are given up.
    alarms: dict[int, tuple[float, asyncio.TimerHandle]] = field(default_factory=dict)
    answer: asyncio.Future[tuple[torch.Tensor, ...]] | None = None


class Observer:
    """What the executor tells about its work; times are local monotonic seconds."""

    def span(self, pipeline: PipelineId, span: Span) -> None: ...

    def transfer(self, pipeline: PipelineId, transfer: Transfer) -> None: ...

    def lost(self, pipeline: PipelineId, epoch: Epoch, peer: AgentId, problem: str) -> None: ...

    def failed(self, pipeline: PipelineId, epoch: Epoch, frame: FrameId, problem: str) -> None: ...

    def rescued(self, pipeline: PipelineId, epoch: Epoch, frame: FrameId, problem: str) -> None: ...


class Executor:
    """All epochs of all pipelines that this agent takes part in."""

    def __init__(self, compute: ComputeThread, speed: float, observer: Observer) -> None:
        self._compute = compute
        self._hold = Hold(speed)
        self._observer = observer
        self._epochs: dict[tuple[PipelineId, Epoch], EpochWork] = {}
        self.stale = 0

    @property
    def speed(self) -> float:
        """What is emulated now; 1 is as fast as this machine."""
        return self._hold.speed

    @property
    def is_busy(self) -> bool:
        """Whether a frame is under way here; on the device one that others work on does not count."""
        return any(
            work.frames and any(s.vertices for s in work.program.steps) for work in self._epochs.values()
        )

    def set_speed(self, speed: float) -> None:
        """Emulate another speed from the next step on; out of (0, 1] it is brought inside."""
        self._hold.speed = min(max(speed, 1e-3), 1.0)

    # ── epochs ────────────────────────────────────────────────────────────────────────────────────

    def add(self, work: EpochWork) -> None:
        self._epochs[work.pipeline, work.epoch] = work

    def retire(self, pipeline: PipelineId, epoch: Epoch) -> None:
        """Forget an epoch and whatever of it is still here; unanswered frames get `StaleEpoch`."""
        work = self._epochs.pop((pipeline, epoch), None)
        if work is None:
            return
        _break(work)
        for frame, run in work.frames.items():
            self._hold.forget((epoch, frame))
            _silence(run)

    def abandon(self, pipeline: PipelineId, epoch: Epoch, frame: FrameId | None = None) -> None:
        """Frames of the epoch, or one, cannot be finished: on the device they get `StaleEpoch`."""
        work = self._epochs.get((pipeline, epoch))
        if work is not None and frame is None:
            _break(work)
        elif work is not None and frame in work.frames:
            _give_up(work, work.frames[frame])

    def peer_lost(self, pipeline: PipelineId, peer: AgentId) -> None:
        """Nothing more will come from an agent: epochs that need it are over here."""
        for work in self._epochs.values():
            if work.pipeline == pipeline and peer in work.route:
                _break(work)

    def is_usable(self, pipeline: PipelineId, epoch: Epoch) -> bool:
        """Whether frames may be started under the epoch."""
        work = self._epochs.get((pipeline, epoch))
        return work is not None and not work.broken

    def senders_in_use(self, pipeline: PipelineId) -> set[Sender]:
        return {s for (p, _), work in self._epochs.items() if p == pipeline for s in work.senders.values()}

    # ── frames ────────────────────────────────────────────────────────────────────────────────────

    async def infer(
        self, pipeline: PipelineId, epoch: Epoch, frame: FrameId, image: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """On the device: run one frame (uint8 [1, 3, H, W], or [n] of a file) and wait for its results.

        Raises `StaleEpoch` when the answer cannot come: the epoch is retired, or something it needs lost.
        """
        work = self._epochs.get((pipeline, epoch))
        if work is None or work.broken:
            raise StaleEpoch(epoch)
        run = self._frame(work, frame)
        run.answer = asyncio.get_running_loop().create_future()
        value = Value(0)
        run.values[value] = image
        self._obey(work, frame, run, run.schedule.begin(value), time.monotonic())
        self._settle(work, frame, run)
        return await run.answer

    async def alone(
        self, model: LoadedModel, frame: FrameId, image: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """The undivided model on this agent, as slow as it emulates; needs no epoch."""
        name, ready_s = ("alone", frame), time.monotonic()
        try:
            done = await self._compute.run(
                lambda: run_held(lambda: model.whole(image), self._hold, name, ready_s, 0.0)
            )
        finally:
            self._hold.forget(name)
        return done.outputs

    async def time(self, call: Callable[[], tuple[torch.Tensor, ...]], nominal_s: float) -> float:
        """Seconds that something takes here now, as slow as is emulated."""
        name = ("timed", time.monotonic())
        try:
            # Ready when its turn comes: what it waited for is no part of what it takes.
            done = await self._compute.run(
                lambda: run_held(call, self._hold, name, time.monotonic(), nominal_s)
            )
        finally:
            self._hold.forget(name)
        return done.end_s - done.start_s

    def receive(self, peer: AgentId, pipeline: PipelineId, message: TensorMessage) -> None:
        """A tensor came over a link. Raises `RemoteProtocolError` if it does not fit the plan."""
        work = self._epochs.get((pipeline, message.epoch))
        if work is None:
            self.stale += 1  # late tensors of an abandoned epoch: expected, not an error
            _log.debug("tensor of epoch %d from %s: not known here", message.epoch, peer)
            return
        value = message.value
        spec = work.specs.get(value)
        if spec is None:
            raise RemoteProtocolError(f"value {value} is not expected here")
        if not spec.admits(message.shape, message.dtype):
            raise RemoteProtocolError(
                f"value {value} is {message.dtype}{list(message.shape)}, "
                f"the graph says {spec.dtype}{list(spec.shape)}"
            )
        if message.frame not in work.frames and not self._welcome(work, message.frame):
            self.stale += 1
            return
        now = time.monotonic()
        run = self._frame(work, message.frame)
        idle_since_s, run.idle_since_s = run.idle_since_s, None
        orders = run.schedule.arrived(value)
        payload = memoryview(message.payload)
        run.values[value] = from_wire(message.dtype, message.shape, message.strides, payload)
        self._obey(work, message.frame, run, orders, now)
        if idle_since_s is not None and now > idle_since_s:
            self._span(work, message.frame, SpanKind.WAIT, idle_since_s, now, (value.vertex,) * 2)
        self._settle(work, message.frame, run)

    def _welcome(self, work: EpochWork, frame: FrameId) -> bool:
        """Whether a frame may begin here. Raises `RemoteProtocolError` if too many are under way."""
        if work.keep or frame in work.rescued:
            return False  # on the device: answered or given up already; elsewhere: its tiles come too late
        if len(work.frames) >= MAX_FRAMES:
            if not any(step.tile for step in work.program.steps):
                raise RemoteProtocolError(f"more than {MAX_FRAMES} frames under way")
            # The owner of the tiles has long done without these: a piece of them was lost.
            _silence(work.frames.pop(next(iter(work.frames))))
        return True

    def forget(self, pipeline: PipelineId, epoch: Epoch, frame: FrameId) -> None:
        """The device gave this try up; late values of it are dropped as stale."""
        work = self._epochs.get((pipeline, epoch))
        if work is not None and (run := work.frames.pop(frame, None)) is not None:
            _silence(run)
        self._hold.forget((epoch, frame))

    def _frame(self, work: EpochWork, frame: FrameId) -> _FrameWork:
        run = work.frames.get(frame)
        if run is None:
            run = work.frames[frame] = _FrameWork(FrameSchedule(work.program, work.keep), {})
        return run

    def _obey(
        self, work: EpochWork, frame: FrameId, run: _FrameWork, orders: list[Run | Send], now: float
    ) -> None:
        for order in orders:
            match order:
                case Run(step):
                    self._watch(work, frame, run, step, now)
                    self._run_step(work, frame, run, step, now)
                case Send(value, to):
                    self._send(work, frame, run, value, to)

    def _settle(self, work: EpochWork, frame: FrameId, run: _FrameWork) -> None:
        """After progress: free what nobody needs, hand out the answer, forget a finished frame."""
        for value in run.schedule.freed():
            run.values.pop(value, None)
            run.wires.pop(value, None)
        if run.answer is not None and run.schedule.complete and not run.answer.done():
            run.answer.set_result(tuple(run.values[v] for v in work.model.graph.results))
        if run.schedule.over:
            work.frames.pop(frame, None)
            _silence(run)
            self._hold.forget((work.epoch, frame))

    def _run_step(
        self, work: EpochWork, frame: FrameId, run: _FrameWork, number: int, ready_s: float
    ) -> None:
        def ran() -> list[Run | Send]:
            return run.schedule.ran(number)

        def seen(now: float) -> None:
            for which, (since_s, alarm) in run.alarms.items():
                rescue = work.program.rescues[which]
                if number == rescue.instead[-1]:
                    alarm.cancel()
                    self._span(work, frame, SpanKind.TILED, since_s, now, rescue.place)

        step, call, nominal_s = work.program.steps[number], work.calls[number], work.nominal_s[number]
        self._start(work, frame, run, step, call, ready_s, nominal_s, ran, seen)

    def _start(
        self,
        work: EpochWork,
        frame: FrameId,
        run: _FrameWork,
        step: Step,
        call: Callable[..., tuple[torch.Tensor, ...]],
        ready_s: float,
        nominal_s: float,
        ran: Callable[[], list[Run | Send]],
        seen: Callable[[float], None] = lambda now: None,
    ) -> None:
        """Compute a step into the frame's values, then obey what `ran` says; `seen` is told when that was."""
        if not run.values.keys() >= set(step.takes):
            return  # given up while it waited
        inputs = tuple(run.values[value] for value in step.takes)
        name, forward = (work.epoch, frame), work.program.forward
        # A tile was timed once, beside frames: on a board that is emulated it does not become faster by that.
        least_s = nominal_s if step.tile is not None else 0.0

        def compute() -> tuple[torch.Tensor, ...]:
            made = call(*inputs)
            # Here, so that the event loop has nothing to do but send.
            for value, tensor in zip(step.makes, made, strict=True):
                if value in forward:
                    run.wires[value] = to_wire(tensor)
            return made

        def computed(done: Timed | BaseException) -> None:
            if isinstance(done, BaseException):
                self._step_failed(work, frame, step, done)
                return
            if work.broken:
                return
            run.values.update(zip(step.makes, done.outputs, strict=True))
            run.idle_since_s = done.end_s
            now = time.monotonic()
            self._obey(work, frame, run, ran(), now)
            seen(now)
            self._ran_spans(work, frame, step, ready_s, done)
            self._settle(work, frame, run)

        try:
            self._compute.submit(
                lambda: run_held(
                    compute, self._hold, name, ready_s, nominal_s, (work.epoch, step.makes), least_s
                ),
                computed,
            )
        except RuntimeError as error:
            self._step_failed(work, frame, step, error)

    def _step_failed(self, work: EpochWork, frame: FrameId, step: Step, error: BaseException) -> None:
        if not isinstance(error, RuntimeError | MemoryError | ConfigError):
            # Not from torch, nor of a file that is no image.
            _log.error("frame work failed: %s", error, exc_info=error)
        where = f"vertices {step.vertices[0]}-{step.vertices[-1]}" if step.vertices else "joining tiles"
        self._observer.failed(work.pipeline, work.epoch, frame, f"{where} failed: {error}")
        if frame in work.frames:
            _give_up(work, work.frames[frame])

    def _ran_spans(self, work: EpochWork, frame: FrameId, step: Step, ready_s: float, done: Timed) -> None:
        vertices = step.vertices or (step.makes[0].vertex,)
        place = (vertices[0], vertices[-1])
        tile = step.tile.place if step.tile is not None else None
        if done.start_s - ready_s > _QUEUE_NOISE_S:
            self._span(work, frame, SpanKind.QUEUE, ready_s, done.start_s, place, tile=tile)
        if step.vertices:
            kind, held_s = SpanKind.COMPUTE, done.held_s
            self._span(work, frame, kind, done.start_s, done.end_s, place, held_s=held_s, tile=tile)
        elif done.end_s - done.start_s > _QUEUE_NOISE_S:
            self._span(work, frame, SpanKind.SERIALISE, done.start_s, done.end_s, place)

    # ── tiles that do not come ────────────────────────────────────────────────────────────────────

    def _watch(self, work: EpochWork, frame: FrameId, run: _FrameWork, step: int, now: float) -> None:
        """From the first step of a tiled part on, its owner waits no longer than it would take alone."""
        for number, rescue in enumerate(work.program.rescues):
            if step in rescue.instead and number not in run.alarms:
                alone_s = work.rescue_s[number] / self._hold.speed or UNKNOWN_S
                busy_s = alone_s * len(work.frames) + self._others_s(work)
                patience_s = PATIENCE_FACTOR * busy_s + PATIENCE_S
                alarm = asyncio.get_running_loop().call_later(
                    patience_s, self._rescue, work, frame, run, number, f"no tiles for {patience_s:.2g} s"
                )
                run.alarms[number] = now, alarm

    def _others_s(self, work: EpochWork) -> float:
        """What frames under way of other epochs and pipelines take here: those who help have them, too."""
        others = (w for w in self._epochs.values() if w is not work and not w.broken)
        return sum(len(other.frames) * sum(other.nominal_s) for other in others) / self._hold.speed

    def _rescue(self, work: EpochWork, frame: FrameId, run: _FrameWork, number: int, problem: str) -> None:
        if work.broken or frame not in work.frames or not run.schedule.rescue(number):
            return
        work.rescued.append(frame)
        self._observer.rescued(work.pipeline, work.epoch, frame, problem)
        step, call, nominal_s = work.program.rescues[number].step, work.rescues[number], work.rescue_s[number]

        def ran() -> list[Run | Send]:
            return run.schedule.rescued(number)

        self._start(work, frame, run, step, call, time.monotonic(), nominal_s, ran)

    # ── links ─────────────────────────────────────────────────────────────────────────────────────

    def _send(self, work: EpochWork, frame: FrameId, run: _FrameWork, value: Value, to: AgentId) -> None:
        sender = work.senders[to]
        if value not in run.values:
            return  # given up while it waited
        start_s = time.monotonic()
        dtype, shape, strides, payload = run.wires.get(value) or to_wire(run.values[value])
        message = TensorMessage(frame, work.epoch, value, dtype, shape, strides, payload)

        def sent(transfer: Transfer | D3Error) -> None:
            if isinstance(transfer, D3Error):
                self._send_failed(work, frame, run, value, sender.peer, str(transfer))
            elif not work.broken:
                # On a shaped link the peer has the last byte one emulated latency after it left.
                end_s = time.monotonic() + (sender.shape.latency_s if sender.shape else 0.0)
                place = (value.vertex,) * 2
                self._span(work, frame, SpanKind.TRANSFER, start_s, end_s, place, peer=sender.peer)
                self._observer.transfer(work.pipeline, transfer)
                run.schedule.sent(value)
                self._settle(work, frame, run)

        sender.post(message, sent)

    def _send_failed(
        self, work: EpochWork, frame: FrameId, run: _FrameWork, value: Value, peer: AgentId, problem: str
    ) -> None:
        """Without a piece of a tile the owner can go on; without a whole value nobody can."""
        if not work.broken and peer not in work.lost:
            work.lost.add(peer)
            self._observer.lost(work.pipeline, work.epoch, peer, problem)
        if value.whole == value:
            _break(work)
        for number, rescue in enumerate(work.program.rescues):
            if value in rescue.pieces:
                self._rescue(work, frame, run, number, f"{peer} lost")

    def _span(
        self,
        work: EpochWork,
        frame: FrameId,
        kind: SpanKind,
        start_s: float,
        end_s: float,
        vertices: tuple[int, int],
        *,
        held_s: float = 0.0,
        peer: AgentId | None = None,
        tile: tuple[int, int, int] | None = None,
    ) -> None:
        span = Span(frame, work.epoch, kind, start_s, end_s, vertices, held_s, peer, tile)
        self._observer.span(work.pipeline, span)

    def close(self) -> None:
        for key in list(self._epochs):
            self.retire(*key)


def _give_up(work: EpochWork, run: _FrameWork) -> None:
    if run.answer is not None and not run.answer.done():
        run.answer.set_exception(StaleEpoch(work.epoch))


def _break(work: EpochWork) -> None:
    """No frame of the epoch can be finished any more."""
    work.broken = True
    for run in work.frames.values():
        _give_up(work, run)


def _silence(run: _FrameWork) -> None:
    for _, alarm in run.alarms.values():
        alarm.cancel()


#: Shorter waits for the compute thread or for serialising are not worth a span.
_QUEUE_NOISE_S = 0.0002


def nominal_times(times_s: Sequence[float] | None, steps: Sequence[Step]) -> tuple[float, ...]:
    """Seconds per step on this machine, unheld; zeros without a profile (then raw time counts)."""
    if times_s is None:
        return (0.0,) * len(steps)
    return tuple(sum(times_s[v] for v in step.vertices) for step in steps)
