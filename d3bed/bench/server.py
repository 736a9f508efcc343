"""What the server takes for many agents: CPU, memory, and how soon it answers meanwhile.

The server is a real process. Agents are simulated, but each is a real client: its own WebSocket over
loopback, the agent's own control connection and reporter, every order answered. Pipelines of three agents
have a plan that uses all three; each device answers ten frames a second, and each agent tells a span and a
tensor of every one of them, its heartbeats and its board. What they tell is made up. One dashboard follows
the feed. The agents run in processes of their own; how much those take is told, too, since they share the
machine with the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from collections.abc import Coroutine, Sequence
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import psutil
from rich import box
from rich.console import Console
from rich.table import Table
from websockets.asyncio.client import connect

from d3bed.agent.clock import ClockOffset
from d3bed.agent.control import run_control
from d3bed.agent.reporter import Reporter
from d3bed.bench.plan import made_graph
from d3bed.core.errors import D3Error
from d3bed.core.graph import Value
from d3bed.core.ids import TIERS, AgentId, Epoch, FrameId, PipelineId, Tier
from d3bed.core.measurements import BoardSample, FrameReport, Span, SpanKind, Transfer
from d3bed.core.messages import (
    Activate,
    Confirm,
    Confirmed,
    Heartbeat,
    LinkMeasured,
    LoadModel,
    MeasureLinks,
    ModelLoaded,
    Prepare,
    Profiled,
    ProfileModel,
    Ready,
    Register,
    SampleSpeed,
    SpeedSampled,
    StartSource,
    Stop,
    ToAgent,
)
from d3bed.core.program import programs_for
from d3bed.lab import client
from d3bed.lab.processes import Children

__all__ = ["TARGETS", "run"]

#: With 50 agents the server takes this share of a core and no more memory later than sooner; with 500 it
#: answers within this, at the 95th percentile.
TARGETS = {"cores": 0.25, "growth": 0.05, "answer_s": 0.1}

_FRAMES_PER_S = 10.0
_VERTICES = 30
_VERTEX_S = {Tier.DEVICE: 1e-3, Tier.EDGE: 5e-4, Tier.CLOUD: 1e-4}
#: Frames flow for so long before anything is measured.
_SETTLE_S = 10.0
_ASKED_PER_S = 5.0
_PATHS = ("state", "pipelines", "agents", "links", "decisions", "runs")
#: Who gets no answer for so long waits no longer.
_ANSWER_S = 30.0
_AGENTS_A_PROCESS = 130
#: Boards are not switched on all at the same moment: one after so long.
_BETWEEN_S = 0.04


def run(json_path: Path | None, console: Console, *, agents: Sequence[int], seconds: float) -> dict[str, Any]:
    """Measure, print and optionally write the figures."""
    rows = []
    for count in agents:
        console.print(f"{count} agents: starting …", style="dim")
        rows.append(asyncio.run(_measured(count, seconds)))
        console.print(_words(rows[-1]), highlight=False)
    result = {
        "format": "d3bed.bench.server/1",
        "load_average": os.getloadavg()[0],
        "cpus": os.cpu_count(),
        "targets": TARGETS,
        "runs": rows,
    }
    console.print(_table(rows))
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


async def _measured(count: int, seconds: float) -> dict[str, Any]:
    pipelines = math.ceil(count / len(TIERS))
    with tempfile.TemporaryDirectory(prefix="d3bed-bench-", ignore_cleanup_errors=True) as folder:
        config = Path(folder) / "many.toml"
        config.write_text(_config(pipelines))
        async with Children(Path(folder)) as children:
            data = Path(folder) / "data"
            options = ["--config", str(config), "--data-dir", str(data), "--port", "0"]
            server = await children.start("server", ["server", *options])
            while not (data / "address").exists():  # noqa: ASYNC110 - another process makes it
                await asyncio.sleep(0.05)
            base = (data / "address").read_text().strip().rstrip("/")
            shares = _shares(pipelines)
            spawn = multiprocessing.get_context("spawn").Process
            simulated = [
                spawn(target=_simulate, args=(base, names, len(shares)), daemon=True) for names in shares
            ]
            for process in simulated:
                process.start()
            # A page is open in a process of its own: what it reads must not hold up who asks here.
            page = spawn(target=_read_feed, args=(base,), daemon=True)
            try:
                watched = _watched(
                    base, server.process.pid, [p.pid or 0 for p in simulated], page, 3 * pipelines, seconds
                )
                return await _unless_ended(watched, children, simulated)
            finally:
                for process in (*simulated, page):
                    if process.pid is not None:
                        process.terminate()
                        process.join()


def _config(pipelines: int) -> str:
    """A third of the layers are pinned to each tier, so that every agent takes part."""
    parts = []
    for number in range(pipelines):
        names = _names(number)
        parts += [
            f'[[agents]]\nname = "{name}"\ntier = "{tier}"\n' for name, tier in zip(names, TIERS, strict=True)
        ]
        device, edge, cloud = names
        parts.append(
            f'[pipelines.line-{number}]\ndevice = "{device}"\nedges = ["{edge}"]\ncloud = "{cloud}"\n'
            f'model = "alexnet"\nrate_per_s = {_FRAMES_PER_S}\n'
        )
        for vertices, tier in zip(("v[1-9]", "v1?", "v2?"), TIERS, strict=True):
            parts.append(
                f'[[pipelines.line-{number}.pins.alexnet]]\nvertices = "{vertices}"\ntiers = ["{tier}"]\n'
            )
    return "\n".join(parts)


def _names(number: int) -> tuple[str, str, str]:
    return f"pi-{number}", f"edge-{number}", f"cloud-{number}"


def _shares(pipelines: int) -> list[list[int]]:
    processes = math.ceil(3 * pipelines / _AGENTS_A_PROCESS)
    return [list(range(pipelines))[n::processes] for n in range(processes)]


async def _unless_ended(
    work: Coroutine[Any, Any, dict[str, Any]], children: Children, simulated: Sequence[SpawnProcess]
) -> dict[str, Any]:
    """What `work` finds. Raises `D3Error` as soon as the server, or a process of agents, has ended."""

    async def ended() -> None:
        while all(process.is_alive() for process in simulated):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.5)
        codes = ", ".join(str(p.exitcode) for p in simulated if not p.is_alive())
        raise D3Error(f"simulated agents have ended (exit code {codes}); what they said is above")

    watched = asyncio.create_task(work)
    others = [asyncio.create_task(each) for each in (children.died(), ended())]
    try:
        await asyncio.wait((watched, *others), return_when=asyncio.FIRST_COMPLETED)
        for other in others:
            if other.done():
                await other
        return await watched
    finally:
        for task in (watched, *others):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(watched, *others, return_exceptions=True)


async def _watched(
    base: str, server: int, others: list[int], page: SpawnProcess, agents: int, seconds: float
) -> dict[str, Any]:
    """From the moment when all pipelines answer frames."""
    began_s = time.monotonic()
    while not all(view["frames"]["answered"] for view in await client.get(base, "/api/pipelines")):
        await asyncio.sleep(0.5)
        if time.monotonic() - began_s > 30 + agents:
            raise D3Error(f"frames of {agents} agents do not flow after {30 + agents} s")
    started_s = time.monotonic() - began_s
    page.start()
    await asyncio.sleep(_SETTLE_S)
    before = await _answered(base)
    process, clients = psutil.Process(server), [psutil.Process(pid) for pid in others]
    spent_s, others_s, since_s = _cpu_s(process), sum(map(_cpu_s, clients)), time.monotonic()
    rss_bytes: list[tuple[float, int]] = []
    asked: list[tuple[str, float]] = []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWER_S)) as session:
        while (passed_s := time.monotonic() - since_s) < seconds:
            path = _PATHS[len(asked) % len(_PATHS)]
            asked.append((path, await _ask(session, base, path)))
            rss_bytes.append((passed_s, process.memory_info().rss))
            await asyncio.sleep(max(0.0, since_s + len(asked) / _ASKED_PER_S - time.monotonic()))
    wall_s = time.monotonic() - since_s
    frames = await _answered(base) - before
    cores = (_cpu_s(process) - spent_s) / wall_s
    others_cores = (sum(map(_cpu_s, clients)) - others_s) / wall_s
    connected = sum(agent["state"] == "connected" for agent in await client.get(base, "/api/agents"))
    if not page.is_alive():
        raise D3Error("the page that was open has lost the server")
    early, late = _within(rss_bytes, 0.0, wall_s / 4), _within(rss_bytes, 3 * wall_s / 4, wall_s)
    if not (connected and frames and early and late and len(asked) >= len(_PATHS)):
        raise D3Error(
            f"of {agents} agents {connected} are connected after {wall_s:.0f} s, and {frames} frames and "
            f"{len(asked)} questions were answered meanwhile: that tells nothing. This machine is too busy "
            f"(load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores) for so many; try fewer --agents"
        )
    ordered = sorted(taken_s for _, taken_s in asked)
    last = statistics.median(late)
    return {
        "agents": agents,
        "connected": connected,
        "started_s": started_s,
        "seconds": wall_s,
        "frames_per_s": frames / wall_s,
        "expected_frames_per_s": agents / len(TIERS) * _FRAMES_PER_S,
        "cores": cores,
        "clients_cores": others_cores,
        "rss_bytes": last,
        "growth": last / statistics.median(early) - 1,
        "rss": [[round(at_s, 1), rss] for at_s, rss in rss_bytes[:: max(1, len(rss_bytes) // 100)]],
        "answers": len(ordered),
        "answer_median_s": statistics.median(ordered),
        "answer_p95_s": ordered[int(0.95 * (len(ordered) - 1))],
        "answer_max_s": ordered[-1],
        "answer_median_s_of": {
            path: statistics.median(taken_s for asked_for, taken_s in asked if asked_for == path)
            for path in _PATHS
        },
    }


def _read_feed(base: str) -> None:
    """As a page that is open, but for what it draws: reads all that the feed tells, until it is ended."""
    asyncio.run(_read(base.replace("http", "ws", 1) + "/ws/events"))


async def _read(address: str) -> None:
    async with connect(address, max_size=64 * 2**20, compression=None, proxy=None) as socket:
        async for text in socket:
            msgspec.json.decode(text)


async def _answered(base: str) -> int:
    return sum(int(view["frames"]["answered"]) for view in await client.get(base, "/api/pipelines"))


async def _ask(session: aiohttp.ClientSession, base: str, path: str) -> float:
    """How long the answer takes. Raises `D3Error` where none comes."""
    began_s = time.monotonic()
    try:
        async with session.get(f"{base}/api/{path}") as response:
            await response.read()
            response.raise_for_status()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise D3Error(f"the server does not answer /api/{path}: {error or 'too late'}") from error
    return time.monotonic() - began_s


def _cpu_s(process: psutil.Process) -> float:
    spent = process.cpu_times()
    return float(spent.user + spent.system)


def _within(samples: Sequence[tuple[float, int]], from_s: float, until_s: float) -> list[int]:
    return [rss for at_s, rss in samples if from_s <= at_s <= until_s]


# ── simulated agents ──────────────────────────────────────────────────────────────────────────────


def _simulate(base: str, numbers: Sequence[int], processes: int) -> None:
    """In a process of its own, one of so many: the agents of these pipelines, until it is ended."""
    asyncio.run(_live(base, numbers, processes * _BETWEEN_S))


async def _live(base: str, numbers: Sequence[int], between_s: float) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_end_with(os.getppid()))
        for number in numbers:
            for name, tier in zip(_names(number), TIERS, strict=True):
                group.create_task(_Simulated(AgentId(name), tier).live(base))
                await asyncio.sleep(between_s)


async def _end_with(parent: int) -> None:
    """A bench that was killed leaves no agents that knock for ever."""
    while os.getppid() == parent:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(1)
    raise D3Error("the bench is gone")


class _Simulated:
    """Says what an agent of its tier would, ten frames a second once frames flow."""

    def __init__(self, agent: AgentId, tier: Tier) -> None:
        self._agent, self._tier = agent, tier
        self._clock = ClockOffset()
        self._reporter = Reporter(self._clock)
        self._graph = made_graph(_VERTICES, seed=1)
        self._draw = random.Random(str(agent))
        self._pipeline: PipelineId | None = None
        self._epoch: Epoch | None = None
        self._vertices: tuple[int, int] | None = None
        self._next: AgentId | None = None
        self._frames = 0

    async def live(self, base: str) -> None:
        register = Register(
            self._agent, self._tier, os.getpid(), str(self._agent), "127.0.0.1:1", 1.0, "made", "0"
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(
                run_control(
                    base, lambda: None, lambda: register, Heartbeat, self._clock, self._reporter, self._handle
                )
            )
            group.create_task(self._tell())

    async def _handle(self, message: ToAgent) -> None:
        say = self._reporter.fact
        match message:
            case LoadModel(model, threads):
                say(ModelLoaded(model, self._graph, "made", threads, 0.1))
            case ProfileModel(model):
                say(Profiled(model, (0.0, *[_VERTEX_S[self._tier]] * (_VERTICES - 1)), True, 0.1))
            case SampleSpeed(model):
                say(SpeedSampled(model, 1, _VERTEX_S[self._tier]))
            case MeasureLinks(peers, quick):
                for peer in peers:
                    say(LinkMeasured(peer.agent, 1e7, 0.001, 0.002, None, quick))
            case Prepare():
                self._prepared(message)
                say(Ready(message.pipeline, message.epoch, 0.01))
            case Activate() | StartSource():
                self._pipeline = message.pipeline
            case Confirm(order):
                say(Confirmed(order))
            case Stop():
                raise D3Error("the server says stop")
            case _:
                pass

    def _prepared(self, order: Prepare) -> None:
        program = programs_for(self._graph, order.plan, order.route.agents)[self._agent]
        steps = [step for step in program.steps if step.vertices]
        self._vertices = (steps[0].vertices[0], steps[0].vertices[-1]) if steps else None
        self._next = next((to for ways in program.forward.values() for to in ways), None)
        self._pipeline, self._epoch = order.pipeline, order.epoch

    async def _tell(self) -> None:
        """Frames come at fixed times, and at another moment of the tenth of a second on each agent."""
        at_s = time.monotonic() + self._draw.random() / _FRAMES_PER_S
        while True:
            at_s += 1 / _FRAMES_PER_S
            await asyncio.sleep(at_s - time.monotonic())
            if self._pipeline is not None and self._epoch is not None:
                self._tell_frame(self._pipeline, self._epoch, time.monotonic())

    def _tell_frame(self, pipeline: PipelineId, epoch: Epoch, now: float) -> None:
        self._frames += 1
        frame = FrameId(self._frames)
        if self._vertices is not None:
            first, last = self._vertices
            taken_s = (last - first + 1) * _VERTEX_S[self._tier] * self._draw.uniform(0.95, 1.05)
            span = Span(frame, epoch, SpanKind.COMPUTE, now - taken_s, now, self._vertices)
            self._reporter.span(pipeline, span)
        if self._next is not None:
            transfer = Transfer(self._next, frame, epoch, Value(0), 150_000, 0.015)
            self._reporter.transfer(pipeline, transfer)
        if self._tier is Tier.DEVICE:
            report = FrameReport(frame, epoch, "made", now - 0.05, now, "made", 1, True, 0.0)
            self._reporter.frame(pipeline, report, self._frames, 0)
        if self._frames % int(_FRAMES_PER_S) == 0:
            self._reporter.sampled(BoardSample(0.3, 0.3, 0.001, 0.5))


# ── words ─────────────────────────────────────────────────────────────────────────────────────────


def _words(row: dict[str, Any]) -> str:
    lost = row["agents"] - row["connected"]
    return (
        f"{row['agents']} agents, {row['frames_per_s']:.0f} of {row['expected_frames_per_s']:.0f} frames/s: "
        f"{row['cores']:.0%} of a core, {row['rss_bytes'] / 1e6:.0f} MB ({row['growth']:+.1%} over "
        f"{row['seconds']:.0f} s)" + (f"; {lost} were not connected at the end" if lost else "")
    )


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(
        *(
            "agents",
            "frames/s",
            "of a core",
            "MB",
            "growth",
            "answers ms: median",
            "p95",
            "max",
            "clients' cores",
        ),
        title=f"the server (targets: {TARGETS['cores']:.0%} of a core at 50 agents; "
        f"p95 of {TARGETS['answer_s'] * 1e3:g} ms at 500)",
        box=box.SIMPLE_HEAD,
    )
    for row in rows:
        times = (f"{row[f'answer_{what}_s'] * 1e3:.0f}" for what in ("median", "p95", "max"))
        table.add_row(
            str(row["agents"]),
            f"{row['frames_per_s']:.0f}",
            f"{row['cores']:.0%}",
            f"{row['rss_bytes'] / 1e6:.0f}",
            f"{row['growth']:+.1%}",
            *times,
            f"{row['clients_cores']:.2f}",
        )
    return table
