"""How long a tile takes on an agent: a part that does not depend on its size, and a share of the rest.

An operator on part of a map costs more than its share: weights are brought into place on every call, and
small maps fill the machine badly. Agents measure that part; where one has not, it is estimated from the
weights. It must not know who runs a tile, nor when.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property

import msgspec

from d3bed.core.graph import Graph
from d3bed.core.ids import AgentId
from d3bed.core.tiles import Tile

__all__ = ["PIECE_S", "TileCosts"]

#: What an agent's event loop has to do for a piece that it sends or receives, beside moving its bytes, and
#: until others get round to it: about this in Python where four agents share two x86-64 cores.
PIECE_S = 0.5e-3

#: Measured where weights are reordered on every call, for a machine of `_REFERENCE_FLOPS` per second.
_FIXED_S_PER_BYTE, _REFERENCE_FLOPS = 0.16e-9, 45e9

#: An unknown fixed part is at most this share of the whole, and at least that.
_MOST_FIXED, _LEAST_FIXED = 0.5, 0.03


class TileCosts(msgspec.Struct, frozen=True, dict=True):
    """Seconds per vertex of each agent, as they are now; `fixed_s` only of agents that measured it.

    `piece_s` is what an agent's event loop has to do for each piece that it sends or receives.
    """

    graph: Graph
    times_s: Mapping[AgentId, Sequence[float]]
    fixed_s: Mapping[AgentId, Sequence[float]] = {}
    piece_s: float = 0.0

    def tile_s(self, agent: AgentId, tile: Tile) -> float:
        """How long an agent takes for a tile."""
        times_s, fixed_s = self.times_s[agent], self.fixed(agent)
        return sum(
            fixed_s[p.vertex]
            + (times_s[p.vertex] - fixed_s[p.vertex]) * p.makes.area / self.positions[p.vertex]
            for p in tile.patches
        )

    @cached_property
    def positions(self) -> tuple[int, ...]:
        """Of every vertex's map; 1 where it makes none."""
        shapes = (vertex.outputs[0].shape for vertex in self.graph.vertices)
        return tuple(math.prod(shape[2:]) if len(shape) == 4 else 1 for shape in shapes)

    def fixed(self, agent: AgentId) -> Sequence[float]:
        """The size-independent part per vertex, never more than the whole."""
        if agent not in self._fixed:
            self._fixed[agent] = self._fixed_of(agent)
        return self._fixed[agent]

    @cached_property
    def _fixed(self) -> dict[AgentId, Sequence[float]]:
        return {}

    def _fixed_of(self, agent: AgentId) -> Sequence[float]:
        times_s = self.times_s[agent]
        if known := self.fixed_s.get(agent):
            return [min(fixed, time) for fixed, time in zip(known, times_s, strict=True)]
        vertices = self.graph.vertices
        slowness = sum(times_s) / (sum(v.flops for v in vertices) / _REFERENCE_FLOPS or 1.0)
        return [
            min(
                _MOST_FIXED * time,
                max(_LEAST_FIXED * time, vertex.weight_bytes * _FIXED_S_PER_BYTE * slowness),
            )
            for vertex, time in zip(vertices, times_s, strict=True)
        ]
