"""`d3bed plan --tiles` and `d3bed tiles`: how equal edge agents would share a model's layers.

Every way of tiling is asked for the layers that can be tiled, with the model profiled on this machine, the
edge's speed and links from the config file and network preset. What a whole frame gains is asked of the
planner, with the tier cut decided together with the tiles.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from d3bed.config import override, read_config
from d3bed.core.errors import ConfigError
from d3bed.core.ids import TIERS, AgentId, Tier
from d3bed.core.measurements import LinkRate
from d3bed.core.program import moved_bytes
from d3bed.core.tiles import tiling
from d3bed.lab.planning import UNSHAPED, Say, profiled
from d3bed.lab.screen import milliseconds
from d3bed.plan import Pin, choose
from d3bed.plan.vsm import METHODS, Part, TileCosts, tileable_parts
from d3bed.plan.vsm.choose import TileChoice, choose_tiles

if TYPE_CHECKING:
    from d3bed.core.graph import Graph
    from d3bed.core.plan import TiledBlock
    from d3bed.server.settings import PipelineSettings

__all__ = ["Sharing", "TileRequest", "TiledRow", "Way", "share", "show"]

#: Without a word about it, so many edge agents share.
_EDGES = 4


@dataclass(frozen=True)
class TileRequest:
    """What the command line asks for; None means that it does not say."""

    config: Path
    cache_dir: Path
    model: str | None = None
    weights: str | None = None
    input: str | None = None
    network: str | None = None
    strategy: str | None = None
    edges: int | None = None
    tiling: str | None = None


@dataclass(frozen=True)
class TiledRow:
    """A tiled block and what it costs: bytes its tiles take from other agents, and that are gathered."""

    tiled: TiledBlock
    layers: str
    redundancy: float
    taken_bytes: int
    gathered_bytes: int


@dataclass(frozen=True)
class Way:
    """What one method makes of all parts; `frame_s` is a whole frame's predicted latency."""

    method: str
    choices: tuple[TileChoice, ...]
    rows: tuple[TiledRow, ...]
    redundancy: float
    choose_s: float
    frame_s: float

    @property
    def predicted_s(self) -> float:
        return sum(choice.predicted_s for choice in self.choices)

    @property
    def moved_bytes(self) -> int:
        return sum(row.taken_bytes + row.gathered_bytes for row in self.rows)


@dataclass(frozen=True)
class Sharing:
    """The answer: one agent alone, and every way that was asked for; the first is shown block by block."""

    about: str
    graph: Graph
    alone_s: float
    frame_s: float
    strategy: str
    ways: tuple[Way, ...]

    def report(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "about": self.about,
            "alone_s": self.alone_s,
            "frame_s": self.frame_s,
            "methods": {
                way.method: {
                    "predicted_s": way.predicted_s,
                    "speed_up": self.alone_s / way.predicted_s if way.predicted_s else 1.0,
                    "frame_s": way.frame_s,
                    "redundancy": way.redundancy,
                    "moved_bytes": way.moved_bytes,
                    "choose_s": way.choose_s,
                    "reasons": [choice.reason for choice in way.choices if choice.reason],
                    "tiles": [
                        {
                            "block": row.layers,
                            "grid": row.tiled.grid.shape,
                            "rows": row.tiled.grid.rows,
                            "columns": row.tiled.grid.columns,
                            "channels": row.tiled.grid.channels,
                            "agents": row.tiled.agents,
                            "redundancy": row.redundancy,
                            "taken_bytes": row.taken_bytes,
                            "gathered_bytes": row.gathered_bytes,
                        }
                        for row in way.rows
                    ],
                }
                for way in self.ways
            },
        }


def share(request: TileRequest, say: Say, *, every: bool) -> Sharing:
    """Ask the method that the request (or its config) names, and then, with `every`, all others too.

    Raises `ConfigError`, `PlanInfeasible`.
    """
    config = override(
        read_config(request.config),
        model=request.model,
        weights=request.weights,
        input=request.input,
        encoded_kb=0,  # tiles begin behind the decoder in any case
        network=request.network,
        strategy=request.strategy,
        edges=_EDGES if request.edges is None else request.edges,
        tiling=request.tiling,
    )
    if not config.pipelines:
        raise ConfigError(config.path, "pipelines", "there is none", "add a [pipelines.NAME] table")
    pipeline = config.pipelines[0]
    if pipeline.tiling not in METHODS:
        raise ConfigError("--tiling", pipeline.tiling, "shares nothing", f"use one of {', '.join(METHODS)}")
    graph, profile = profiled(pipeline, request.cache_dir, say)
    speeds = {agent: config.agent(agent).speed for agent in pipeline.tiers}
    times_s = {agent: [t / speed for t in profile.times_s] for agent, speed in speeds.items()}
    fixed_s = {agent: [t / speed for t in profile.fixed_s] for agent, speed in speeds.items()}
    rates = _rates(pipeline)
    strategy = pipeline.strategy
    pins = [Pin(p.vertices, p.tiers) for p in pipeline.pins.get(pipeline.model.name, ())]

    def frame_s(method: str) -> float:
        found = choose(
            graph,
            times_s,
            pipeline.tiers,
            rates,
            pipeline.device,
            strategy=strategy,
            pins=pins,
            tiling=method,
            fixed_s=fixed_s,
        )
        return found.timeline.latency_s

    owner = pipeline.edges[0]
    costs = TileCosts(graph, times_s, fixed_s)
    parts = tileable_parts(graph)
    ways = []
    for method in dict.fromkeys([pipeline.tiling, *(METHODS if every else ())]):
        began_s = time.perf_counter()
        choices = [choose_tiles(graph, part, pipeline.edges, costs, rates, method=method) for part in parts]
        taken_s = time.perf_counter() - began_s
        rows = [row for choice in choices for row in _rows(graph, choice, owner)]
        ways.append(
            Way(method, tuple(choices), tuple(rows), _redundancy(graph, rows), taken_s, frame_s(method))
        )
    rate = rates.get((owner, pipeline.edges[-1]), UNSHAPED)
    about = (
        f"{pipeline.model.name} ({pipeline.model.weights}): {len(pipeline.edges)} edge agents of speed "
        f"{speeds[owner]:.3g}, {rate.bytes_per_s * 8e-6:.4g} Mbit/s between them"
    )
    return Sharing(about, graph, _alone_s(costs, parts, owner), frame_s("none"), strategy, tuple(ways))


