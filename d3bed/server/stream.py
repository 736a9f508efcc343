"""The frames of one pipeline: when its source runs, and which run counts them. Pure.

A run is asked for (`begin`) and starts with the first active epoch; it ends when its frames are sent, when
it is stopped, or when its device is lost: then what is left of it waits for the device to come back.
"""

from __future__ import annotations

from d3bed.core.ids import CauseId
from d3bed.core.messages import SetRate, StartSource, StopSource
from d3bed.server.epochs import PlannedEpoch
from d3bed.server.runs import Run, Start
from d3bed.server.settings import PipelineSettings
from d3bed.server.world import World

__all__ = ["SETTLE_S", "Stream"]

#: A run shows as running for this long after its end: then all agents' batches have come.
SETTLE_S = 0.6


class Stream:
    """`run` is the latest one; `start` the one that waits for an active epoch. Runs that another one followed
    before they were stored are `unsaved`."""

    def __init__(self, settings: PipelineSettings, world: World) -> None:
        self.settings, self._world = settings, world
        self.run: Run | None = None
        self.unsaved: list[Run] = []
        self.start = Start(settings.frames, settings.in_flight) if settings.autostart else None
        self.rate_per_s = settings.rate_per_s
        self._runs = 0

    @property
    def is_running(self) -> bool:
        """Whether the source is producing frames."""
        return self.run is not None and self.run.ended_s is None

    @property
    def in_flight(self) -> int:
        """How many frames of the latest run may be unanswered; at a rate it is up to the plan, 2 or more."""
        given = self.run.in_flight if self.run is not None else self.settings.in_flight
        return given or (1 if self.rate_per_s is None else 2)

    def frames_per_s(self, latency_s: float, most_per_s: float) -> float:
        """How many frames are expected to come through a plan of this latency that sustains `most_per_s`."""
        if self.rate_per_s is not None:
            return min(self.rate_per_s, most_per_s)
        return min(self.in_flight / latency_s, most_per_s) if latency_s > 0 else 0.0

    @property
    def is_counting(self) -> bool:
        """Whether a run is under way, or may still get late batches of other agents than the device."""
        run = self.run
        return run is not None and (run.ended_s is None or self._world.now - run.ended_s < SETTLE_S)

    def begin(self, start: Start, active: PlannedEpoch | None) -> None:
        """Start the source, or note that it shall start with the first active epoch."""
        if active is None:
            self.start = start
            return
        self.open(start, active)
        message = StartSource(self.settings.id, start.frames, start.in_flight, self.rate_per_s)
        self._world.send(self.settings.device, message)
        self._confirm(start.order)

    def set_rate(self, rate_per_s: float | None, order: CauseId | None = None) -> None:
        """Frames come at another rate: 0 pauses them, None is one after the other."""
        self.rate_per_s = rate_per_s
        if self.is_running:
            self._world.send(self.settings.device, SetRate(self.settings.id, rate_per_s))
            self._confirm(order)
        elif order is not None:
            self._world.orders.done(order, "it holds from the next run on")

    def adopt(self, active: PlannedEpoch | None) -> Run:
        """Count frames of a source that was running before the server (re)started; they come at the rate
        that this server knows of."""
        self._world.send(self.settings.device, SetRate(self.settings.id, self.rate_per_s))
        return self.open(Start(None, self.settings.in_flight), active)

    def open(self, start: Start, active: PlannedEpoch | None) -> Run:
        """Begin to count."""
        self.start = None
        self._runs += 1
        if self.run is not None and self.run.unsaved:
            self.unsaved.append(self.run)
        self.run = Run(
            id=f"{self.settings.id}-{self._world.boot}-{self._runs}",
            pipeline=self.settings.id,
            network=self.settings.network,
            tolerance=self.settings.tolerance,
            started_s=self._world.now,
            frames_wanted=start.frames,
            in_flight=start.in_flight,
            epochs=list(active.group) if active else [],
        )
        return self.run

    def activated(self, epoch: PlannedEpoch) -> None:
        """Frames that start from now on run under `epoch`."""
        if self.run is not None and self.is_running:
            self.run.epochs += epoch.group
        elif self.start is not None:
            self.begin(self.start, epoch)

    def stop(self, order: CauseId | None = None) -> None:
        if self.start is not None and self.start.order is not None:
            self._world.orders.failed(self.start.order, "stopped before it began")
        self.start = None
        if self.run is not None and self.is_running:
            self.run.stopped = True
            self._world.send(self.settings.device, StopSource(self.settings.id))
            self._confirm(order)
        elif order is not None:
            self._world.orders.done(order, "no frames flow")

    def _confirm(self, order: CauseId | None) -> None:
        if order is not None:
            self._world.orders.confirm(order, self.settings.device)

    def end(self) -> None:
        if self.run is not None and self.run.ended_s is None:
            self.run.ended_s = self._world.now
            self.run.unsaved = True

    def lose_device(self) -> None:
        """The run ends; what is left of it starts when the device is back."""
        if self.run is None or not self.is_running:
            return
        left = self.run.frames_wanted
        if left is not None:
            left = max(0, left - self.run.numbers.answered)
        self.start = Start(left, self.run.in_flight) if left != 0 else None
        self.end()
