"""What all blocks of a part need under many grids, from one walk backwards through the part.

Rows, columns and channels never mix, so each axis is traced alone, and a band of any grid at any border walks
along with all others: arrays hold one entry per band. Bands that start at a later border come first; so at
every border those that reach it are the first so many. The rules are those of `core.regions.reach`, which
tiles are really cut by; this is the same for arrays, since choosing looks at thousands of tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d3bed.core.graph import Graph, Vertex, Window
from d3bed.core.regions import ALL, Span
from d3bed.plan.vsm.parts import Part

__all__ = ["Spans", "Trace", "trace"]

_Positions = NDArray[np.int64]


@dataclass(frozen=True)
class Spans:
    """Half-open spans of positions along one axis, one per band."""

    start: _Positions
    stop: _Positions

    @property
    def length(self) -> _Positions:
        return self.stop - self.start

    def hull(self, other: Spans) -> Spans:
        return Spans(np.minimum(self.start, other.start), np.maximum(self.stop, other.stop))

    def then(self, other: Spans) -> Spans:
        return Spans(np.concatenate((self.start, other.start)), np.concatenate((self.stop, other.stop)))

    def overlap(self, other: Spans) -> _Positions:
        """Positions that each span shares with each of `other` [these, others]."""
        start = np.maximum(self.start[:, None], other.start)
        shared: _Positions = np.maximum(np.minimum(self.stop[:, None], other.stop) - start, 0)
        return shared


@dataclass(frozen=True)
class Trace:
    """One axis. `makes` is per vertex of the part; `takes` and `broken` per border but the last.

    A band is broken at a border if, made from there, some vertex would read nothing but padding, or could
    not make these channels alone.
    """

    makes: dict[int, Spans]
    takes: list[Spans]
    broken: list[NDArray[np.bool_]]


def trace(graph: Graph, part: Part, axis: int, bands: Sequence[Spans]) -> Trace:
    """`bands[i]` are the bands that start at border i + 1 (0 = rows, 1 = columns, 2 = channels)."""
    none = np.empty(0, dtype=np.int64)
    needs: dict[int, Spans] = {}
    makes: dict[int, Spans] = {}
    takes: list[Spans] = []
    broken: list[NDArray[np.bool_]] = []
    lost = np.empty(0, dtype=np.bool_)
    starting = dict(zip((border.vertex for border in part.borders[1:]), bands, strict=True))
    source, inside = part.borders[0], {part.borders[0].vertex, *part.vertices}
    behind = {part.block(i, i + 1).vertices[0]: border.vertex for i, border in enumerate(part.borders[:-1])}
    for v in reversed(part.vertices):
        spans = needs.pop(v, Spans(none, none))
        if v in starting:
            spans = spans.then(starting[v])
            lost = np.concatenate((lost, np.zeros(len(starting[v].start), dtype=np.bool_)))
        makes[v] = spans
        before = [u for u in graph.predecessors[v] if u in inside]
        output = source.output if before[0] == source.vertex else 0
        shape, vertex = graph.vertices[before[0]].outputs[output].shape, graph.vertices[v]
        impossible: NDArray[np.bool_] | bool = False
        if axis == 2:
            spans, impossible = _reads_channels(vertex, spans, shape[1])
        elif vertex.window is not None:
            spans, impossible = _reads(vertex.window, axis, spans, shape[2 + axis])
        lost = lost | impossible
        for u in before:
            needs[u] = needs[u].hull(spans) if u in needs else spans
        if v in behind:
            takes.append(needs[behind[v]])
            broken.append(lost)
    return Trace(makes, takes[::-1], broken[::-1])


def _reads(window: Window, axis: int, makes: Spans, size: int) -> tuple[Spans, NDArray[np.bool_]]:
    """What a window reads of a map with `size` positions, and where that is nothing."""
    stride, padding = window.stride[axis], window.padding[axis]
    extent = window.dilation[axis] * (window.kernel[axis] - 1) + 1
    first = makes.start * stride - padding
    last = (makes.stop - 1) * stride - padding + extent
    start = np.maximum(first, 0)
    stop = np.minimum(np.maximum(last, makes.stop * stride - padding) if extent < stride else last, size)
    return Spans(start, stop), start >= np.minimum(last, size)


def _reads_channels(vertex: Vertex, makes: Spans, inputs: int) -> tuple[Spans, NDArray[np.bool_]]:
    """What a vertex reads of `inputs` channels, and where it cannot be told. Few spans differ."""
    _, first, which = np.unique(makes.start * ALL.stop + makes.stop, return_index=True, return_inverse=True)
    found = [vertex.reads_channels(Span(int(makes.start[n]), int(makes.stop[n])), inputs) for n in first]
    spans = np.array([span or (0, 0) for span in found], dtype=np.int64).reshape(-1, 2)[which]
    return Spans(spans[:, 0], spans[:, 1]), np.array([span is None for span in found], dtype=np.bool_)[which]
