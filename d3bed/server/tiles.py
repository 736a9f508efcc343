"""What a report says of tiled blocks: who runs what, what that costs, and how long it took. Pure."""

from __future__ import annotations

from d3bed.core.ids import AgentId, Tier
from d3bed.core.plan import TiledBlock
from d3bed.core.tiles import exchanged_bytes, tiling
from d3bed.server.epochs import PlannedEpoch
from d3bed.server.views import TileReport

__all__ = ["tile_reports"]


def tile_reports(epoch: PlannedEpoch) -> tuple[TileReport, ...]:
    """Every tiled block of the epoch's plan, in order."""
    found = []
    for part in epoch.tiled_parts:
        first, last = part.place
        names = " … ".join(dict.fromkeys(epoch.graph.vertices[v].name for v in part.place))
        predicted_s, measured = epoch.choice.timeline.tiled_s[part.place], epoch.tiled_s.get(part.place)
        before: TiledBlock | None = None
        for tiled in epoch.plan.tiles:
            place = (tiled.block.vertices[0], tiled.block.vertices[-1])
            if not first <= place[0] <= last:
                continue
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
                    exchanged_bytes=_moved(epoch, before, tiled, epoch.route[Tier.EDGE]),
                    fallbacks=sum(check.fallbacks for check in checks),
                    identical=all(check.identical for check in checks),
                    predicted_s=predicted_s,
                    measured_s=measured.median if measured else None,
                )
            )
            before = tiled
    return tuple(found)


def _moved(epoch: PlannedEpoch, before: TiledBlock | None, tiled: TiledBlock, owner: AgentId) -> int:
    """Bytes of a block's inputs that cross links: cut out by the owner, or from the block before."""
    made = tiling(epoch.graph, tiled.block, tiled.grid)
    if before is None:
        taken = zip(made.tiles, tiled.agents, strict=True)
        return sum(tile.input_bytes for tile, agent in taken if agent != owner)
    earlier = tiling(epoch.graph, before.block, before.grid)
    return exchanged_bytes(earlier, made, before.agents, tiled.agents)
