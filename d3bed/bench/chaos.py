"""Random faults under a stream of frames: nothing may be lost, answered twice, or wrong.

A testbed of real processes runs a small AlexNet whose layers pins hold on the device, the edge and the cloud.
First single faults, for figures: server and an edge agent are killed and started again, and it is measured
how soon the others are back, how soon there is another plan, and how soon the agent is in it again. Then
faults come as a seed says, of these kinds, each for a random while and so that they overlap:

- `kill agent`, `kill server`: SIGKILL, and another process later;
- `pause agent`, `pause server`: SIGSTOP, SIGCONT;
- `stall link`: a link's emulated rate falls to nearly nothing;
- `cut link`: the kernel ends an agent's data connections (as root, with `ss -K`).

The device's process is paused but never killed: it is the one that knows which frames there are. It ends the
run once each has its answer. Then frames are counted in the server's database: none may be there twice, and
none may be missing but about when a server was killed, which had heard of answers that it had not stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from d3bed.core.errors import ConfigError, D3Error
from d3bed.lab import client
from d3bed.lab.processes import Children

__all__ = ["CONFIG", "run"]

_AGENTS = ("pi-1", "edge-1", "edge-2", "cloud-1")
_KILLED = _AGENTS[1:]

CONFIG = """
[[agents]]
name = "pi-1"
tier = "device"
speed = 0.3
[[agents]]
name = "edge-1"
tier = "edge"
speed = 0.4
[[agents]]
name = "edge-2"
tier = "edge"
speed = 0.2
[[agents]]
name = "cloud-1"
tier = "cloud"
speed = 0.9

[pipelines.main]
device = "pi-1"
edges = ["edge-1", "edge-2"]
cloud = "cloud-1"
model = "alexnet"
input = "3x96x96"
network = "lan"
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

#: Figures that are aimed at, seconds: agents back after the server listens, another plan after an agent died,
#: the agent in a plan again after its process has registered.
BACK_S, REPLANNED_S, IN_PLAN_S = 3.0, 3.0, 5.0
#: Of the device's memory, from the first tenth of the run to the end.
GROWTH = 0.1

#: How long before its end a server may have heard of an answer that it had not stored.
_UNSTORED_S = 2.0
#: In a shorter run memory says nothing: caches still fill.
_LEAST_SAMPLES = 240

_POLL_S = 0.02
_PATIENCE_S = 120.0


def run(
    json_path: Path | None, console: Console, *, seed: int, faults: int, minutes: float, rounds: int
) -> dict[str, Any]:
    """Measure, print and optionally write the figures; `bad` is what went wrong, in words."""
    with tempfile.TemporaryDirectory(prefix="d3bed-chaos-", ignore_cleanup_errors=True) as folder:
        result = asyncio.run(_run(Path(folder), console, seed, faults, 60 * minutes, rounds))
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


async def _run(
    folder: Path, console: Console, seed: int, faults: int, seconds: float, rounds: int
) -> dict[str, Any]:
    result: dict[str, Any] = {"format": "d3bed.bench.chaos/1", "seed": seed, "load": os.getloadavg()[0]}
    async with Children(folder / "logs") as children:
        bed = _Bed(folder, children)
        try:
            await bed.start("server", *_AGENTS)
            await bed.until(lambda view: view["phase"] == "running" and view["frames"]["answered"] > 10)
            if rounds:
                result["figures"] = await _figures(bed, rounds)
                _tell_figures(result["figures"], console)
            if faults:
                result["faults"] = await _storm(bed, random.Random(seed), faults, seconds, console)
            result["end"] = await _end(bed)
        except _Stuck as error:
            logs = folder.parent / f"{folder.name}-logs"
            shutil.copytree(folder / "logs", logs, dirs_exist_ok=True)
            raise ConfigError("bench chaos", "", str(error), f"the processes' logs are in {logs}") from error
        await bed.end_server()
    result["frames"] = _judged(folder / "data" / "d3bed.sqlite3", bed.server_died_s)
    result["memory"] = bed.memory.figures()
    result["bad"] = _bad(result)
    _tell(result, console)
    return result


class _Stuck(D3Error):
    """Something that must come did not."""


