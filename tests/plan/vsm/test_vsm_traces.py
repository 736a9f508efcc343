"""Traces of many grids at once say what tiles are really cut by, grid by grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from d3bed.core.regions import Span
from d3bed.core.tiles import Grid, map_size, tilings_to
from d3bed.plan.vsm.traces import Spans, trace

if TYPE_CHECKING:
    from tests.plan.vsm.conftest import Tools

pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")


def _spans(grid: Grid, axis: int) -> Spans:
    return Spans(*np.array(grid.bands(axis)).T)


@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_bands_of_all_borders_walk_along_together(data: st.DataObject, tools: Tools) -> None:
    net = data.draw(tools.nets())
    assume(len(net.vertices) > 1 and net.vertices[-1].outputs[0].shape[2:] != (1, 1))
    graph, part = net.graph, net.part
    grids = [data.draw(tools.grids(graph.spec(border).shape)) for border in part.borders[1:]]
    for axis in range(3):
        bands = [_spans(grid, axis) for grid in grids]
        traced = trace(graph, part, axis, bands)
        for last, grid in enumerate(grids, start=1):
            begin = sum(len(spans.start) for spans in bands[last:])
            mine = slice(begin, begin + len(bands[last - 1].start))
            # The other axes are left whole, so that only this one can break.
            height, width = map_size(graph, part.borders[last])
            cuts: list[tuple[int, ...]] = [(0, height), (0, width), ()]
            cuts[axis] = (grid.rows, grid.columns, grid.channels)[axis]
            alone = Grid(*cuts)
            tilings = tilings_to(graph, [part.block(i, last) for i in range(last)], alone)
            for first, found in enumerate(tilings):
                broken = bool(traced.broken[first][mine].any())
                if found is None:
                    assert broken  # a whole map is never made of padding alone: parts see to that
                    continue
                assert not broken
                taken = traced.takes[first]
                spans = [
                    Span(int(a), int(b)) for a, b in zip(taken.start[mine], taken.stop[mine], strict=True)
                ]
                assert spans == [region[axis] for (region,) in found.takes]
                for v in found.block.vertices:
                    lengths = [region[axis].length for region in found.needs.regions(v)]
                    assert list(traced.makes[v].length[mine]) == lengths
