"""Plots over any quantity: scales, ticks, and what a page can rely on."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import pytest

from d3bed.lab.charts import Axis, Chart, log_ticks


def test_ticks_of_a_logarithmic_axis_are_round_and_few() -> None:
    assert log_ticks(0.5, 30) == [0.5, 1, 2, 5, 10, 20]
    assert log_ticks(1, 100_000) == [1, 10, 100, 1000, 10_000, 100_000]
    assert log_ticks(0.85, 1.9) == pytest.approx([1.0, 1.2, 1.4, 1.6, 1.8])


def test_axes_hold_their_values_and_put_others_at_an_end() -> None:
    axis = Axis.of("ms", [5.0, 80.0], log=True)
    assert axis.low < 5 < 80 < axis.high
    assert axis.share(math.sqrt(axis.low * axis.high)) == pytest.approx(0.5)
    assert (axis.share(0.001), axis.share(1e9)) == (0.0, 1.0)
    assert Axis.of("ms", [10.0]).low == 0.0
    assert Axis.of("x", [3.0], log=True).share(3.0) == pytest.approx(0.5)
    assert Axis.of("x", []).high > 0


def test_a_chart_is_well_formed_and_says_what_its_marks_are() -> None:
    names = ("a & b", "c")
    chart = Chart("two <things>", Axis("", -0.5, 1.5, names=names), Axis.of("times", [0.5, 4.0], log=True))
    chart.level(1.0, "equal")
    chart.bar(0, 1.0, 2.0, "good", "twice", 0.0, 12.0)
    chart.bar(1, 1.0, 0.5, "bad", "half", 0.0, 12.0)
    chart.whisker(0, 1.8, 2.2, "spread")
    chart.line([(0, 1.0), (1, 2.0)], "ours", "a line")
    chart.line([], "ours")
    chart.upright(0.5, "here")
    for kind in ("ours", "other", "device", "edge", "cloud", "published"):
        chart.dot(1, 3.0, kind, kind)
    root = ElementTree.fromstring(chart.svg)
    titles = [title.text for title in root.iter("title")]
    assert titles == [
        "twice",
        "half",
        "a line",
        "here",
        *("ours", "other", "device", "edge", "cloud", "published"),
    ]
    assert "a & b" in [text.text for text in root.iter("text")]
    shapes = {path.get("d") for path in root.iter("path") if (path.get("class") or "").startswith("dot")}
    assert len(shapes) == 6, "kinds differ by more than their colour"
    bars = [rect for rect in root.iter("rect")]
    assert float(bars[0].get("y", 0)) < float(bars[1].get("y", 0))
