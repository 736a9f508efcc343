"""Everything that an epoch needs on this agent, made ready before it is activated."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

from d3bed.agent.compute import ComputeThread
from d3bed.agent.executor import EpochWork, nominal_times
from d3bed.core.errors import ModelError
from d3bed.core.graph import Value
from d3bed.core.ids import AgentId
from d3bed.core.measurements import TileReady
from d3bed.core.messages import Prepare
from d3bed.core.program import Program
from d3bed.model import LoadedModel, PreparedTile, compile_step, prepare_tiles, prepared_before
from d3bed.net import Sender

__all__ = ["alone_on_host", "epoch_work"]

#: How often a busy lock is looked at.
_LOCK_S = 0.05


@contextlib.asynccontextmanager
async def alone_on_host(cache_dir: Path) -> AsyncIterator[None]:
    """Agents that share a machine, and so a cache, time their tiles and engines one after the other."""
    await asyncio.to_thread(cache_dir.mkdir, parents=True, exist_ok=True)
    with (cache_dir / "tiles.lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_LOCK_S)
        yield


async def epoch_work(
    order: Prepare,
    model: LoadedModel,
    program: Program,
    senders: Mapping[AgentId, Sender],
    *,
    keep: frozenset[Value],
    compute: ComputeThread,
    times_s: Sequence[float] | None,
    speed: float,
    fingerprint: str,
    cache_dir: Path,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> tuple[EpochWork, tuple[TileReady, ...]]:
    """Compile the steps and check the tiles; new tiles are checked on the compute thread, in seconds. All
    else is done beside the frames that are under way. `times_s` is the profile of this machine, unheld;
    profiles and tiles are told as an agent of `speed` takes for them. `progress` is told on that thread how
    many tiles are checked.

    Raises `ModelError` if a link is missing.
    """
    missing = {agent for ways in program.forward.values() for agent in ways} - set(senders)
    if missing:
        raise ModelError(order.model.name, "", f"the plan needs a link to {', '.join(sorted(missing))}")
    tiled = [step for step in program.steps if step.tile is not None]
    tolerance = order.tolerance
    prepared: list[PreparedTile] | None = []
    if tiled:
        prepared = await asyncio.to_thread(
            lambda: prepared_before(model, tiled, cache_dir, fingerprint, tolerance=tolerance)
        )
    if prepared is None:
        async with alone_on_host(cache_dir):
            prepared = await compute.run(
                lambda: prepare_tiles(model, tiled, cache_dir, fingerprint, progress, tolerance=tolerance)
            )
    tiles = dict(zip(tiled, prepared, strict=True))
    plain = [step for step in program.steps if step.tile is None]
    rescues = [rescue.step for rescue in program.rescues]
    compiled = dict(
        zip(plain, await asyncio.to_thread(lambda: [compile_step(model, s) for s in plain]), strict=True)
    )
    rescue_calls = await asyncio.to_thread(lambda: [compile_step(model, step) for step in rescues])
    work = EpochWork(
        order.pipeline,
        order.epoch,
        model,
        program,
        tuple(tiles[s].call if s in tiles else compiled[s] for s in program.steps),
        tuple(tiles[s].nominal_s if s in tiles else nominal_times(times_s, (s,))[0] for s in program.steps),
        senders,
        keep,
        tuple(rescue_calls),
        nominal_times(times_s, rescues),
        frozenset(order.route.agents.values()),
    )
    return work, tuple(
        TileReady(
            vertices=(step.vertices[0], step.vertices[-1]),
            tile=step.tile.place,
            identical=tile.identical,
            fallbacks=tile.fallbacks,
            max_rel_err=tile.max_rel_err,
            time_s=tile.nominal_s / speed,
        )
        for step, tile in tiles.items()
        if step.tile is not None
    )
