"""A whole testbed on this machine: one server and the agents of a config file, as a user would start them.

The demo is only another client: it starts the processes, follows the event feed, asks the JSON API for
the report, and ends the processes. Nothing in it computes, plans or knows a tensor.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import tempfile
import time
import webbrowser
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console, RenderableType
from rich.live import Live
from websockets.exceptions import ConnectionClosed

from d3bed.config import Config
from d3bed.core.errors import ConfigError, D3Error
from d3bed.core.models import CLOSE, TORCH
from d3bed.lab.follow import State, follow_messages
from d3bed.lab.player import Stage, Told, play
from d3bed.lab.processes import ChildDied, Children
from d3bed.lab.scenario import Scenario
from d3bed.lab.screen import exactness, milliseconds, page
from d3bed.lab.testbed import Testbed, check_cores, start_processes

__all__ = ["DemoOptions", "run_demo"]

#: Exit codes of the demo.
OK, FAILED, INTERRUPTED = 0, 1, 130


logger = logging.getLogger(__name__)


class DemoFailed(D3Error):
    """The demo cannot go on; the message says why."""


@dataclass(frozen=True)
class DemoOptions:
    """`overrides` are command line options for the server, passed through as they came. A `tour` is played
    once the page shows; after it frames go on as they are."""

    config: Config
    overrides: tuple[str, ...]
    frames: int | None
    headless: bool
    report: Path | None
    tour: Scenario | None = None


@dataclass
class _Progress:
    started_s: float = field(default_factory=time.monotonic)
    state: State | None = None
    dashboard: str = ""
    tour: str | None = None
    #: The tour, while it is under way.
    touring: Scenario | None = None
    told: Told = field(default_factory=Told)
    #: The server's clock less this process's.
    ahead_s: float = 0.0

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started_s

    @property
    def now_s(self) -> float:
        """On the server's clock."""
        return self.ahead_s + time.monotonic()


async def run_demo(options: DemoOptions, console: Console) -> int:
    """Run until the frames are answered (headless), or until Ctrl-C. Returns the exit code.

    Raises `ConfigError` for what the user must mend, `ChildDied` and `DemoFailed` for the rest; no process
    is left in any case.
    """
    check_cores(options.config)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    work_dir = Path(tempfile.mkdtemp(prefix="d3bed-demo-"))
    try:
        async with Children(work_dir) as children:
            main = asyncio.create_task(_drive(options, console, children, work_dir))
            died = asyncio.create_task(children.died())
            stopping = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait((main, died, stopping), return_when=asyncio.FIRST_COMPLETED)
                if died.done():
                    await died
                if main.done():
                    return await _blame(main, died)
                console.print("stopping …")
                return INTERRUPTED if options.headless else OK
            finally:
                for task in (main, died, stopping):
                    task.cancel()
                await asyncio.gather(main, died, stopping, return_exceptions=True)
    except ChildDied as error:
        if error.code != ConfigError.EXIT_CODE:
            raise
        # The child is only the messenger: what it says is what the user must mend.
        said = error.last_words.removeprefix("d3bed: ").removeprefix(f"{error.name}: ")
        raise ConfigError(error.name, "", said) from error
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        shutil.rmtree(work_dir, ignore_errors=True)


async def _blame(main: asyncio.Task[int], died: asyncio.Task[None]) -> int:
    """The result of `main`; where it failed because a child died, that child's death is the error."""
    try:
        return await main
    except D3Error:
        await asyncio.wait((died,), timeout=1.0)
        if died.done():
            await died
        raise


async def _drive(options: DemoOptions, console: Console, children: Children, work_dir: Path) -> int:
    progress = _Progress()
    overrides = [*options.overrides, *(["--idle"] if options.tour else [])]
    base = progress.dashboard = await start_processes(options.config, overrides, children, work_dir)
    if options.headless:
        return await _headless(options, console, base, progress)
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        await asyncio.to_thread(webbrowser.open, base)
    if not console.is_terminal:  # what is drawn below is printed once, at the end
        console.print(f"dashboard: {base}", highlight=False, soft_wrap=True)
    with Live(page(None, base, 0), console=console, refresh_per_second=4, screen=False) as live:
        ticking = asyncio.create_task(_tick(live, progress, console))
        touring = asyncio.create_task(_tour(options, base, children, progress))
        written = False
        try:
            async for state, message in _states(base):
                progress.state, progress.ahead_s = state, message["now"] - time.monotonic()
                if options.report and not written and _ended(state.pipeline):
                    _write_report(options.report, await _report(base, state.pipeline))
                    written = True
        finally:
            for task in (ticking, touring):
                task.cancel()
            await asyncio.gather(ticking, touring, return_exceptions=True)
    raise DemoFailed("the server closed the connection")


