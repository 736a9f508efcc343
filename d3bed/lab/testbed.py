"""A testbed as processes on this machine, and a session on it: switch, run frames, read the report.

`start_processes` is what the demo and every measurement begin with. `Testbed` is a client of the JSON
API, as a user's script would be; nothing in it computes, plans or knows a tensor.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from d3bed.config import Config
from d3bed.core.errors import ConfigError, D3Error
from d3bed.lab import client
from d3bed.lab.processes import Children

__all__ = [
    "SwitchFailed",
    "Testbed",
    "agent_arguments",
    "check_cores",
    "open_testbed",
    "start_agent",
    "start_processes",
]

_T = TypeVar("_T")

#: A plan is waited for so long: profiles and checks of tiles may take minutes.
_PATIENCE_S = 200.0
_POLL_S = 0.1
#: The server has stored a run's last frames by then.
_STORED_POLLS = 50


class SwitchFailed(D3Error):
    """The server could not grant a switch of strategy or model; the message is its own."""


def check_cores(config: Config) -> None:
    """Emulated agents must not fight over cores, or their held times would be wrong."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max((p.threads for p in config.pipelines), default=1)
    total = sum(agent.speed for agent in config.agents) * threads
    if any(agent.speed < 1 for agent in config.agents) and total >= cores:
        raise ConfigError(
            config.path,
            "agents.speed",
            f"the speeds times {threads} thread(s) add up to {total:g}, this machine has {cores} cores",
            "lower the speeds so that they add up to less",
        )


async def start_processes(
    config: Config, overrides: Sequence[str], children: Children, work_dir: Path
) -> str:
    """Start the server and all agents of a config; returns the server's address, `http://host:port`.

    `overrides` are options of `d3bed server`. A child that fails ends the caller through `Children.died`.
    """
    data_dir = work_dir / "data"
    await children.start(
        "server", ["server", "--config", config.path, "--data-dir", str(data_dir), *overrides]
    )
    address = data_dir / "address"
    while not address.exists():  # noqa: ASYNC110 - another process makes it
        await asyncio.sleep(0.05)
    base = address.read_text().strip().rstrip("/")
    for agent in config.agents:
        await start_agent(config, agent.name, base, children)
    return base


async def start_agent(config: Config, name: str, base: str, children: Children) -> None:
    """Start an agent of the config for the server at `base`, for the first time or after it left."""
    agent = config.agent(name)
    where = ["--speed", str(agent.speed), "--host", agent.host, "--port", str(agent.port)]
    await children.start(agent.name, [*agent_arguments(config, name, base), *where], may_leave=True)


def agent_arguments(config: Config, name: str, base: str) -> list[str]:
    """The command line of an agent of the config, but for its speed and where it listens."""
    agent = config.agent(name)
    arguments = ["agent", "--name", agent.name, "--tier", agent.tier, "--server", base]
    arguments += ["--engine", agent.engine]
    if any(pipeline.shapes for pipeline in config.pipelines):
        arguments.append("--shaped")
    if agent.photos is not None:
        arguments += ["--photos", str(Path(config.path).parent / agent.photos)]
    return arguments


