"""Frames on the device: photos in, answers out, each compared with the undivided model.

Frames come whenever there is room, or at a rate (`arrivals`). With a rate as many are under way as keep
every stage of the plan busy, and no more: they would only wait longer. A frame is pinned to the epoch that
is active when it starts, or to one of several that take turns in fixed shares (a mix of plans). If its
epoch is abandoned (a node was lost) or stays silent too long, the frame runs again — under the epoch that
is active then, or on the device alone — under the same `FrameId`, so that a lost node costs time and never
a frame. The device waits for another epoch no longer than it would take alone, and answers new frames alone
until there is one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from d3bed.agent.arrivals import Arrivals
from d3bed.agent.executor import Executor
from d3bed.core.errors import StaleEpoch
from d3bed.core.ids import Epoch, FrameId, PipelineId
from d3bed.core.measurements import FrameReport
from d3bed.core.messages import ModelSpec
from d3bed.model import LoadedModel, relative_error
from d3bed.model.images import decode, encoded, thumbnail
from d3bed.model.labels import label

__all__ = ["MAX_PHOTOS", "Active", "Photo", "Source", "prepare_photos"]

#: Distinct photos that are decoded and checked; a folder with more is cut to the first ones.
MAX_PHOTOS = 6

#: So many classes of an answer are told.
TOP = 5

#: A frame that has no answer after this long, or after this many times what is expected (what is predicted,
#: or the median of the last latencies), runs again.
PATIENCE_S, PATIENCE_FACTOR, LATENCIES = 3.0, 10.0, 5
#: After that the epoch is left alone for so long: the next frames need not find out one by one.
SILENT_S = 5.0
#: A frame whose epoch failed waits for another one for at most so long, and no longer than it takes alone.
NEW_EPOCH_S = 0.8


@dataclass(frozen=True)
class Photo:
    """A photo (uint8 or float32 [1, 3, H, W], or [n] of a file), what the undivided model answers to it, how
    long this machine took for that, and a small JPEG for people to look at."""

    name: str
    image: torch.Tensor
    reference: tuple[torch.Tensor, ...]
    took_s: float = 0.0
    thumbnail: bytes = b""


def prepare_photos(model: LoadedModel, paths: list[Path]) -> list[Photo]:
    """Decode and answer each photo with the whole eager model; call it on the compute thread.

    Raises `ConfigError` naming the first file that cannot be a frame.
    """
    height, width = model.input.shape[-2:]
    photos = []
    for path in paths[:MAX_PHOTOS]:
        image = decode(path, height, width).to(getattr(torch, model.input.dtype))
        if model.spec.encoded:
            image = encoded(path)
        began_s = time.monotonic()
        reference = model.whole(image)
        took_s = time.monotonic() - began_s
        photos.append(Photo(path.name, image, reference, took_s, thumbnail(path)))
    return photos


@dataclass
class Active:
    """The epochs that frames are started under, each with its share of them, and what they all run."""

    shares: Mapping[Epoch, float]
    model: LoadedModel
    photos: list[Photo]
    _credit: dict[Epoch, float] = field(default_factory=dict)

    def turn(self) -> Epoch:
        """Whose turn it is: over any number of turns no epoch is a whole turn away from its share."""
        for epoch, share in self.shares.items():
            self._credit[epoch] = self._credit.get(epoch, 0.0) + share
        chosen = max(self._credit, key=lambda epoch: self._credit[epoch])
        self._credit[chosen] -= sum(self.shares.values())
        return chosen


class Source:
    """The frames of one pipeline.

    `on_frame` gets every answer, `on_drained` an epoch whose last frame was answered after a newer one
    was activated, `on_ended` the counts (sent, answered, dropped) of a finished run.
    """

    def __init__(
        self,
        pipeline: PipelineId,
        executor: Executor,
        *,
        on_frame: Callable[[FrameReport], None],
        on_drained: Callable[[Epoch], None],
        on_ended: Callable[[int, int, int], None],
    ) -> None:
        self.pipeline = pipeline
        self._executor = executor
        self._on_frame, self._on_drained, self._on_ended = on_frame, on_drained, on_ended
        self._active: Active | None = None
        self._under_way: Counter[Epoch] = Counter()
        self._superseded: set[Epoch] = set()
        self._activated = asyncio.Event()
        self._next_frame = itertools.count(1)
        self._task: asyncio.Task[None] | None = None
        self._latencies_s: deque[float] = deque(maxlen=LATENCIES)
        self._expected_s = 0.0
        self._silent_until_s = 0.0
        self._frames: int | None = None
        self._in_flight: int | None = None
        self._depth = 1
        self._arrivals = Arrivals(None, time.monotonic())
        self._changed = asyncio.Event()
        self._stopping = False
        self.sent = 0
        self.answered = 0

    @property
    def dropped(self) -> int:
        """Frames of the run that came and were never started: the stream outran its plan."""
        return self._arrivals.dropped

    @property
    def limit(self) -> int:
        """How many frames may be unanswered."""
        return self._in_flight or (1 if self._arrivals.rate_per_s is None else self._depth)

    @property
    def patience_s(self) -> float:
        """How long an answer is waited for. One slow frame (of a board that slept) counts little, or the next
        one, had it got lost, would be waited for ten times as long."""
        usual_s = statistics.median(self._latencies_s) if self._latencies_s else 0.0
        return max(PATIENCE_S, PATIENCE_FACTOR * max(usual_s, self._expected_s))

    def activate(self, active: Active, depth: int = 1, expected_s: float = 0.0) -> None:
        """Frames that start from now on belong to these epochs; `depth` of them keep every stage busy, and
        each is expected to take `expected_s`."""
        self._depth, self._expected_s = depth, expected_s
        self._silent_until_s = 0.0
        self._changed.set()
        if self._active is not None:
            self._superseded |= self._active.shares.keys() - active.shares.keys()
        self._active = active
        self._activated.set()
        self._report_drained()

    def start(
        self, frames: int | None, in_flight: int | None = None, rate_per_s: float | None = None
    ) -> None:
        """Begin a run of `frames` frames (None: until `stop`), dropped ones included.

        `in_flight` None: one at a time, or as many as the plan needs where frames come at `rate_per_s`.
        A run that is going on becomes this one (its server may have been restarted): it is counted anew
        with the frames under way.
        """
        self._frames, self._in_flight, self._stopping = frames, in_flight, False
        self._arrivals = Arrivals(rate_per_s, time.monotonic())
        self._changed.set()
        self.sent, self.answered = self.sent - self.answered, 0
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name=f"source {self.pipeline}")

    def set_rate(self, rate_per_s: float | None) -> None:
        """Frames come at another rate from now on: 0 pauses, None is as soon as there is room."""
        self._arrivals.change(rate_per_s, time.monotonic())
        self._changed.set()

    def stop(self) -> None:
        """Start no more frames; those under way are still answered."""
        self._stopping = True
        self._changed.set()

    async def close(self) -> None:
        """End at once; frames under way are given up."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        await self._activated.wait()
        try:
            async with asyncio.TaskGroup() as group:
                while (came_s := await self._next()) is not None:
                    task = group.create_task(self._frame(FrameId(next(self._next_frame)), self.sent, came_s))
                    self.sent += 1
                    task.add_done_callback(lambda _: self._changed.set())
        finally:
            self._on_ended(self.sent, self.answered, self.dropped)

    async def _next(self) -> float | None:
        """Wait until a frame can be started; when it came. None: the run is over."""
        while True:
            self._changed.clear()
            if self._stopping or (self._frames is not None and self.sent + self.dropped >= self._frames):
                return None
            wait_s = math.inf
            if self.sent - self.answered < self.limit:
                now = time.monotonic()
                if (came_s := self._arrivals.take(now)) is not None:
                    return came_s
                wait_s = self._arrivals.until_next_s(now)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), None if math.isinf(wait_s) else wait_s)

    async def _frame(self, frame: FrameId, number: int, came_s: float) -> None:
        began_s = time.monotonic()
        tried: set[Epoch] = set()
        answer, alone, tries = None, False, 0
        while answer is None:
            assert self._active is not None  # _run waited for the first epoch
            active, epoch = self._active, self._active.turn()
            photo = active.photos[number % len(active.photos)]
            alone = not tried.isdisjoint(active.shares) or not self._is_usable(epoch)
            tries += 1
            self._under_way[epoch] += 1
            try:
                answer = await self._answer(epoch, frame, active.model, photo, alone=alone)
            finally:
                self._under_way[epoch] -= 1
                self._report_drained()
            tried.add(epoch)
            if answer is None and not tried.isdisjoint(self._active.shares):
                wait_s = min(NEW_EPOCH_S, photo.took_s / self._executor.speed)
                self._activated.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._activated.wait(), wait_s)
        answered_s = time.monotonic()
        if tries == 1 and not alone:
            self._latencies_s.append(answered_s - began_s)
        self.answered += 1
        same = all(torch.equal(a, b) for a, b in zip(answer, photo.reference, strict=True))
        top = _top(answer, active.model.spec)
        self._on_frame(
            FrameReport(
                frame=frame,
                epoch=epoch,
                photo=photo.name,
                started_s=came_s,
                waited_s=began_s - came_s,
                answered_s=answered_s,
                answer=_describe(answer, top),
                top=top,
                attempts=tries,
                alone=alone,
                identical=same,
                max_rel_err=0.0 if same else relative_error(answer, photo.reference),
            )
        )

    async def _answer(
        self, epoch: Epoch, frame: FrameId, model: LoadedModel, photo: Photo, alone: bool
    ) -> tuple[torch.Tensor, ...] | None:
        """One try; None if the epoch was abandoned or did not answer in time."""
        if alone:
            return await self._executor.alone(model, frame, photo.image)
        try:
            async with asyncio.timeout(self.patience_s):
                return await self._executor.infer(self.pipeline, epoch, frame, photo.image)
        except TimeoutError:
            self._silent_until_s = time.monotonic() + SILENT_S
        except StaleEpoch:
            pass
        self._executor.forget(self.pipeline, epoch, frame)
        return None

    def _is_usable(self, epoch: Epoch) -> bool:
        usable = self._executor.is_usable(self.pipeline, epoch)
        return usable and time.monotonic() >= self._silent_until_s

    def _report_drained(self) -> None:
        for epoch in [e for e in self._superseded if self._under_way[e] == 0]:
            self._superseded.discard(epoch)
            self._on_drained(epoch)


def _top(answer: tuple[torch.Tensor, ...], spec: ModelSpec) -> tuple[tuple[str, float], ...]:
    """The classes with the largest scores, best first, where the answer is a row of scores."""
    first = answer[0]
    if first.dim() != 2 or first.shape[0] != 1:
        return ()
    scores, classes = first[0].float().topk(min(TOP, first.shape[1]))
    return tuple(
        (label(spec, int(index), first.shape[1]), float(f"{float(score):.4g}"))
        for index, score in zip(classes, scores, strict=True)
    )


def _describe(answer: tuple[torch.Tensor, ...], top: tuple[tuple[str, float], ...]) -> str:
    """The answer in a word: the class with the largest score, where it is a row of scores."""
    if top:
        return f"{top[0][0]} ({top[0][1]:.4g})"
    first = answer[0]
    return f"{str(first.dtype).removeprefix('torch.')}{list(first.shape)}"
