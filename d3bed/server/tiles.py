"""What is expected of tiled blocks, and what a report says of them: who runs what, what that costs, and how
long it took. Pure."""

from __future__ import annotations

import msgspec

from d3bed.core.ids import AgentId, Tier
from d3bed.core.program import moved_bytes
from d3bed.core.tiles import Tile, tiling
from d3bed.plan import Basis, Choice
from d3bed.plan.timeline import Timeline, timeline
from d3bed.plan.vsm import PIECE_S, TileCosts
from d3bed.server.epochs import PlannedEpoch
from d3bed.server.views import TileReport
from d3bed.server.world import World

__all__ = ["foretell", "judged_anew", "tile_reports"]


def foretell(epoch: PlannedEpoch, world: World) -> None:
    """Predict the epoch's latency anew, once its agents have timed the tiles that the planner estimated."""
    if epoch.tiles:
        seen = _foretold(epoch, world, epoch.basis)
        epoch.choice = msgspec.structs.replace(epoch.choice, timeline=seen)


def judged_anew(epoch: PlannedEpoch, active: PlannedEpoch, world: World, basis: Basis) -> Choice:
    """The choice of an epoch that is about to follow the active one, with what both take under another basis;
    as it was where frames take several plans in turn."""
    choice = epoch.choice
    if choice.mix or active.others or choice.kept_s is None:
        return choice
    kept_s = _foretold(active, world, basis).latency_s
    return msgspec.structs.replace(choice, timeline=_foretold(epoch, world, basis), kept_s=kept_s)


def _foretold(epoch: PlannedEpoch, world: World, basis: Basis) -> Timeline:
    """Of one frame, under conditions as they are now; `basis` has their rates."""
    model, agents = epoch.wish.model, epoch.agents
    records = {agent: world.agents[agent] for agent in agents}
    slower = {agent: epoch.shared.get(agent, 1.0) for agent in agents}
    expected_s = {a: records[a].expected_s(model, world.now) for a in agents}
    times_s = {a: tuple(t * slower[a] for t in expected_s[a]) for a in agents}
    fixed_s = {a: tuple(t * slower[a] for t in records[a].expected_fixed_s(model, world.now)) for a in agents}
    costs = TileCosts(epoch.graph, times_s, fixed_s, PIECE_S)

    def tile_s(agent: AgentId, tile: Tile) -> float:
        taken_s = epoch.tile_time_s(agent, tile)
        profile_s = sum(records[agent].times_s(model) or ())
        if taken_s is None or not profile_s:
            return costs.tile_s(agent, tile)
        return taken_s * sum(times_s[agent]) / profile_s

    return timeline(epoch.graph, epoch.plan, epoch.route, times_s, basis.rates, tile_s, PIECE_S)


def tile_reports(epoch: PlannedEpoch) -> tuple[TileReport, ...]:
    """Every tiled block of the epoch's plan, in order."""
    found, tiles = [], epoch.plan.tiles
    moved = (
        dict(zip(tiles, moved_bytes(epoch.graph, tiles, epoch.route[Tier.EDGE]), strict=True))
        if tiles
        else {}
    )
    for part in epoch.tiled_parts:
        first, last = part.place
        names = " … ".join(dict.fromkeys(epoch.graph.vertices[v].name for v in part.place))
        predicted_s, measured = epoch.choice.timeline.tiled_s[part.place], epoch.tiled_s.get(part.place)
        for tiled, (taken_bytes, gathered_bytes) in moved.items():
            if not first <= tiled.block.vertices[0] <= last:
                continue
            place = (tiled.block.vertices[0], tiled.block.vertices[-1])
            checks = [check for check in epoch.tiles if check.vertices == place]
            found.append(
                TileReport(
                    part=names,
                    block=tiled.block.describe(epoch.graph),
                    grid=tiled.grid.shape,
                    rows=tiled.grid.rows,
                    columns=tiled.grid.columns,
                    agents=tiled.agents,
                    redundancy=tiling(epoch.graph, tiled.block, tiled.grid).redundancy,
                    exchanged_bytes=taken_bytes,
                    gathered_bytes=gathered_bytes,
                    fallbacks=sum(check.fallbacks for check in checks),
                    identical=all(check.identical for check in checks),
                    predicted_s=predicted_s,
                    measured_s=measured.median if measured else None,
                    channels=tiled.grid.channels,
                    max_rel_err=max((check.max_rel_err for check in checks), default=0.0),
                    vertices=tiled.block.vertices,
                    sources=tuple(source.vertex for source in tiled.block.sources),
                )
            )
    return tuple(found)