class _Memory:
    """Resident bytes over time, of the processes that live the longest."""

    def __init__(self) -> None:
        self._samples: dict[str, list[int]] = {name: [] for name in ("server", *_AGENTS)}

    def sample(self, name: str, pid: int) -> None:
        with contextlib.suppress(psutil.Error):
            self._samples[name].append(psutil.Process(pid).memory_info().rss)

    def figures(self) -> dict[str, Any]:
        device = self._samples["pi-1"]
        most = {name: max(samples, default=0) for name, samples in self._samples.items()}
        if len(device) < _LEAST_SAMPLES:
            return {"device_growth": None, "most_bytes": most}
        tenth = max(1, len(device) // 10)
        early = statistics.median(device[tenth : 2 * tenth] or device)
        return {
            "device_growth": statistics.median(device[-tenth:]) / early - 1,
            "most_bytes": most,
        }


class _Bed:
    """Server and agents as processes that are killed and started again, and what the server says."""

    def __init__(self, folder: Path, children: Children) -> None:
        self._folder, self._children = folder, children
        self._config = folder / "chaos.toml"
        self._config.write_text(CONFIG, encoding="utf-8")
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._port = probe.getsockname()[1]
        self.base = f"http://127.0.0.1:{self._port}"
        self.memory = _Memory()
        self.pids: dict[str, int] = {}
        #: When the server was killed, seconds since 1970.
        self.server_died_s: list[float] = []

    async def start(self, *names: str) -> None:
        for name in names:
            if name == "server":
                what = ["server", "--data-dir", str(self._folder / "data"), "--port", str(self._port)]
            else:
                what = ["agent", "--name", name, "--server", self.base, "--shaped"]
                what += ["--cache-dir", str(self._folder / "cache")]
            child = await self._children.start(
                name, [*what, "--config", str(self._config)], on_end=lambda code: code in (0, -signal.SIGKILL)
            )
            self.pids[name] = child.process.pid

    async def kill(self, name: str) -> None:
        del self.pids[name]
        if name == "server":
            self.server_died_s.append(time.time())
        self._children.send(name, signal.SIGKILL)
        await self._children.left(name)

    def send(self, name: str, number: signal.Signals) -> None:
        self._children.send(name, number)

    async def end_server(self) -> None:
        """In an orderly way: it stores what it knows."""
        self.send("server", signal.SIGTERM)
        await self._children.left("server")

    def sample(self) -> None:
        for name, pid in self.pids.items():
            self.memory.sample(name, pid)

    # ── what the server says ──────────────────────────────────────────────────────────────────────

    async def get(self, path: str) -> Any:
        """None where nobody answers in time."""
        try:
            async with asyncio.timeout(5):
                return await client.get(self.base, path)
        except (ConfigError, client.RequestFailed, TimeoutError):
            return None

    async def until(
        self, fits: Callable[[dict[str, Any]], Any], limit_s: float = _PATIENCE_S
    ) -> dict[str, Any]:
        """The pipeline's view once it fits. Raises `_Stuck`."""
        end_s, view = time.monotonic() + limit_s, None
        while time.monotonic() < end_s:
            view = await self.get("/api/pipelines/main")
            if view is not None and fits(view):
                return dict(view)
            await asyncio.sleep(_POLL_S)
        said = (view or {}).get("phase_text", "no server answers")
        raise _Stuck(f"waited {limit_s:.0f} s in vain; the pipeline's phase was: {said}")

    async def until_connected(self, *names: str) -> None:
        """Once these agents are registered. Raises `_Stuck`."""
        end_s = time.monotonic() + _PATIENCE_S
        while time.monotonic() < end_s:
            agents = await self.get("/api/agents") or []
            if {a["agent"] for a in agents if a["state"] == "connected"} >= set(names):
                return
            await asyncio.sleep(_POLL_S)
        raise _Stuck(f"{', '.join(names)} did not register within {_PATIENCE_S:.0f} s")


# ── single faults ────────────────────────────────────────────────────────────────────────────────────


async def _figures(bed: _Bed, rounds: int) -> dict[str, list[float]]:
    """Seconds, of each round."""
    found: dict[str, list[float]] = {"back_s": [], "replanned_s": [], "registered_s": [], "in_plan_s": []}
    usual = {"edge": "edge-1"}  # the faster one; whether the cloud has a part is up to the profiles
    for _ in range(rounds):
        await bed.until(lambda v: v["phase"] == "running" and usual.items() <= v["route"].items())
        await bed.kill("server")
        await bed.start("server")
        while await bed.get("/api/agents") is None:  # noqa: ASYNC110 - another process
            await asyncio.sleep(_POLL_S)
        listens_s = time.monotonic()
        await bed.until_connected(*_AGENTS)
        found["back_s"].append(time.monotonic() - listens_s)

        await bed.until(lambda v: v["phase"] == "running" and usual.items() <= v["route"].items())
        await bed.kill("edge-1")
        killed_s = time.monotonic()
        await bed.until(lambda v: v["phase"] == "running" and v["route"].get("edge") == "edge-2")
        found["replanned_s"].append(time.monotonic() - killed_s)
        await bed.start("edge-1")
        started_s = time.monotonic()
        await bed.until_connected("edge-1")
        registered_s = time.monotonic()
        found["registered_s"].append(registered_s - started_s)
        await bed.until(lambda v: v["phase"] == "running" and v["route"].get("edge") == "edge-1")
        found["in_plan_s"].append(time.monotonic() - registered_s)
    return found


# ── the storm ────────────────────────────────────────────────────────────────────────────────────────


class _Fault:
    """One fault: what it is, whom it is for and how long."""

    def __init__(self, kind: str, target: str, for_s: float) -> None:
        self.kind, self.target, self.for_s = kind, target, for_s

    def __str__(self) -> str:
        return f"{self.kind} {self.target} for {self.for_s:.1f} s".replace(" server server", " server")


def _kinds() -> list[str]:
    can_cut = os.geteuid() == 0 and shutil.which("ss") is not None
    return [
        *("kill agent", "kill agent", "kill server", "pause agent", "pause server", "stall link"),
        *(("cut link",) if can_cut else ()),
    ]


def _fault(dice: random.Random, kinds: list[str]) -> _Fault:
    kind = dice.choice(kinds)
    if kind.endswith("server"):
        return _Fault(kind, "server", dice.uniform(0.1, 3.0))
    if kind == "kill agent":
        return _Fault(kind, dice.choice(_KILLED), dice.uniform(0.1, 5.0))
    if kind == "pause agent":
        return _Fault(kind, dice.choice(_AGENTS), dice.uniform(0.1, 5.0))
    return _Fault(kind, dice.choice(_KILLED), dice.uniform(0.5, 5.0))


async def _storm(
    bed: _Bed, dice: random.Random, count: int, seconds: float, console: Console
) -> dict[str, Any]:
    """So many faults in about so many seconds; a target that one is at is left alone by the next."""
    done: Counter[str] = Counter()
    skipped, busy, under_way, kinds = 0, set[str](), set[asyncio.Task[None]](), _kinds()
    began_s = time.monotonic()

    async def strike(fault: _Fault) -> None:
        try:
            await _strike(bed, fault)
        finally:
            busy.discard(fault.target)

    for number in range(count):
        next_s = began_s + (number + dice.uniform(0.0, 0.8)) * seconds / count
        while (wait_s := next_s - time.monotonic()) > 0:
            bed.sample()
            await asyncio.sleep(min(0.5, wait_s))
        fault = _fault(dice, kinds)
        if fault.target in busy:
            skipped += 1
            continue
        console.print(f"{time.monotonic() - began_s:6.1f} s  {fault}", highlight=False)
        busy.add(fault.target)
        done[fault.kind] += 1
        task = asyncio.create_task(strike(fault))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    if under_way:
        await asyncio.gather(*under_way)
    return {"kinds": dict(done), "struck": done.total(), "skipped": skipped, "seconds": seconds}


async def _strike(bed: _Bed, fault: _Fault) -> None:
    match fault.kind:
        case "kill agent" | "kill server":
            await bed.kill(fault.target)
            await asyncio.sleep(fault.for_s)
            await bed.start(fault.target)
        case "pause agent" | "pause server":
            bed.send(fault.target, signal.SIGSTOP)
            await asyncio.sleep(fault.for_s)
            bed.send(fault.target, signal.SIGCONT)
        case "stall link":
            there = "edge-1" if fault.target == "cloud-1" else "pi-1"
            body = {"from": there, "to": fault.target, "mbit_per_s": 0.05, "for_s": fault.for_s}
            with contextlib.suppress(ConfigError, client.RequestFailed):  # one of them may be away
                await client.post(bed.base, "/api/links", body)
        case _:
            agents = await bed.get("/api/agents") or []
            address = next((a["data_address"] for a in agents if a["agent"] == fault.target), None)
            if address is not None:
                port = address.rpartition(":")[2]
                command = ["ss", "-K", "-t", "dport", "=", f":{port}"]
                await asyncio.to_thread(subprocess.run, command, capture_output=True, check=False)


# ── the verdict ──────────────────────────────────────────────────────────────────────────────────────


async def _end(bed: _Bed) -> dict[str, Any]:
    """Wait until all are back and frames flow, end the run, and have the device's own counts."""
    calm_s = time.monotonic()
    await bed.until_connected(*_AGENTS)
    view = await bed.until(lambda v: v["phase"] == "running")
    answered = view["frames"]["answered"]
    await bed.until(lambda v: v["phase"] == "running" and v["frames"]["answered"] > answered + 10)
    recovered_s = time.monotonic() - calm_s
    await client.post(bed.base, "/api/pipelines/main/stop", {})
    view = await bed.until(lambda v: v["phase"] == "idle")
    frames = view["frames"]
    return {
        "recovered_s": recovered_s,
        "answered": frames["answered"],
    }


def _judged(database: Path, server_died_s: list[float]) -> dict[str, Any]:
    """The answers that the server has stored, over all of its lives.

    One that is missing about when the server was killed may have been heard of and not stored; any other is
    lost.
    """
    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = connection.execute(
            "SELECT frame, epoch, started_s, latency_s, attempts, identical FROM frames ORDER BY id"
        ).fetchall()
    counts = Counter(row[0] for row in rows)
    spans = {row[0]: (row[2], row[2] + row[3]) for row in rows}
    missing = set(range(1, max(counts, default=0) + 1)) - set(counts)
    unheard = set()
    for number in missing:
        before_s = max((spans[n][0] for n in spans if n < number), default=float("-inf"))
        after_s = min((spans[n][1] for n in spans if n > number), default=float("inf"))
        if any(before_s - _UNSTORED_S <= died_s <= after_s + _UNSTORED_S for died_s in server_died_s):
            unheard.add(number)
    ends = sorted(row[2] + row[3] for row in rows)
    return {
        "stored": len(rows),
        "last": max(counts, default=0),
        "not_stored": len(unheard),
        "lost": len(missing - unheard),
        "twice": sum(count > 1 for count in counts.values()),
        "wrong": sum(row[5] == 0 for row in rows),
        "unchecked": sum(row[5] is None for row in rows),
        "run_again": sum(row[4] > 1 for row in rows),
        "longest_gap_s": max(
            (after - before for before, after in zip(ends, ends[1:], strict=False)), default=0.0
        ),
        "epochs": max((row[1] for row in rows), default=0),
        "epochs_fell": sum(b[1] < a[1] and b[4] == 1 for a, b in zip(rows, rows[1:], strict=False)),
    }


def _bad(result: dict[str, Any]) -> list[str]:
    frames = result["frames"]
    found = [
        f"{frames[key]} frames {what}"
        for key, what in (
            ("lost", "lost"),
            ("twice", "answered twice"),
            ("wrong", "wrong"),
            ("unchecked", "not checked"),
        )
        if frames[key]
    ]
    found += [f"epochs fell {frames['epochs_fell']} times"] if frames["epochs_fell"] else []
    growth = result["memory"]["device_growth"]
    found += [f"the device's memory grew by {growth:.0%}"] if growth is not None and growth > GROWTH else []
    return found


def _tell_figures(figures: dict[str, list[float]], console: Console) -> None:
    for key, what, target_s in (
        ("back_s", "agents back after the server listens", BACK_S),
        ("replanned_s", "another plan after an agent was killed", REPLANNED_S),
        ("registered_s", "its new process registered", None),
        ("in_plan_s", "back in the plan after that", IN_PLAN_S),
    ):
        times = ", ".join(f"{seconds:.2f}" for seconds in figures[key])
        mark = ""
        if target_s is not None:
            mark = " [green]✓[/]" if max(figures[key]) <= target_s else f" [red]✗[/] (target {target_s:g})"
        console.print(f"{what}: {times} s{mark}", highlight=False)


def _tell(result: dict[str, Any], console: Console) -> None:
    frames, end, memory = result["frames"], result["end"], result["memory"]
    if "faults" in result:
        faults = result["faults"]
        kinds = ", ".join(f"{count} × {kind}" for kind, count in sorted(faults["kinds"].items()))
        console.print(f"{faults['struck']} faults in {faults['seconds']:.0f} s: {kinds}", highlight=False)
    console.print(
        f"{frames['last']} frames: {frames['lost']} lost, {frames['twice']} twice, {frames['wrong']} wrong; "
        f"{frames['run_again']} run again, longest gap {frames['longest_gap_s']:.1f} s, "
        f"{frames['not_stored']} answers that a killed server had not stored; "
        f"all back {end['recovered_s']:.1f} s after the last fault",
        highlight=False,
    )
    most = ", ".join(f"{name} {count / 1e6:.0f}" for name, count in memory["most_bytes"].items())
    growth = memory["device_growth"]
    grew = "too short to tell" if growth is None else f"{growth:+.1%}"
    console.print(f"device's memory: {grew}; most MB: {most}", highlight=False)
    for problem in result["bad"]:
        console.print(f"[red]{problem}[/]", highlight=False)