def _alone_s(costs: TileCosts, parts: Sequence[Part], owner: AgentId) -> float:
    return sum(costs.times_s[owner][v] for part in parts for v in part.vertices)


def _rows(graph: Graph, choice: TileChoice, owner: AgentId) -> list[TiledRow]:
    moved = moved_bytes(graph, choice.blocks, owner)
    return [
        TiledRow(
            tiled, tiled.block.describe(graph), tiling(graph, tiled.block, tiled.grid).redundancy, *nbytes
        )
        for tiled, nbytes in zip(choice.blocks, moved, strict=True)
    ]


def _redundancy(graph: Graph, rows: Sequence[TiledRow]) -> float:
    """Of all tiled layers together."""
    made = [tiling(graph, row.tiled.block, row.tiled.grid) for row in rows]
    whole = sum(each.whole_flops for each in made)
    return sum(sum(each.flops) for each in made) / whole if whole else 1.0


def _rates(pipeline: PipelineSettings) -> dict[tuple[AgentId, AgentId], LinkRate]:
    """Links as the network shapes them; a fast local network where it says nothing."""
    found = {}
    for (here, on), (there, at) in itertools.permutations(pipeline.tiers.items(), 2):
        if on is at is not Tier.EDGE:
            continue
        shape = pipeline.shapes.get(f"{on}-{at}")
        if shape is None and {on, at} == {TIERS[0], TIERS[-1]}:
            continue
        found[here, there] = LinkRate(shape.bytes_per_s, shape.latency_s) if shape else UNSHAPED
    return found


# ── shown ─────────────────────────────────────────────────────────────────────────────────────────


def show(sharing: Sharing) -> RenderableType:
    """The methods side by side, then the first one's blocks."""
    first = sharing.ways[0]
    table = _table("method")
    for heading in ("layers\nms", "speed-\nup", "blocks", "computed\ntwice", "moved\nkB", "choosing\nms"):
        table.add_column(heading, justify="right")
    table.add_column("frame\nms", justify="right", style="bold")
    table.add_row(
        "one agent", milliseconds(sharing.alone_s), "1.00", "", "", "", "", milliseconds(sharing.frame_s)
    )
    for way in sharing.ways:
        table.add_row(
            way.method,
            milliseconds(way.predicted_s),
            f"{sharing.alone_s / way.predicted_s:.2f}" if way.predicted_s else "–",
            str(len(way.rows)),
            f"{way.redundancy - 1:.1%}",
            f"{way.moved_bytes / 1e3:.0f}",
            milliseconds(way.choose_s),
            milliseconds(way.frame_s),
        )
    notes = [
        "layers: all that can be tiled. moved: from agent to agent, a frame.",
        f"frame: all of it, strategy {sharing.strategy}, the cut decided together with the tiles.",
    ]
    reasons = [
        f"{way.method} tiles nothing: {choice.reason}"
        for way in sharing.ways
        for choice in way.choices
        if choice.reason
    ]
    if any(row.tiled.grid.channels for row in first.rows):
        notes.append("1×1×4 tiles: four shares of the channels, each made from all of the map before.")
    parts: list[RenderableType] = [Text(sharing.about), table]
    parts += [Text(words) for words in reasons] + [Text(note, style="dim") for note in notes]
    if first.rows:
        parts.append(_blocks(first))
    return Group(*parts)


def _blocks(way: Way) -> Table:
    table = _table("", f"\n{way.method}, block by block")
    table.add_column("layers", overflow="ellipsis", no_wrap=True)
    for heading in ("tiles", "computed\ntwice", "taken\nkB", "gathered\nkB"):
        table.add_column(heading, justify="right")
    for number, row in enumerate(way.rows, 1):
        gathered = f"{row.gathered_bytes / 1e3:.0f}" if row.gathered_bytes else "–"
        table.add_row(
            str(number),
            row.layers,
            str(row.tiled.grid),
            f"{row.redundancy - 1:.1%}",
            f"{row.taken_bytes / 1e3:.0f}",
            gathered,
        )
    return table


def _table(first: str, title: str | None = None) -> Table:
    return Table(
        first, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, title=title, title_justify="left"
    )
