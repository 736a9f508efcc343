"""What a report says of tiled blocks: who runs what, what that costs, and how long it took. Pure."""

from __future__ import annotations

from d3bed.core.ids import Tier
from d3bed.core.tiles import tiling
from d3bed.server.epochs import PlannedEpoch
from d3bed.server.views import TileReport

__all__ = ["tile_reports"]


def tile_reports(epoch: PlannedEpoch) -> tuple[TileReport, ...]:
    """Every tiled block of the epoch's plan, in order."""
    from d3bed.plan.vsm.choose import moved_bytes  # here, so that a server starts without numpy

    found = []
    for part in epoch.tiled_parts:
        first, last = part.place
        names = " … ".join(dict.fromkeys(epoch.graph.vertices[v].name for v in part.place))
        predicted_s, measured = epoch.choice.timeline.tiled_s[part.place], epoch.tiled_s.get(part.place)
        blocks = [tiled for tiled in epoch.plan.tiles if first <= tiled.block.vertices[0] <= last]
        moved = moved_bytes(epoch.graph, blocks, epoch.route[Tier.EDGE])
        for tiled, (taken_bytes, gathered_bytes) in zip(blocks, moved, strict=True):
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
                    max_rel_err=max((check.max_rel_err for check in checks), default=0.0),
                )
            )
    return tuple(found)
