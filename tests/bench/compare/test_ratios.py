"""Ratios by hand, targets, and the reasons for what is not gained."""

from __future__ import annotations

import math

import msgspec
import pytest

from d3bed.bench.compare.ratios import headline, ratios, targets, verdicts
from tests.bench.compare.made import results, single


def test_ratios_are_taken_cell_by_cell_against_the_better_rival_there() -> None:
    found = {(r.what, r.ours, r.against): r for r in ratios(results())}
    ours = found["latency", "optimal+vsm", "better rival"]
    assert [ours.most, ours.least, ours.cells] == pytest.approx([2.0, 1.0, 2])
    assert ours.mean == pytest.approx(math.sqrt(2.0))
    assert (ours.most_at, ours.least_at) == (("alexnet", "wifi"), ("alexnet", "optical"))
    # Over Wi-Fi Neurosurgeon is the faster one as a stream, DADS for a frame.
    assert found["rate", "optimal", "better rival"].most == pytest.approx(2.0)
    assert found["latency", "optimal+vsm", "better rival, as published"].most == pytest.approx(3.0)
    assert found["latency", "optimal+vsm", "edge"].most == pytest.approx(2.5)


def test_backbone_bytes_are_summed_and_cells_without_ours_counted_beside() -> None:
    found = {(r.what, r.ours, r.against): r for r in ratios(results())}
    dads = found["backbone", "optimal+vsm", "dads"]
    assert [dads.most, dads.least] == pytest.approx([3.0, 1.0])
    assert dads.total == pytest.approx(1500 / 1100)
    rival = found["backbone", "optimal+vsm", "neurosurgeon"]
    assert rival.least == 0.0, "ours sends where Neurosurgeon does not: that is not left out"
    assert rival.mean == pytest.approx(1.0), "a geometric mean has no place for it"

    edge_only = [
        msgspec.structs.replace(row, single=single(0.4, 0.0, "edge"))
        if row.way.name == "optimal+vsm"
        else row
        for row in results().rows
    ]
    free = msgspec.structs.replace(results(), rows=tuple(edge_only))
    dads = next(r for r in ratios(free) if (r.ours, r.against, r.what) == ("optimal+vsm", "dads", "backbone"))
    assert (dads.total, dads.most, dads.only_other) == (None, None, 2)


def test_targets_go_by_the_number_of_edges_and_say_what_the_grid_cannot_tell() -> None:
    four = {t.text: t for t in targets(results(edges=4))}
    (best,) = (t for text, t in four.items() if "our input, 4 edges: best" in text)
    assert [best.wanted, best.found] == pytest.approx([2.5, 2.0]) and best.reached is False
    (least,) = (t for text, t in four.items() if "4 edges: least" in text)
    assert least.reached is True
    assert any("8 edges: best" in t.text and t.wanted == 3.4 for t in targets(results(edges=8)))
    assert not any("edges: best" in t.text for t in targets(results(edges=2)))
    without = msgspec.structs.replace(
        results(), rows=tuple(msgspec.structs.replace(row, stream=None) for row in results().rows)
    )
    (rate,) = (t for t in targets(without) if "sustained" in t.text)
    assert rate.reached is None


def test_a_cell_without_a_gain_says_why() -> None:
    (same,) = verdicts(results())
    assert same.cell == ("alexnet", "optical") and "all of it on the cloud" in same.text

    worse = [
        msgspec.structs.replace(row, single=single(1.0, 0.0, "tiles", predicted_s=0.5))
        if row.way.name == "optimal+vsm"
        else row
        for row in results().rows
    ]
    first, second = verdicts(msgspec.structs.replace(results(), rows=tuple(worse)))
    assert first.ratio == pytest.approx(0.8) and "slower than dads" in first.text
    assert "it was +100% off" in first.text, "a prediction that failed is named"
    assert second.ratio == pytest.approx(0.5)


def test_the_headline_is_the_widest_way_that_has_a_plan() -> None:
    assert headline(results()) == "optimal+vsm"
    rows = tuple(
        msgspec.structs.replace(row, refused="no") if row.way.name == "optimal+vsm" else row
        for row in results().rows
    )
    assert headline(msgspec.structs.replace(results(), rows=rows)) == "optimal"
