"""Intervals of rows, columns and channels: what a window reads to make some of its output, and how maps are
cut.

A region of a map is a span of rows, a span of columns and a span of channels, and these never mix: what rows
a window reads follows from the rows that it makes. So all arithmetic here is along one axis (0 = rows,
1 = columns; of axis 2, channels, `Vertex.reads_channels` knows). Spans are half open, in positions of the
undivided map. Nothing here knows of graphs, agents or time.

Padding belongs to a tile only where its window really leaves the map; it is then explicit: the values
are put around what was read, and the operator runs with padding 0. Zeros for convolutions and average
pools, −inf for max pools. An average pool must divide by what the whole map's pool divides by, which a
tile cannot see: `divisors` tells it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from d3bed.core.errors import PlanInfeasible

if TYPE_CHECKING:
    from d3bed.core.graph import Window

__all__ = [
    "ALL",
    "WHOLE",
    "Padding",
    "Reach",
    "Region",
    "Span",
    "cut",
    "cut_channels",
    "divisors",
    "output_size",
    "reach",
]


class Span(NamedTuple):
    """Positions `start` to `stop − 1`."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return max(0, self.stop - self.start)

    def hull(self, other: Span) -> Span:
        """The smallest span that holds both."""
        return Span(min(self.start, other.start), max(self.stop, other.stop))

    def overlap(self, other: Span) -> Span | None:
        start, stop = max(self.start, other.start), min(self.stop, other.stop)
        return Span(start, stop) if start < stop else None


#: In the place of channels: all of them, however many. A span like others: as far as a map goes.
ALL = Span(0, 2**31 - 1)


class Region(NamedTuple):
    """A rectangle of a map `[N, C, H, W]`, of all or some of its channels."""

    rows: Span
    columns: Span
    channels: Span = ALL

    @property
    def area(self) -> int:
        return self.rows.length * self.columns.length

    def within(self, outer: Region) -> Region:
        """The same region in the coordinates of a tensor that holds just `outer`."""
        return Region(*(Span(a.start - b.start, a.stop - b.start) for a, b in zip(self, outer, strict=True)))

    def overlap(self, other: Region) -> Region | None:
        if (rows := self.rows.overlap(other.rows)) is None:
            return None
        if (columns := self.columns.overlap(other.columns)) is None:
            return None
        channels = self.channels.overlap(other.channels)
        return None if channels is None else Region(rows, columns, channels)

    def __str__(self) -> str:
        (top, bottom), (left, right), (first, last) = self
        return f"{top}:{bottom},{left}:{right}" + f",{first}:{last}" * (self.channels != ALL)


#: In the place of a rectangle: all of the map, whatever its size, or a tensor that is no map at all.
WHOLE = Region(Span(0, 0), Span(0, 0))


class Padding(NamedTuple):
    """Positions to add around what was read, because the window leaves the map there."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0


class Reach(NamedTuple):
    """What a window reads along one axis, and how many positions of padding it sees on either side."""

    reads: Span
    before: int
    after: int


def _extent(window: Window, axis: int) -> int:
    return window.dilation[axis] * (window.kernel[axis] - 1) + 1


def output_size(window: Window, axis: int, size: int) -> int:
    """Positions that a window makes of `size` ones (as torch counts, ceil mode included); 0 if none."""
    stride, padding = window.stride[axis], window.padding[axis]
    room = size + 2 * padding - _extent(window, axis)
    if not window.ceil_mode:
        return max(0, room // stride + 1)
    made = -(-room // stride) + 1
    if (made - 1) * stride >= size + padding:
        made -= 1  # a window must not start in the padding behind the map
    return max(0, made)


def reach(window: Window | None, axis: int, makes: Span, size: int) -> Reach | None:
    """What must be read, of a map with `size` positions, to make `makes`; None if that is only padding.

    Without a window (element-wise operators, sums, concatenation on channels) it is the same span. A
    kernel that is narrower than its stride reads whole stride cells, as far as the map goes: so its
    operator finds the positions it skips laid out as in the undivided map.
    """
    if window is None:
        return Reach(makes, 0, 0)
    stride, padding, extent = window.stride[axis], window.padding[axis], _extent(window, axis)
    first = makes.start * stride - padding
    last = (makes.stop - 1) * stride - padding + extent
    reads = Span(max(first, 0), min(max(last, makes.stop * stride - padding if extent < stride else 0), size))
    if reads.start >= min(last, size):
        return None
    # In ceil mode a last window may even leave the padding: that part counts nowhere.
    return Reach(reads, reads.start - first, max(0, min(last, size + padding) - size))


def divisors(window: Window, axis: int, makes: Span, size: int) -> tuple[int, ...]:
    """How many positions along one axis an average pool counts, for each output position of `makes`.

    The pool divides by the product over both axes.
    """
    stride, padding, kernel = window.stride[axis], window.padding[axis], window.kernel[axis]
    edge = padding if window.count_include_pad else 0
    starts = (position * stride - padding for position in range(*makes))
    return tuple(min(start + kernel, size + edge) - max(start, -edge) for start in starts)


#: Kernels make so many channels at once.
_CHANNELS_AT_ONCE = 16


def cut_channels(channels: int, weights: Sequence[float]) -> tuple[int, ...]:
    """As `cut`, in whole steps of as many channels as kernels make at once, where there are enough."""
    step = _CHANNELS_AT_ONCE if channels >= _CHANNELS_AT_ONCE * len(weights) else 1
    return *(step * at for at in cut(channels // step, weights)[:-1]), channels


def cut(size: int, weights: Sequence[float]) -> tuple[int, ...]:
    """Cuts of `size` positions into one span per weight (a speed): 0, …, `size`.

    No span is empty, and the largest length / weight is as small as it can be. Raises `PlanInfeasible`
    if there are more weights than positions.
    """
    if not weights or not all(0 < weight < float("inf") for weight in weights):
        raise ValueError(f"weights must be positive and finite: {weights}")
    if len(weights) > size:
        raise PlanInfeasible("tiles", f"{size} positions cannot be cut into {len(weights)} tiles")
    total = sum(weights)
    lengths = [max(1, int(size * (weight / total))) for weight in weights]
    while (left := size - sum(lengths)) != 0:
        if left > 0:
            chosen = min(range(len(weights)), key=lambda i: (lengths[i] + 1) / weights[i])
            lengths[chosen] += 1
        else:
            several = [i for i in range(len(weights)) if lengths[i] > 1]
            chosen = max(several, key=lambda i: lengths[i] / weights[i])
            lengths[chosen] -= 1
    cuts = [0]
    for length in lengths:
        cuts.append(cuts[-1] + length)
    return tuple(cuts)
