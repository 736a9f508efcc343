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

#: Measured, on the same terms, for convolutions of 1×1 and 3×3: a quarter of the channels takes that much
#: more than a quarter of the time, per byte of input. At most this share of the whole.
_READ_S_PER_BYTE, _MOST_READ = 0.7e-9, 0.5

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
        times_s, fixed_s, read_s = self.times_s[agent], self.fixed(agent), self.reading(agent)
        total_s = 0.0
        for patch in tile.patches:
            v, makes = patch.vertex, patch.makes
            whole_s = fixed_s[v] + (times_s[v] - fixed_s[v]) * makes.area / self.positions[v]
            share = makes.channels.length / self.graph.vertices[v].outputs[0].shape[1]
            total_s += whole_s if share >= 1 else whole_s * share + read_s[v]
        return total_s

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

    def reading(self, agent: AgentId) -> Sequence[float]:
        """Per vertex: what a share of its output channels takes beside its share of the time, since a
        convolution reads all channels of its input for any of them."""
        if agent not in self._reading:
            slowness = self._slowness(agent)
            self._reading[agent] = [
                min(_MOST_READ * time, nbytes * _READ_S_PER_BYTE * slowness)
                for time, nbytes in zip(self.times_s[agent], self._convolved_bytes, strict=True)
            ]
        return self._reading[agent]

    @cached_property
    def _reading(self) -> dict[AgentId, Sequence[float]]:
        return {}

    @cached_property
    def _convolved_bytes(self) -> tuple[int, ...]:
        """Per vertex that is a convolution: of its input."""
        found = [0] * len(self.graph.vertices)
        for value, readers in self.graph.consumers.items():
            for reader in readers:
                if self.graph.vertices[reader].kind == "conv2d":
                    found[reader] += self.graph.spec(value).nbytes
        return tuple(found)

    def _slowness(self, agent: AgentId) -> float:
        flops = sum(vertex.flops for vertex in self.graph.vertices)
        return sum(self.times_s[agent]) / (flops / _REFERENCE_FLOPS or 1.0)

    def _fixed_of(self, agent: AgentId) -> Sequence[float]:
        times_s = self.times_s[agent]
        if known := self.fixed_s.get(agent):
            return [min(fixed, time) for fixed, time in zip(known, times_s, strict=True)]
        vertices, slowness = self.graph.vertices, self._slowness(agent)
        return [
            min(
                _MOST_FIXED * time,
                max(_LEAST_FIXED * time, vertex.weight_bytes * _FIXED_S_PER_BYTE * slowness),
            )
            for vertex, time in zip(vertices, times_s, strict=True)
        ]
