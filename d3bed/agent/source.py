"""Frames on the device: photos in, answers out, each compared with the undivided model.

The source keeps at most `in_flight` frames unanswered. A frame is pinned to the epoch that is active
when it starts; if that epoch is abandoned (a node was lost) or stays silent too long, the frame runs
again — under the epoch that is active then, or on the device alone — under the same `FrameId`, so that
a lost node costs time and never a frame.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from d3bed.agent.compute import ComputeThread
from d3bed.agent.executor import Executor
from d3bed.core.errors import StaleEpoch
from d3bed.core.ids import Epoch, FrameId, PipelineId
from d3bed.core.measurements import FrameReport
from d3bed.model import LoadedModel
from d3bed.model.images import decode, encoded

__all__ = ["MAX_PHOTOS", "Photo", "Source", "prepare_photos", "relative_error"]

#: Distinct photos that are decoded and checked; a folder with more is cut to the first ones.
MAX_PHOTOS = 6

#: A frame that has no answer after this long, or after this many times the last latency, runs again.
PATIENCE_S, PATIENCE_FACTOR = 20.0, 20.0


@dataclass(frozen=True)
class Photo:
    """A photo (uint8 [1, 3, H, W], or [n] of a file) and what the undivided model answers to it."""

    name: str
    image: torch.Tensor
    reference: tuple[torch.Tensor, ...]


def prepare_photos(model: LoadedModel, paths: list[Path]) -> list[Photo]:
    """Decode and answer each photo with the whole eager model; call it on the compute thread.

    Raises `ConfigError` naming the first file that cannot be a frame.
    """
    height, width = model.input.shape[-2:]
    photos = []
    for path in paths[:MAX_PHOTOS]:
        image = decode(path, height, width)
        if model.spec.encoded:
            image = encoded(path)
        photos.append(Photo(path.name, image, model.whole(image)))
    return photos


def relative_error(answer: tuple[torch.Tensor, ...], reference: tuple[torch.Tensor, ...]) -> float:
    """Largest absolute difference over the largest absolute reference value."""
    worst = 0.0
    for got, want in zip(answer, reference, strict=True):
        scale = float(want.double().abs().max()) or 1.0
        worst = max(worst, float((got.double() - want.double()).abs().max()) / scale)
    return worst


class Source:
    """The frames of one pipeline.

    `on_frame` gets every answer, `on_drained` an epoch whose last frame was answered after a newer one
    was activated, `on_ended` the counts (sent, answered) of a finished run.
    """

    def __init__(
        self,
        pipeline: PipelineId,
        executor: Executor,
        compute: ComputeThread,
        *,
        on_frame: Callable[[FrameReport], None],
        on_drained: Callable[[Epoch], None],
        on_ended: Callable[[int, int], None],
    ) -> None:
        self.pipeline = pipeline
        self._executor, self._compute = executor, compute
        self._on_frame, self._on_drained, self._on_ended = on_frame, on_drained, on_ended
        self._active: tuple[Epoch, LoadedModel, list[Photo]] | None = None
        self._under_way: Counter[Epoch] = Counter()
        self._superseded: set[Epoch] = set()
        self._activated = asyncio.Event()
        self._next_frame = itertools.count(1)
        self._task: asyncio.Task[None] | None = None
        self._last_latency_s = 0.0
        self._frames: int | None = None
        self._stopping = False
        self.sent = 0
        self.answered = 0

    def activate(self, epoch: Epoch, model: LoadedModel, photos: list[Photo]) -> None:
        """Frames that start from now on belong to `epoch`."""
        if self._active is not None and self._active[0] != epoch:
            self._superseded.add(self._active[0])
        self._active = (epoch, model, photos)
        self._activated.set()
        self._report_drained()

    def start(self, frames: int | None, in_flight: int) -> None:
        """Begin a run of `frames` frames (None: until `stop`).

        A run that is going on becomes this one (its server may have been restarted): it is counted anew
        with the frames under way, and keeps its `in_flight`.
        """
        self._frames, self._stopping = frames, False
        self.sent, self.answered = self.sent - self.answered, 0
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(in_flight), name=f"source {self.pipeline}")

    def stop(self) -> None:
        """Start no more frames; those under way are still answered."""
        self._stopping = True

    async def close(self) -> None:
        """End at once; frames under way are given up."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, in_flight: int) -> None:
        room = asyncio.Semaphore(in_flight)
        await self._activated.wait()
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await room.acquire()
                    if self._stopping or (self._frames is not None and self.sent >= self._frames):
                        break
                    task = group.create_task(self._frame(FrameId(next(self._next_frame)), self.sent))
                    self.sent += 1
                    task.add_done_callback(lambda _: room.release())
        finally:
            self._on_ended(self.sent, self.answered)

    async def _frame(self, frame: FrameId, number: int) -> None:
        started_s = time.monotonic()
        tried: set[Epoch] = set()
        answer = None
        while answer is None:
            assert self._active is not None  # _run waited for the first epoch
            epoch, model, photos = self._active
            photo = photos[number % len(photos)]
            self._under_way[epoch] += 1
            try:
                answer = await self._answer(epoch, frame, model, photo, alone=epoch in tried)
            finally:
                self._under_way[epoch] -= 1
                self._report_drained()
            tried.add(epoch)
            if answer is None and self._active[0] in tried:
                self._activated.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._activated.wait(), _NEW_EPOCH_S)
        answered_s = time.monotonic()
        self._last_latency_s = answered_s - started_s
        self.answered += 1
        same = all(torch.equal(a, b) for a, b in zip(answer, photo.reference, strict=True))
        self._on_frame(
            FrameReport(
                frame=frame,
                epoch=epoch,
                photo=photo.name,
                started_s=started_s,
                answered_s=answered_s,
                answer=_describe(answer),
                attempts=len(tried),
                identical=same,
                max_rel_err=0.0 if same else relative_error(answer, photo.reference),
            )
        )

    async def _answer(
        self, epoch: Epoch, frame: FrameId, model: LoadedModel, photo: Photo, alone: bool
    ) -> tuple[torch.Tensor, ...] | None:
        """One try; None if the epoch was abandoned or did not answer in time."""
        if alone:
            return await self._compute.run(lambda: model.whole(photo.image))
        patience_s = max(PATIENCE_S, PATIENCE_FACTOR * self._last_latency_s)
        try:
            async with asyncio.timeout(patience_s):
                return await self._executor.infer(self.pipeline, epoch, frame, photo.image)
        except (StaleEpoch, TimeoutError):
            self._executor.forget(self.pipeline, epoch, frame)
            return None

    def _report_drained(self) -> None:
        for epoch in [e for e in self._superseded if self._under_way[e] == 0]:
            self._superseded.discard(epoch)
            self._on_drained(epoch)


#: How long a frame whose epoch failed waits for the server to activate another one.
_NEW_EPOCH_S = 5.0


def _describe(answer: tuple[torch.Tensor, ...]) -> str:
    """The answer in a word: the class with the largest score, where it is a row of scores."""
    first = answer[0]
    if first.dim() == 2 and first.shape[0] == 1:
        best = int(first[0].argmax())
        return f"class {best} ({float(first[0][best]):.4g})"
    return f"{str(first.dtype).removeprefix('torch.')}{list(first.shape)}"
