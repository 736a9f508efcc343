"""Plots: round ticks, points in their place, and text that any XML parser takes."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from d3bed.lab.plots import Plot, bars, clock, ticks


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [
        (0, 10, 5, [0, 2, 4, 6, 8, 10]),
        (0, 0.35, 5, [0, 0.1, 0.2, 0.3]),
        (3, 61, 4, [20, 40, 60]),
        (0, 1050, 5, [0, 500, 1000]),
        (2, 2, 5, [2]),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, most: int, expected: list[float]) -> None:
    assert ticks(low, high, most) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (4.25, "4.2 s"), (59, "59 s"), (125, "2:05"), (3725, "1:02:05")]
)
def test_clock_says_minutes_once_there_are_some(seconds: float, words: str) -> None:
    assert clock(seconds) == words


def test_points_stand_where_the_axes_say_and_what_is_outside_at_the_edge() -> None:
    plot = Plot("latency", (0.0, 10.0), 100.0, "ms", 200)
    assert plot.x(0) < plot.x(5) < plot.x(10) == plot.x(11)
    assert plot.y(0) > plot.y(50) > plot.y(100) == plot.y(1000)
    assert plot.x(5) == pytest.approx((plot.x(0) + plot.x(10)) / 2)


def test_plot_is_well_formed_whatever_its_words_are() -> None:
    plot = Plot('a < b & "c"', (0.0, 0.0), 0.0, "ms <", 200)
    plot.dots([(0.0, 1.0)], "frame")
    plot.line([(0.0, 1.0)], "median")
    plot.line([(0.0, 1.0), (1.0, 2.0)], "median", "more > less")
    plot.band([(0.0, 1.0, 2.0), (1.0, 1.0, 2.0)], "frame")
    plot.stack(0.0, 1.0, [("device", 0.2), ("edge", 0.0), ("rest", 0.3)], "<b>", 0.5)
    plot.mark(0.5, "switch", "why & how", "e<2>")
    tree = ElementTree.fromstring(plot.svg)
    assert tree.attrib["aria-label"] == 'a < b & "c"'
    assert [e.attrib["class"] for e in tree.iter("rect")] == ["paint-device", "paint-rest"]
    assert "why & how" in [e.text for e in tree.iter("title")]


def test_bars_are_in_proportion() -> None:
    tree = ElementTree.fromstring(
        bars("bytes", [("a → b", 200.0, "200 B", "rest"), ("<c>", 50.0, "50 B", "edge")])
    )
    long, short = (float(e.attrib["width"]) for e in tree.iter("rect"))
    assert long == pytest.approx(4 * short, rel=0.01)
    ElementTree.fromstring(bars("bytes", []))
