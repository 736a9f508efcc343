"""How it grows, on made graphs: what is varied, and where plans change."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from d3bed.bench.compare import scale_report
from d3bed.bench.compare.scale import (
    SIZES,
    SWEEPS,
    Piece,
    Point,
    Scale,
    Timing,
    crossings,
    done_json,
    pieces,
    read_done,
)
from d3bed.core.ids import Tier
from tests.bench.compare.made import MACHINE, case


@pytest.fixture(scope="module")
def work() -> list[Piece]:
    return pieces([case(edges=2, size=20)], [case(edges=4, size=20)])


def of(work: list[Piece], sweep: str) -> list[Piece]:
    return [piece for piece in work if piece.sweep == sweep]


def test_each_sweep_varies_one_thing(work: list[Piece]) -> None:
    assert {piece.sweep for piece in work} == {*SWEEPS, "size"}
    assert [piece.x for piece in of(work, "size")] == list(SIZES)
    counts = [
        sum(t is Tier.EDGE for t in piece.case.agents.values()) for piece in of(work, "edges") if piece.case
    ]
    assert counts == [1, 2, 3, 4]
    rates = [piece.x for piece in of(work, "backbone")]
    assert [rates[0], rates[-1]] == pytest.approx([0.5, 1000.0])
    last = of(work, "backbone")[-1].case
    assert last is not None and last.rates["edge-cloud"].bytes_per_s == pytest.approx(1.25e8)
    assert last.rates["device-edge"].bytes_per_s == pytest.approx(10e6 / 8)
    eight = of(work, "devices")[-1].case
    assert eight is not None and eight.speeds["vm"] == pytest.approx(1 / 8)  # type: ignore[index]
    assert eight.speeds["pi-1"] == pytest.approx(1 / 12)  # type: ignore[index]


def test_points_go_to_another_process_and_come_back_into_a_page(work: list[Piece], tmp_path: Path) -> None:
    chosen = [of(work, "edges")[1], *of(work, "backbone")[::8], of(work, "devices")[1], of(work, "rate")[2]]
    points = [point for piece in chosen for point in read_done(done_json(msgspec.json.encode(piece)))[0]]
    assert {point.way for point in points if point.sweep == "edges"} >= {"dads", "optimal+vsm"}
    two = [point for point in points if point.sweep == "devices"]
    assert all(point.per_s is not None for point in two)
    found = crossings(points)
    assert found and all(c.sweep == "backbone" and c.low < c.high for c in found)
    assert any(c.way == "optimal" for c in found), "from 0.5 to 1,000 Mbit/s the best plan changes"
    scale = Scale(
        network="wifi",
        edges=2,
        machine=MACHINE,
        points=tuple(points),
        timings=(Timing(vertices=100, edges=120, strategy="hpa", plan_s=0.001),),
        crossings=tuple(found),
        taken_s=1.0,
    )
    scale_report.write(tmp_path, scale)
    assert msgspec.json.decode((tmp_path / "scale.json").read_bytes(), type=Scale) == scale
    page = (tmp_path / "scale.html").read_text()
    assert page.count('<svg class="plot"') == 5 and "<script" not in page


def test_plans_change_where_tiers_do_and_not_where_tiles_do() -> None:
    plans = [
        "edge [1-9]",
        "edge [1-9]\ntiles 0.0 [1-3]",
        "edge [1-9]\ntiles 0.0 [1-5]",
        "edge [1-8]\ncloud [9]",
    ]
    points = [
        Point(sweep="rate", model="made", x=x, way="optimal+vsm", plan=plan)
        for x, plan in enumerate(plans, 1)
    ]
    assert [(c.sweep, c.low, c.high) for c in crossings(points[::-1])] == [("rate", 3, 4)]


def test_planning_is_timed_for_every_strategy() -> None:
    points, timings = read_done(done_json(msgspec.json.encode(Piece(sweep="size", model="made", x=60))))
    assert not points
    assert [t.strategy for t in timings] == ["optimal", "hpa", "layers", "neurosurgeon", "dads"]
    assert all(t.vertices == 60 and 0 < t.plan_s < 10 for t in timings)
