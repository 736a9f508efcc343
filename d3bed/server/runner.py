"""Performs what the coordinator commands, and brings what comes of it back as events.

The only place where decisions meet sockets, disk, threads and the clock. Everything runs on the event
loop, but for planning (one thread) and the store (its own).
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import logging
import pkgutil
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, assert_never

from d3bed import plan
from d3bed.core.errors import D3Error
from d3bed.core.messages import encode
from d3bed.plan import Choice, choose
from d3bed.server.coordinator import Coordinator
from d3bed.server.events import (
    CloseAgent,
    Command,
    ComputePlan,
    Event,
    PlanComputed,
    PlanFailed,
    Publish,
    Record,
    SendTo,
    Ticked,
)
from d3bed.server.feed import Feed
from d3bed.server.files import ModelFiles
from d3bed.server.store import Store
from d3bed.server.tape import Tape

__all__ = ["BATCH_S", "AgentConnection", "Runner", "choice_for", "make_clock"]

logger = logging.getLogger(__name__)

#: The feed sends at most one batch in this time, after the coordinator has looked at the clock.
BATCH_S = 0.05


def make_clock() -> Callable[[], float]:
    """The server's clock: seconds since 1970 at the start, monotonic from there on."""
    offset_s = time.time() - time.monotonic()
    return lambda: offset_s + time.monotonic()


class AgentConnection(Protocol):
    """A control connection as the runner sees it; neither call blocks or raises."""

    def send(self, text: str) -> None: ...

    def close(self, code: int, reason: str) -> None: ...


class Runner:
    """Owns the coordinator. Call `submit` on the event loop only."""

    def __init__(
        self,
        coordinator: Coordinator,
        store: Store,
        clock: Callable[[], float],
        files: ModelFiles | None = None,
    ) -> None:
        self.files = files or ModelFiles()
        self.coordinator = coordinator
        self.store = store
        self.clock = clock
        self.feed = Feed(coordinator.snapshot, clock, coordinator.drawings.spliced_state)
        self.beaten_s = clock()  # when the coordinator was last told that time passes
        self._tape = Tape(lambda: coordinator.drawings.spliced_state(coordinator.snapshot()))
        self._connections: dict[int, AgentConnection] = {}
        self._numbers = itertools.count(1)
        #: Tiles take up to a second to plan; a plan without them, as after a loss, waits for none of that.
        self._planner = ThreadPoolExecutor(1, thread_name_prefix="planner")
        self._hasty_planner = ThreadPoolExecutor(1, thread_name_prefix="hasty planner")
        self._tasks: set[asyncio.Task[None]] = set()

    # ── life ──────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self.store.watch(lambda news: loop.call_soon_threadsafe(self.submit, news))
        self.spawn(self._beat())
        self._planner.submit(_load_planner)

    async def stop(self) -> None:
        """Cancel what is under way and store what is not yet; `Store.close` then writes it."""
        self.store.watch(None)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for planner in (self._planner, self._hasty_planner):
            planner.shutdown(cancel_futures=True)
        for command in self.coordinator.last_words(self.clock()):
            self._perform(command)
        for row in self._tape.end(self.clock()):
            self.store.put("tape", row)

    async def _beat(self) -> None:
        for beat in itertools.count():
            await asyncio.sleep(BATCH_S)
            self.submit(Ticked())
            self.beaten_s = self.clock()
            if beat % 2:
                for row in self._tape.tick(self.clock(), counting=self.coordinator.is_counting):
                    self.store.put("tape", row)
            self.feed.flush()

    # ── agents ────────────────────────────────────────────────────────────────────────────────────

    def add_connection(self, connection: AgentConnection) -> int:
        """Returns its number, to be used in events."""
        number = next(self._numbers)
        self._connections[number] = connection
        return number

    def drop_connection(self, number: int) -> None:
        self._connections.pop(number, None)

    # ── events in, commands performed ─────────────────────────────────────────────────────────────

    def submit(self, event: Event) -> None:
        """Handle an event now. A bug in handling it is logged and shown, and ends nothing."""
        try:
            commands = self.coordinator.handle(event, self.clock())
        except Exception:
            name = type(event).__name__
            logger.exception("handling %s failed", name)
            note = {"text": f"the server failed to handle {name}; its log says why", "level": "error"}
            self.feed.publish("note", note | {"time_s": self.clock()})
            return
        self._perform_all(commands)

    def carry_out(self) -> None:
        """What the world was told outside of an event: notes, orders that began or ended."""
        self._perform_all(self.coordinator.world.take())

    def _perform_all(self, commands: list[Command]) -> None:
        for command in commands:
            self._perform(command)

    def _perform(self, command: Command) -> None:
        match command:
            case Publish(kind, data, cause_id):
                self.feed.publish(kind, data, cause_id)
                self._tape.saw(kind, data, cause_id, self.clock())
            case SendTo(connection=number, message=message):
                if number in self._connections:
                    self._connections[number].send(encode(message))
            case Record(table, row, urgent):
                self.store.put(table, row, urgent=urgent)
            case CloseAgent(number, code, reason):
                if number in self._connections:
                    self._connections[number].close(code, reason)
            case ComputePlan():
                self.spawn(self._plan(command))
            case _:
                assert_never(command)

    async def _plan(self, command: ComputePlan) -> None:
        planner = self._hasty_planner if command.tiling == "none" else self._planner
        event: PlanComputed | PlanFailed
        try:
            choice = await asyncio.get_running_loop().run_in_executor(planner, choice_for, command)
        except D3Error as error:
            event = PlanFailed(command.pipeline, command.request, str(error))
        except Exception as error:
            logger.exception("planning %s failed", command.pipeline)
            event = PlanFailed(command.pipeline, command.request, f"the planner broke: {error!r}")
        else:
            event = PlanComputed(command.pipeline, command.request, choice)
        self.submit(event)

    async def read(self, sql: str, *values: object) -> list[dict[str, Any]]:
        """Query the store without holding up the loop."""
        return await asyncio.to_thread(self.store.read, sql, *values)

    def spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """A task that ends with the runner, if not before."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _load_planner() -> None:
    """Import all of it now: the first plan should not wait for SciPy, and when an upgrade replaces these
    files a running server must not plan with a mixture of versions. What is needed first comes first."""
    importlib.import_module("scipy.sparse.csgraph")
    for module in pkgutil.walk_packages(plan.__path__, "d3bed.plan."):
        importlib.import_module(module.name)


def choice_for(command: ComputePlan) -> Choice:
    """Plan. Takes up to a second; raises what `choose` raises."""
    return choose(
        command.graph,
        command.profiles,
        command.agents,
        command.rates,
        command.device,
        strategy=command.strategy,
        pins=command.pins,
        current=command.current,
        tiling=command.tiling,
        fixed_s=command.fixed_s,
        untiled=command.untiled,
        rate_per_s=command.rate_per_s,
    )
