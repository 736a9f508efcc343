"""Testbeds of processes: the demo, and servers and agents that may be killed and started again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sqlite3
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil


@contextlib.asynccontextmanager
async def demo(folder: Path, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`d3bed demo …` in a folder of its own; killed at the end if it still runs.

    What agents found out of this machine is shared by all tests.
    """
    kept = folder.parent / "kept"
    kept.mkdir(exist_ok=True)
    (folder / ".d3bed").mkdir(exist_ok=True)
    (folder / ".d3bed" / "cache").symlink_to(kept)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "d3bed",
        "demo",
        *arguments,
        cwd=folder,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def until(condition: Any, what: str, limit_s: float = 120.0) -> Any:
    """Wait for a condition (async callable) to give something true; ask less and less often."""
    every_s = 0.01
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            while True:
                if found := await condition():
                    return found
                await asyncio.sleep(every_s)
                every_s = min(0.1, 1.5 * every_s)
    raise AssertionError(f"no {what} within {limit_s:g} s")


async def fetch(port: int, path: str) -> Any:
    """GET JSON, or None while nobody answers."""
    with contextlib.suppress(aiohttp.ClientError):
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{port}{path}") as answer,
        ):
            return await answer.json() if answer.status == 200 else None


async def running_agents(port: int) -> list[dict[str, Any]] | None:
    """The four agents once the first frames were answered."""
    pipelines = await fetch(port, "/api/pipelines")
    if not pipelines or not (pipelines[0].get("frames") or {}).get("answered"):
        return None
    agents: list[dict[str, Any]] = await fetch(port, "/api/agents")
    return agents


async def children_of(process: asyncio.subprocess.Process) -> list[psutil.Process]:
    return list(psutil.Process(process.pid).children(recursive=True))


async def all_gone(children: list[psutil.Process]) -> bool:
    return not [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE]


#: Boards far enough from each other that a busy machine changes no preference.
CONFIG = """
[[agents]]
name = "pi-1"
tier = "device"
speed = 0.25
[[agents]]
name = "edge-1"
tier = "edge"
speed = 0.3
[[agents]]
name = "edge-2"
tier = "edge"
speed = 0.15
[[agents]]
name = "cloud-1"
tier = "cloud"
speed = 0.7

[pipelines.main]
device = "pi-1"
edges = ["edge-1", "edge-2"]
cloud = "cloud-1"
model = "alexnet"
input = "3x96x96"
tiling = "none"

[[pipelines.main.pins.alexnet]]
vertices = "features.[0-2]"
tiers = ["device"]
[[pipelines.main.pins.alexnet]]
vertices = "features.[3-9]"
tiers = ["edge"]
[[pipelines.main.pins.alexnet]]
vertices = "classifier.*"
tiers = ["edge", "cloud"]
"""


AGENTS = ("pi-1", "edge-1", "edge-2", "cloud-1")


class Bed:
    """Server and agents, each a process that may be killed and started again."""

    def __init__(self, folder: Path, profiles: Path, config: str = CONFIG) -> None:
        self.folder, self.port, self.profiles = folder, free_port(), profiles
        self.config = folder / "losses.toml"
        self.config.write_text(config)
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._http: aiohttp.ClientSession | None = None

    async def start(self, *names: str) -> None:
        for name in names:
            if name == "server":
                what = ["server", "--data-dir", str(self.folder / "data"), "--port", str(self.port)]
            else:
                what = ["agent", "--name", name, "--server", f"http://127.0.0.1:{self.port}"]
                what += ["--cache-dir", str(self.profiles)]
            with (self.folder / f"{name}.log").open("ab") as log:
                self._running[name] = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "d3bed", *what, "--config", str(self.config),
                    cwd=self.folder, env=dict(os.environ), stdout=log, stderr=log,
                )  # fmt: skip

    def send(self, name: str, number: signal.Signals) -> None:
        self._running[name].send_signal(number)

    async def kill(self, name: str) -> None:
        self._running[name].kill()
        await self._running.pop(name).wait()

    async def end(self, name: str) -> None:
        """In an orderly way: the server stores what it knows."""
        self._running[name].terminate()
        await self._running.pop(name).wait()

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()
        for name in reversed(list(self._running)):
            with contextlib.suppress(ProcessLookupError):
                await self.kill(name)

    # ── what the server says ──────────────────────────────────────────────────────────────────────

    @property
    def http(self) -> aiohttp.ClientSession:
        """Asked so often that it keeps its connection."""
        if self._http is None:
            self._http = aiohttp.ClientSession(f"http://127.0.0.1:{self.port}")
        return self._http

    async def view(self) -> dict[str, Any]:
        with contextlib.suppress(aiohttp.ClientError):
            async with self.http.get("/api/pipelines") as answer:
                views = await answer.json() if answer.status == 200 else None
                return dict(views[0]) if views else {}
        return {}

    async def until(self, condition: Any, what: str) -> dict[str, Any]:
        """Wait until the pipeline's view fits."""

        async def fits() -> dict[str, Any] | None:
            view = await self.view()
            return view if view and condition(view) else None

        try:
            return dict(await until(fits, what))
        except AssertionError as late:
            view, said = await self.view(), await fetch(self.port, "/api/decisions") or []
            now = f"{view.get('phase')}: {view.get('phase_text')}, route {view.get('route')}"
            raise AssertionError("\n".join([f"{late}; {now}", *(d["text"] for d in said[-8:])])) from None

    async def more(self, frames: int = 8, **route: str) -> dict[str, Any]:
        """Wait for so many more answers, under a route that has these agents."""

        def routed(view: dict[str, Any]) -> bool:
            return bool(view["phase"] == "running" and route.items() <= view["route"].items())

        before = (await self.until(routed, f"a route with {route}"))["frames"]["answered"]
        return await self.until(
            lambda view: view["frames"]["answered"] >= before + frames, "more frames answered"
        )

    async def post(self, what: str, body: dict[str, Any]) -> None:
        async with self.http.post(f"/api/pipelines/main/{what}", json=body) as answer:
            assert answer.status == 202, await answer.text()

    async def end_run(self) -> dict[str, Any]:
        await self.post("stop", {})
        return await self.until(lambda view: view["phase"] == "idle", "the end of the run")

    async def said(self, name: str, words: str) -> bool:
        """Whether a process has logged something."""
        return words in (self.folder / f"{name}.log").read_text()

    def frames(self) -> list[dict[str, Any]]:
        """All answers in the store, of all runs, in the order in which they came. After the server's end."""
        with contextlib.closing(sqlite3.connect(self.folder / "data" / "d3bed.sqlite3")) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute("SELECT * FROM frames ORDER BY id")]


def check(frames: list[dict[str, Any]], *, all_of_them: bool = True) -> None:
    """Each frame once, and exact. `all_of_them`: from the first to the last none is missing."""
    counts = Counter(row["frame"] for row in frames)
    assert set(counts.values()) == {1}, "no frame is answered twice"
    if all_of_them:
        assert sorted(counts) == list(range(1, len(frames) + 1))
    assert all(row["identical"] for row in frames)
