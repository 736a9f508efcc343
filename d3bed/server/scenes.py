"""Scenarios that the server plays itself, on the testbed that it has: its users watch what comes of it.

A scene is a scenario file (`d3bed.scenario/1`) as `cli` read it: requests of the JSON API and when they are
made. Each goes through the same door as a user's, by the name of the scenario. What is refused (an agent is
gone) is a note, and the scenario goes on. At its end, or when somebody stops it, the conditions that it
changed are as configured again, and rate and strategy as before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from d3bed.core.errors import D3Error
from d3bed.core.ids import CauseId
from d3bed.server.events import ChangeRate, ChangeStrategy, Undo
from d3bed.server.runner import Runner
from d3bed.server.settings import Scene
from d3bed.server.views import SceneView

__all__ = ["Scenes"]

Ask = Callable[[str, dict[str, Any]], Awaitable[object]]


class Scenes:
    """Plays one at a time. `ask` makes a request of a user (path under `/api/`, body); what it raises as
    `D3Error` is told."""

    def __init__(self, runner: Runner, ask: Ask) -> None:
        self._runner = runner
        self._world = runner.coordinator.world
        self._ask = ask
        self._playing: asyncio.Task[None] | None = None

    @property
    def offered(self) -> dict[str, Scene]:
        return {scene.name: scene for scene in self._runner.coordinator.settings.scenes}

    def play(self, scene: Scene, by: str) -> CauseId:
        """Begin; there must be none that plays. Returns the order that lasts until its end."""
        self._world.now = self._runner.clock()
        order = self._world.orders.begin(f"scenario {scene.name}", by, {})
        self._runner.carry_out()
        self._playing = self._runner.spawn(self._play(scene, by, order))
        return order

    def stop(self) -> bool:
        """Whether there was one that played; it tidies up after itself."""
        if self._world.scene is None or self._playing is None:
            return False
        self._playing.cancel()
        return True

    async def _play(self, scene: Scene, by: str, order: CauseId) -> None:
        world, coordinator = self._world, self._runner.coordinator
        pipelines = coordinator.pipelines
        before = {
            name: (pipe.target.strategy if pipe.target else None, pipe.stream.rate_per_s)
            for name, pipe in pipelines.items()
        }
        me, clock = f"scenario {scene.name}"[:60], self._runner.clock
        begun_s = clock()
        stopped = True
        try:
            for number, event in enumerate(scene.events):
                self._show(scene, by, begun_s, number, event.words)
                await asyncio.sleep(max(0.0, begun_s + event.at_s - clock()))
                try:
                    await self._ask(event.path, event.body | {"by": me})
                except D3Error as refused:
                    world.note(f"{me}, {event.words}: {refused}", "warn")
                    self._runner.carry_out()
            self._show(scene, by, begun_s, len(scene.events), "")
            await asyncio.sleep(max(0.0, begun_s + scene.duration_s - clock()))
            stopped = False
        finally:
            world.scene = None
            for condition in coordinator.conditions.views:
                if condition.by == me:
                    quantities = tuple(condition.values)
                    self._runner.submit(Undo(condition.agents, quantities, me))  # type: ignore[arg-type]
            for name, pipe in pipelines.items():
                strategy, rate_per_s = before[name]
                if strategy is not None and pipe.target is not None and pipe.target.strategy != strategy:
                    self._runner.submit(ChangeStrategy(name, strategy, None, me))
                if pipe.stream.rate_per_s != rate_per_s:
                    self._runner.submit(ChangeRate(name, rate_per_s, me))
            world.now = clock()
            (world.orders.failed if stopped else world.orders.done)(
                order, "stopped" if stopped else "to its end"
            )
            world.publish("scene", None)
            self._runner.carry_out()

    def _show(self, scene: Scene, by: str, begun_s: float, done: int, then: str) -> None:
        world = self._world
        at_s = scene.events[done].at_s if done < len(scene.events) else None
        view = SceneView(
            name=scene.name,
            by=by,
            begun_s=begun_s,
            duration_s=scene.duration_s,
            events=len(scene.events),
            done=done,
            next=then,
            next_s=None if at_s is None else begun_s + at_s,
        )
        world.scene = view
        world.publish("scene", view)
        self._runner.carry_out()
