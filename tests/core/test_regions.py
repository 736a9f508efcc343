"""One axis at a time: reach, divisors and output size against what torch really does."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from d3bed.core.errors import PlanInfeasible
from d3bed.core.graph import Window
from d3bed.core.regions import ALL, Region, Span, cut, cut_channels, divisors, output_size, reach


def window(
    kernel: int,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Window:
    return Window(
        (kernel, 1),
        (stride, 1),
        (padding, 0),
        (dilation, 1),
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
    )


@given(
    kernel=st.integers(1, 6),
    stride=st.integers(1, 4),
    padding=st.integers(0, 3),
    dilation=st.integers(1, 3),
    ceil_mode=st.booleans(),
    size=st.integers(1, 24),
    data=st.data(),
)
def test_a_span_reads_all_that_changes_it(
    kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool, size: int, data: st.DataObject
) -> None:
    w = window(kernel, stride, min(padding, kernel // 2), dilation, ceil_mode)
    made = output_size(w, 0, size)
    if made == 0:
        return
    # One channel per position of the map: which outputs see it?
    marks = torch.eye(size).reshape(size, 1, size, 1)
    args = (w.kernel, w.stride, w.padding, w.dilation, w.ceil_mode)
    seen = functional.max_pool2d(marks - 1, *args)[:, 0, :, 0] == 0
    assert seen.shape == (size, made)
    start = data.draw(st.integers(0, made - 1))
    span = Span(start, data.draw(st.integers(start + 1, made)))
    changing = seen[:, slice(*span)].any(1).nonzero()
    reached = reach(w, 0, span, size)
    if reached is None:
        assert len(changing) == 0
        return
    reads = reached.reads
    assert 0 <= reads.start < reads.stop <= size
    if len(changing):
        assert reads.start <= int(changing.min()) and int(changing.max()) < reads.stop
    if dilation == 1 and kernel >= stride:
        assert reads == (int(changing.min()), int(changing.max()) + 1)


@given(
    kernel=st.integers(1, 6),
    stride=st.integers(1, 4),
    padding=st.integers(0, 3),
    ceil_mode=st.booleans(),
    include=st.booleans(),
    size=st.integers(1, 24),
)
def test_divisors_are_those_of_the_whole_pool(
    kernel: int, stride: int, padding: int, ceil_mode: bool, include: bool, size: int
) -> None:
    w = window(kernel, stride, min(padding, kernel // 2), 1, ceil_mode, include)
    made = output_size(w, 0, size)
    if made == 0:
        return
    ones = torch.ones(1, 1, size, 1, dtype=torch.float64)
    means = functional.avg_pool2d(ones, w.kernel, w.stride, w.padding, ceil_mode, include)
    sums = functional.avg_pool2d(ones, w.kernel, w.stride, w.padding, ceil_mode, divisor_override=1)
    counted = (sums / means).flatten()
    assert divisors(w, 0, Span(0, made), size) == tuple(round(float(c)) for c in counted)
    assert divisors(w, 0, Span(made // 2, made), size) == divisors(w, 0, Span(0, made), size)[made // 2 :]


def test_padding_is_only_where_the_window_leaves_the_map() -> None:
    w = window(3, padding=1)
    assert reach(w, 0, Span(0, 4), 8) == (Span(0, 5), 1, 0)
    assert reach(w, 0, Span(2, 4), 8) == (Span(1, 5), 0, 0)
    assert reach(w, 0, Span(4, 8), 8) == (Span(3, 8), 0, 1)
    assert reach(w, 0, Span(0, 8), 8) == (Span(0, 8), 1, 1)
    assert reach(None, 0, Span(2, 4), 8) == (Span(2, 4), 0, 0)


def test_a_narrow_kernel_reads_whole_stride_cells() -> None:
    w = window(1, stride=2)
    assert reach(w, 0, Span(0, 2), 7) == (Span(0, 4), 0, 0)
    assert reach(w, 0, Span(2, 4), 7) == (Span(4, 7), 0, 0)


def test_a_window_in_the_padding_alone_reads_nothing() -> None:
    w = window(1, padding=1)
    assert reach(w, 0, Span(0, 1), 5) is None
    assert reach(w, 0, Span(6, 7), 5) is None
    assert reach(w, 0, Span(0, 2), 5) == (Span(0, 1), 1, 0)


def test_regions_move_into_the_coordinates_of_a_tile() -> None:
    region = Region(Span(4, 6), Span(1, 5))
    assert region.area == 8
    assert region.within(Region(Span(3, 9), Span(1, 8))) == Region(Span(1, 3), Span(0, 4))


def test_cuts_follow_speeds() -> None:
    assert cut(56, [1, 1]) == (0, 28, 56)
    assert cut(7, [1, 1, 1]) == (0, 3, 5, 7)
    assert cut(56, [1, 1, 1, 0.5]) == (0, 16, 32, 48, 56)
    assert cut(4, [1000, 1, 1]) == (0, 2, 3, 4)
    assert cut(3, [1, 1e-9, 1]) == (0, 1, 2, 3)


@given(weights=st.lists(st.floats(0.01, 100), min_size=1, max_size=5), size=st.integers(1, 40))
def test_no_other_cut_is_done_sooner(weights: list[float], size: int) -> None:
    if len(weights) > size:
        with pytest.raises(PlanInfeasible, match="cannot be cut"):
            cut(size, weights)
        return
    cuts = cut(size, weights)
    lengths = [b - a for a, b in zip(cuts, cuts[1:], strict=False)]
    assert min(lengths) >= 1 and sum(lengths) == size
    slowest = max(length / weight for length, weight in zip(lengths, weights, strict=True))
    # With every span a little sooner done than the slowest, fewer positions would be covered.
    covered = sum(max(1, int(slowest * (1 - 1e-9) * weight)) for weight in weights)
    least = max(1 / weight for weight in weights)
    assert covered < size or slowest <= least * (1 + 1e-9)


@pytest.mark.parametrize("weights", [[], [1, 0], [1, -1], [1, float("inf")], [float("nan")]])
def test_weights_are_speeds(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="positive and finite"):
        cut(8, weights)


def test_channels_are_cut_where_kernels_begin_anew_if_there_are_enough() -> None:
    assert cut_channels(256, [1, 1, 1]) == (0, 96, 176, 256)
    assert cut_channels(256, [1, 1, 1, 0.5]) == (0, 80, 160, 224, 256)
    assert cut_channels(72, [1, 1]) == (0, 32, 72)
    assert cut_channels(24, [1, 1]) == (0, 12, 24)
    with pytest.raises(PlanInfeasible):
        cut_channels(3, [1] * 4)


def test_regions_share_what_all_their_spans_share() -> None:
    rows, columns = Span(0, 7), Span(2, 9)
    whole, share = Region(rows, columns), Region(Span(5, 12), columns, Span(16, 32))
    assert whole.channels == ALL and str(whole) == "0:7,2:9"
    assert whole.overlap(share) == Region(Span(5, 7), columns, Span(16, 32))
    assert whole.overlap(Region(rows, Span(9, 10))) is None
    assert share.overlap(Region(rows, columns, Span(0, 16))) is None
    assert str(share) == "5:12,2:9,16:32"
    assert share.within(Region(Span(4, 14), Span(1, 9), Span(16, 48))) == Region(
        Span(1, 8), Span(1, 8), Span(0, 16)
    )
