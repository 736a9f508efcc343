"""Where each layer of a DNN is drawn.

Decides positions only, in columns and lanes, so that the page may scale both; it knows nothing of
tiers, times or pixels, and equal graphs are always laid out alike. The method is Sugiyama's:
  1. a vertex's column is its longest path from the input; a tensor that skips columns gets a
     placeholder in each of them, one per producer however many vertices read it there;
  2. barycentre sweeps order the columns, and the order with the fewest crossings is kept;
  3. lanes: every vertex is pulled to its neighbours' mean, isotonic regression keeps the order and
     the distances; a column with a single entry is the spine and stays on lane 0;
  4. a deep network is wrapped, after spine columns only, so that one tensor leads to the next row.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from itertools import pairwise
from typing import TypedDict

from d3bed.core.graph import Graph

__all__ = ["Layout", "Node", "layout"]

#: A network this deep fills one row; deeper ones are wrapped.
COLUMNS_PER_ROW = 27
#: Lanes left free between two rows.
ROW_GAP = 1.5
ORDER_SWEEPS = 8
LANE_SWEEPS = 8


class Node(TypedDict):
    """`x` in columns from the left, `y` in lanes from the top.

    `trail` holds the lanes on which the vertex's output passes the columns after its own, up to the
    last one before a reader: an edge to a reader n columns on runs along its first n − 1 entries.
    A vertex with a reader in column 0 is the last of its row, and all its edges lead to the next one.
    """

    x: int
    y: float
    trail: list[float]


class Layout(TypedDict):
    """`width` is the number of columns of the longest row; `height` the lanes of all rows, gaps included."""

    width: int
    height: float
    nodes: list[Node]


def layout(graph: Graph) -> Layout:
    """Lay `graph` out; `nodes` are in vertex order. Deterministic, no I/O."""
    columns = _Columns(graph)
    columns.order()
    lane = columns.lanes()
    return _wrap(columns, lane)


class _Columns:
    """Columns of entries. Entries below `count` are vertices, the others placeholders."""

    def __init__(self, graph: Graph) -> None:
        self.count = len(graph.vertices)
        depth = [0] * self.count
        for v in range(self.count):
            depth[v] = max((depth[p] + 1 for p in graph.predecessors[v]), default=0)
        self.depth = depth
        self.columns: list[list[int]] = [[] for _ in range(max(depth) + 1)]
        for v in range(self.count):
            self.columns[depth[v]].append(v)
        self.left: list[list[int]] = [[] for _ in range(self.count)]
        self.right: list[list[int]] = [[] for _ in range(self.count)]
        self.trail: list[list[int]] = [[] for _ in range(self.count)]
        for v, readers in enumerate(graph.successors):
            last = max((depth[r] for r in readers), default=0)
            chain = [v]
            for column in range(depth[v] + 1, last):
                placeholder = len(self.left)
                self.left.append([])
                self.right.append([])
                self.columns[column].append(placeholder)
                self._join(chain[-1], placeholder)
                chain.append(placeholder)
            self.trail[v] = chain[1:]
            for reader in readers:
                self._join(chain[depth[reader] - depth[v] - 1], reader)

    def _join(self, here: int, there: int) -> None:
        self.right[here].append(there)
        self.left[there].append(here)

    def order(self) -> None:
        """Barycentre sweeps, right and left in turn."""
        best, fewest = self.columns, self._crossings(self.columns)
        columns = [list(column) for column in self.columns]
        for sweep in range(ORDER_SWEEPS):
            if not fewest:
                break
            rightward = sweep % 2 == 0
            neighbours = self.left if rightward else self.right
            walk = columns if rightward else columns[::-1]
            for fixed, column in pairwise(walk):
                rank = {entry: place for place, entry in enumerate(fixed)}
                weight = {
                    entry: _mean([rank[n] for n in neighbours[entry]], default=place)
                    for place, entry in enumerate(column)
                }
                column.sort(key=weight.__getitem__)
            crossings = self._crossings(columns)
            if crossings < fewest:
                best, fewest = [list(column) for column in columns], crossings
        self.columns = best

    def _crossings(self, columns: list[list[int]]) -> int:
        total = 0
        for here, there in pairwise(columns):
            rank = {entry: place for place, entry in enumerate(there)}
            ends: list[int] = []
            for entry in here:
                mine = [rank[n] for n in self.right[entry]]
                total += sum(len(ends) - bisect_right(ends, end) for end in mine)
                for end in mine:
                    insort(ends, end)
        return total

    def lanes(self) -> list[float]:
        """A lane for every entry."""
        lane = [0.0] * len(self.left)
        offsets = [self._offsets(column) for column in self.columns]
        for column, offset in zip(self.columns, offsets, strict=True):
            for entry, distance in zip(column, offset, strict=True):
                lane[entry] = distance - offset[-1] / 2
        both = [[*before, *after] for before, after in zip(self.left, self.right, strict=True)]
        for sweep in range(LANE_SWEEPS):
            walk = list(zip(self.columns, offsets, strict=True))
            neighbours = both if sweep >= LANE_SWEEPS - 2 else (self.left, self.right)[sweep % 2]
            for column, offset in walk if sweep % 2 == 0 else walk[::-1]:
                if len(column) > 1:
                    wish = [
                        _mean([lane[n] for n in neighbours[entry]], default=lane[entry]) for entry in column
                    ]
                    for entry, place in zip(column, _spread(wish, offset), strict=True):
                        lane[entry] = place
        return lane

    def _offsets(self, column: list[int]) -> list[float]:
        """Least distance of each entry from the first: a lane between vertices, less for placeholders."""
        offsets = [0.0]
        for above, below in pairwise(column):
            vertices = (above < self.count) + (below < self.count)
            offsets.append(offsets[-1] + (0.3, 0.8, 1.0)[vertices])
        return offsets


def _mean(numbers: list[int] | list[float], default: float) -> float:
    return sum(numbers) / len(numbers) if numbers else default


def _spread(wish: list[float], offsets: list[float]) -> list[float]:
    """The places nearest to `wish` (least squares) at distances of at least those of `offsets`.

    Isotonic regression of `wish − offsets` by pooling adjacent violators.
    """
    pools: list[tuple[float, int]] = []
    for want, offset in zip(wish, offsets, strict=True):
        mean, size = want - offset, 1
        while pools and pools[-1][0] > mean:
            before, count = pools.pop()
            mean = (before * count + mean * size) / (count + size)
            size += count
        pools.append((mean, size))
    flat = [mean for mean, size in pools for _ in range(size)]
    return [mean + offset for mean, offset in zip(flat, offsets, strict=True)]


def _breaks(widths: list[int]) -> list[int]:
    """First columns of the rows: after spine columns, the nearest to rows of equal length."""
    depth = len(widths)
    rows = max(1, round(depth / COLUMNS_PER_ROW))
    spine = [after for after in range(2, depth - 1) if widths[after - 1] == 1]
    starts = [0]
    for row in range(1, rows):
        ideal = row * depth / rows
        nearest = min(spine, key=lambda after: abs(after - ideal), default=0)
        if nearest > starts[-1] and abs(nearest - ideal) <= depth / rows / 2:
            starts.append(nearest)
    return starts


def _wrap(columns: _Columns, lane: list[float]) -> Layout:
    depth = len(columns.columns)
    starts = _breaks([len(column) for column in columns.columns])
    start_of = [0] * depth
    top_of = [0.0] * depth
    height = -ROW_GAP
    for start, end in pairwise([*starts, depth]):
        used = [lane[entry] for column in columns.columns[start:end] for entry in column]
        height += ROW_GAP
        for column in range(start, end):
            start_of[column] = start
            top_of[column] = height - min(used)
        height += max(used) - min(used) + 1
    nodes: list[Node] = [
        {
            "x": at - start_of[at],
            "y": round(lane[v] + top_of[at], 2),
            "trail": [round(lane[p] + top_of[n], 2) for n, p in enumerate(columns.trail[v], at + 1)],
        }
        for v, at in enumerate(columns.depth)
    ]
    width = max(end - start for start, end in pairwise([*starts, depth]))
    return {"width": width, "height": round(height, 2), "nodes": nodes}