async def _tour(options: DemoOptions, base: str, children: Children, progress: _Progress) -> None:
    """Once there is a plan, play the tour, then let frames come without end. What goes wrong is said on the
    page, and frames come all the same."""
    if options.tour is None:
        return
    pipeline = str(options.config.pipelines[0].id)
    bed = Testbed(base, pipeline, children)
    stage = Stage(base, bed=bed, config=options.config, told=progress.told)
    progress.tour, progress.touring = "begins with the first answer", options.tour
    try:
        await bed.ready()
        await play(options.tour, stage, lambda _: None)
        progress.tour = "over; frames go on as they are"
    except D3Error as error:
        progress.tour = f"ended: {error}"
    except Exception as error:
        logger.exception("the tour failed")
        progress.tour = f"ended by a mistake of d3bed's own, {error!r}: please report it"
    progress.touring = None
    with contextlib.suppress(D3Error):  # a run may be under way, or the server gone: that is said elsewhere
        await stage.post(f"pipelines/{pipeline}/start", {})


async def _tick(live: Live, progress: _Progress, console: Console) -> None:
    while True:
        size = (console.width, console.height - 1) if console.is_terminal else None
        live.update(_page(progress, size))
        await asyncio.sleep(0.25)


def _page(progress: _Progress, size: tuple[int, int] | None) -> RenderableType:
    begun_s, tour, said = progress.told.begun_s, progress.touring, progress.tour
    if tour is not None and begun_s is not None:
        at_s = min(tour.duration_s, progress.now_s - begun_s)
        said = f"{at_s:.0f} of {tour.duration_s:g} s: {tour.description}"
    return page(
        progress.state,
        progress.dashboard,
        progress.elapsed_s,
        said,
        steps=progress.told.steps,
        zero_s=progress.now_s - progress.elapsed_s if begun_s is None else begun_s,
        size=size,
    )


async def _headless(options: DemoOptions, console: Console, base: str, progress: _Progress) -> int:
    said, first = "", False
    async for state, _ in _states(base):
        pipeline = state.pipeline
        text = f"{pipeline.get('phase') or 'starting'}: {pipeline.get('phase_text') or ''}"
        if text != said:
            console.print(f"{progress.elapsed_s:6.1f} s  {text}", highlight=False, soft_wrap=True)
            said = text
        answered = (pipeline.get("frames") or {}).get("answered") or 0
        if answered and not first:
            first = True
            console.print(f"{progress.elapsed_s:6.1f} s  first frame answered", highlight=False)
        if pipeline.get("phase") == "failed":
            problem = str(pipeline.get("phase_text") or "no reason given")
            raise DemoFailed(problem) if first else ConfigError(f"pipeline {pipeline['id']}", "", problem)
        if _ended(pipeline):
            report = await _report(base, pipeline)
            if options.report:
                _write_report(options.report, report)
            return _judge(report, options.frames, console)
    raise DemoFailed("the server closed the connection before the last frame was answered")


def _ended(pipeline: dict[str, Any]) -> bool:
    return pipeline.get("phase") == "idle" and bool((pipeline.get("frames") or {}).get("sent"))


def _judge(report: dict[str, Any], frames: int | None, console: Console) -> int:
    """Say what happened; 0 only if every frame was answered and exact (or as close as was asked for)."""
    counts, exact, latency = report["frames"], report["exact"], report["latency_s"]
    console.print(
        f"{report['model']}, strategy {report['strategy']}, network {report['network']}: "
        f"{counts['answered']} of {counts['sent']} frames answered, {counts['lost']} lost; "
        f"median latency {milliseconds(latency['median'])} ms, "
        f"predicted {milliseconds(latency['predicted'])} ms",
        highlight=False,
        soft_wrap=True,
    )
    console.print(exactness(exact), soft_wrap=True)
    all_answered = counts["answered"] == counts["sent"] and counts["sent"] == (frames or counts["sent"])
    rounds = any(agent["engine"] != TORCH for agent in report["agents"])
    tolerance = max(report["tolerance"], CLOSE if rounds else 0.0)
    close = tolerance > 0 and (exact["max_rel_err"] or 0.0) <= tolerance
    all_exact = 0 < exact["checked"] == counts["answered"] and (
        exact["identical"] == exact["checked"] or close
    )
    return OK if all_answered and all_exact else FAILED


async def _states(base: str) -> AsyncIterator[tuple[State, dict[str, Any]]]:
    with contextlib.suppress(ConnectionClosed, OSError):
        async for state, message in follow_messages(base):
            yield state, message


async def _report(base: str, pipeline: dict[str, Any]) -> dict[str, Any]:
    async with (
        aiohttp.ClientSession(base) as session,
        session.get(f"/api/runs/{pipeline['run']}/report") as response,
    ):
        body = await response.json()
        if response.status != 200:
            raise DemoFailed(f"no report: {body.get('error', response.status)}")
        return dict(body)


def _write_report(path: Path, report: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise DemoFailed(f"--report {path}: {error.strerror}") from error
