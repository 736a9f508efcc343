"""Records what the estimators are told during a demo with known changes: `python … OUT.json`.

Real processes, real frames; the plan stays, so that every change is seen by those it concerns. Made once
for the files beside it; run it again to see how another machine scatters. Samples are [seconds, value]:
measured over profiled time of each segment, bytes per second of each large transfer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from d3bed.config import override, read_config
from d3bed.core.ids import AgentId
from d3bed.core.measurements import Span, Transfer
from d3bed.lab import client
from d3bed.lab.processes import Children
from d3bed.lab.testbed import start_agent
from d3bed.plan import ProfileCorrection, Segment
from d3bed.plan.links import LARGE_BYTES
from d3bed.server import ServerSettings, serve
from d3bed.server.traffic import Traffic

ROOT = Path(__file__).resolve().parents[3]


class Recorder:
    """Listens where live samples enter the estimators."""

    def __init__(self) -> None:
        self.samples: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self.changes: list[tuple[float, str, float]] = []
        self._began_s = time.monotonic()
        self._agent = AgentId("")

    def restart(self) -> None:
        self.samples.clear()
        self._began_s = time.monotonic()

    def now(self) -> float:
        return round(time.monotonic() - self._began_s, 3)

    def changed(self, subject: str, factor: float) -> None:
        """Samples of `subject` are to be so many times their usual value from now on."""
        self.changes.append((self.now(), subject, factor))

    def listen(self) -> None:
        hear_spans, hear_transfers = Traffic.spans_recorded, Traffic.transferred
        observe = ProfileCorrection.observe

        def on_spans(me: Traffic, agent: AgentId, spans: Iterable[Span], clock_error_s: float) -> None:
            self._agent = agent
            hear_spans(me, agent, spans, clock_error_s)

        def on_observe(
            me: ProfileCorrection, segment: Segment, measured_s: float, profiled_s: float, now: float
        ) -> bool:
            name = f"{self._agent} {segment.vertices[0]}-{segment.vertices[-1]}"
            if profiled_s > 0:
                self.samples[name].append((self.now(), float(f"{measured_s / profiled_s:.4g}")))
            return observe(me, segment, measured_s, profiled_s, now)

        def on_transfers(me: Traffic, agent: AgentId, transfers: Iterable[Transfer]) -> None:
            for one in transfers:
                if one.bytes >= LARGE_BYTES and one.taken_s > 0:
                    rate = float(f"{one.bytes / one.taken_s:.4g}")
                    self.samples[f"{agent}→{one.peer}"].append((self.now(), rate))
            hear_transfers(me, agent, transfers)

        Traffic.spans_recorded = on_spans  # type: ignore[method-assign,assignment]
        Traffic.transferred = on_transfers  # type: ignore[method-assign,assignment]
        ProfileCorrection.observe = on_observe  # type: ignore[method-assign,assignment]


async def record() -> dict[str, Any]:
    config = override(read_config(ROOT / "configs" / "demo.toml"), fixed=True, port=0)
    recorder = Recorder()
    recorder.listen()
    with tempfile.TemporaryDirectory() as folder:
        settings = ServerSettings(Path(folder) / "data", config.pipelines, config.host, config.port)
        base = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(serve(settings, ready=base.set_result))
        async with Children(Path(folder)) as children:
            address = str(await base)
            for agent in config.agents:
                await start_agent(config, agent.name, address, children)
            await play(recorder, address)
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving
    return {"changes": recorder.changes, "samples": recorder.samples}


async def play(recorder: Recorder, address: str) -> None:
    async def view() -> dict[str, Any]:
        found: dict[str, Any] = await client.get(address, "/api/pipelines/main")
        return found

    while (seen := await view())["phase"] != "running":  # noqa: ASYNC110 - over HTTP nothing wakes us
        await asyncio.sleep(0.1)
    await asyncio.sleep(2)  # the first frames are cold
    recorder.restart()
    edge, cloud = seen["route"]["edge"], seen["route"]["cloud"]
    await asyncio.sleep(25)
    for factor in (2.0, 1.5, 1.3):
        speed = next(a["speed"] for a in await client.get(address, "/api/agents") if a["agent"] == edge)
        await client.post(address, f"/api/agents/{edge}/speed", {"speed": speed / factor})
        recorder.changed(edge, factor)
        await asyncio.sleep(7)
        await client.post(address, f"/api/agents/{edge}/speed", {"speed": None})
        recorder.changed(edge, 1.0)
        await asyncio.sleep(7)
    links = {(x["from"], x["to"]): x for x in await client.get(address, "/api/links")}
    for factor in (4.0, 1.5):
        target = links["pi-1", edge]["target_bytes_per_s"]
        body = {"from": "pi-1", "to": edge, "mbit_per_s": target * 8e-6 / factor, "latency_ms": 2}
        await client.post(address, "/api/links", body)
        recorder.changed(f"pi-1→{edge}", 1 / factor)
        await asyncio.sleep(7)
        await client.post(address, "/api/links/reset", {"from": "pi-1", "to": edge})
        recorder.changed(f"pi-1→{edge}", 1.0)
        await asyncio.sleep(7)
    await client.post(address, f"/api/agents/{cloud}/load", {"processes": 4})
    recorder.changed(cloud, 3.0)
    await asyncio.sleep(8)
    await client.post(address, f"/api/agents/{cloud}/load", {"processes": 0})
    recorder.changed(cloud, 1.0)
    await asyncio.sleep(8)


if __name__ == "__main__":
    found = asyncio.run(record())
    Path(sys.argv[1]).write_text(json.dumps(found, ensure_ascii=False, separators=(",", ":")) + "\n")