class Testbed:
    """A session on a running testbed; one pipeline. Methods raise `ChildDied` when a process ends."""

    __test__ = False

    def __init__(self, base: str, pipeline: str, children: Children, token: str | None = None) -> None:
        self.base, self.pipeline, self.children, self._token = base, pipeline, children, token

    async def switch(
        self, *, model: str | None = None, strategy: str | None = None, tiling: str | None = None
    ) -> dict[str, Any]:
        """Switch model or strategy (and tiling) and wait for it to be in force; returns the pipeline's view.

        Raises `SwitchFailed` with the server's reason.
        """
        if model is not None:
            await self._post("model", {"model": model})
            await self._settled()
        if strategy is not None:
            await self._post("strategy", {"strategy": strategy, "tiling": tiling})
        view = await self._settled()
        if (model or view["model"]) != view["model"] or (strategy or view["strategy"]) != view["strategy"]:
            raise SwitchFailed(await self._last_problem())
        return view

    async def set_rate(self, rate_per_s: float | None) -> dict[str, Any]:
        """Change the frame rate and wait for the plan that follows; returns the pipeline's view."""
        await self._post("rate", {"rate_per_s": rate_per_s})
        return await self._settled()

    async def stream(self, seconds: float) -> dict[str, Any]:
        """Let frames come for a while, at the pipeline's rate; the run's `d3bed.report/1`."""
        before = (await self._view())["run"]
        await self._post("start", {})
        view = await self._until(lambda view: view["run"] != before and view["frames"]["answered"])
        await asyncio.sleep(seconds)
        await self._post("stop", {})
        await self._until(lambda view: not view["counting"])
        return await self.watched(client.get(self.base, f"/api/runs/{view['run']}/report"))

    async def run(self, frames: int) -> dict[str, Any]:
        """Answer `frames` frames and return the run's `d3bed.report/1`."""
        before = (await self._view())["run"]
        await self._post("start", {"frames": frames})
        view = await self._until(lambda view: view["run"] != before and not view["counting"])
        return await self.watched(client.get(self.base, f"/api/runs/{view['run']}/report"))

    async def frames(self) -> dict[str, Any]:
        """All frames of the latest run, which has ended, by columns: `FrameSeries`."""
        view = await self._view()
        answered, run = view["frames"]["answered"], view["run"]
        for _ in range(_STORED_POLLS):
            series = await self.watched(client.get(self.base, f"/api/runs/{run}/frames"))
            if len(series["frame"]) >= answered:
                break
            await asyncio.sleep(_POLL_S)
        return dict(series)

    async def stopped(self) -> dict[str, Any]:
        """The pipeline's view once the run that was told to stop has been counted."""
        return await self._until(lambda view: not view["counting"])

    async def ready(self) -> dict[str, Any]:
        """Wait for the first plan."""
        return await self._settled()

    async def _until(self, holds: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """The pipeline's view once something holds of it."""
        while not holds(view := await self._view()):  # noqa: ASYNC110 - another process
            await asyncio.sleep(_POLL_S)
        return view

    async def _settled(self) -> dict[str, Any]:
        """The pipeline's view once a plan is in force; where no frames flow, one from measured times."""
        until_s = time.monotonic() + _PATIENCE_S
        while True:
            view = await self._view()
            if time.monotonic() > until_s:
                raise SwitchFailed(f"no plan for {_PATIENCE_S:g} s: {view['phase']}: {view['phase_text']}")
            if view["phase"] == "running" or (view["phase"] == "idle" and not view["guessed"]):
                return view
            if view["phase"] == "failed":
                raise SwitchFailed(str(view["phase_text"]))
            await asyncio.sleep(_POLL_S)

    async def _view(self) -> dict[str, Any]:
        return await self.watched(client.get(self.base, f"/api/pipelines/{self.pipeline}"))

    async def _post(self, what: str, body: dict[str, Any]) -> None:
        path = f"/api/pipelines/{self.pipeline}/{what}"
        await self.watched(client.post(self.base, path, body, self._token))

    async def _last_problem(self) -> str:
        """What the server refused last, and why."""
        decisions = await self.watched(client.get(self.base, "/api/decisions"))
        return next((d["text"] for d in decisions if d["choice"] == "fail"), "the server gave no reason")

    async def watched(self, work: Coroutine[Any, Any, _T]) -> _T:
        """What some work on the testbed comes to, or the death of a child if that is first."""
        asked, died = asyncio.ensure_future(work), asyncio.ensure_future(self.children.died())
        try:
            await asyncio.wait((asked, died), return_when=asyncio.FIRST_COMPLETED)
            if died.done():
                await died
            return await asked
        finally:
            for task in (asked, died):
                task.cancel()
            await asyncio.gather(asked, died, return_exceptions=True)


@contextlib.asynccontextmanager
async def open_testbed(
    config: Config, overrides: Sequence[str], token: str | None = None
) -> AsyncIterator[Testbed]:
    """Start a testbed without frames, wait for its first plan, and end all of it afterwards.

    The config's agents are started; others that its pipeline names, on other machines, are waited for. The
    `token` is what the server wants of us, if it wants one.
    """
    check_cores(config)
    with tempfile.TemporaryDirectory(prefix="d3bed-testbed-", ignore_cleanup_errors=True) as folder:
        async with Children(Path(folder)) as children:
            starting = asyncio.ensure_future(
                start_processes(config, [*overrides, "--idle"], children, Path(folder))
            )
            died = asyncio.ensure_future(children.died())
            await asyncio.wait((starting, died), return_when=asyncio.FIRST_COMPLETED)
            if died.done():
                starting.cancel()
                await died
            died.cancel()
            await asyncio.gather(died, return_exceptions=True)
            bed = Testbed(await starting, config.pipelines[0].id, children, token)
            await bed.ready()
            yield bed
