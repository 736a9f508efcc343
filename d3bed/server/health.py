"""`/healthz`: whether the server does its work, for whoever starts it again, or calls somebody."""

from __future__ import annotations

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

import d3bed
from d3bed.core.protocol import PROTOCOL
from d3bed.server.runner import Runner

__all__ = ["STALLED_S", "Health", "health", "healthz"]

#: A coordinator that has not looked at the clock for so long does not do its work.
STALLED_S = 5.0


class Health(msgspec.Struct, frozen=True):
    """`problems` is empty where all is well. `agents` that are connected; `pipelines` and their phases."""

    status: str
    problems: tuple[str, ...]
    version: str
    protocol: int
    agents: int
    pipelines: dict[str, str]


def health(runner: Runner) -> Health:
    problems = []
    if (still_s := runner.clock() - runner.beaten_s) > STALLED_S:
        problems.append(f"the coordinator has not moved for {still_s:.0f} s")
    if runner.store.is_failing:
        problems.append("the store cannot be written: disk full or failing; frames go on")
    world, pipelines = runner.coordinator.world, runner.coordinator.pipelines
    return Health(
        status="failing" if problems else "ok",
        problems=tuple(problems),
        version=d3bed.__version__,
        protocol=PROTOCOL,
        agents=sum(agent.connected for agent in world.agents.values()),
        pipelines={str(name): pipeline.phase[0] for name, pipeline in pipelines.items()},
    )


def healthz(runner: Runner) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        found = health(runner)
        body, status = msgspec.json.encode(found), 503 if found.problems else 200
        return web.Response(
            body=body, status=status, content_type="application/json", headers={"Cache-Control": "no-store"}
        )

    return handle
