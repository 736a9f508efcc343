"""The grid from profiles alone, on made graphs."""

from __future__ import annotations

import msgspec
import pytest

from d3bed.bench.compare.grid import Row
from d3bed.bench.compare.predict import predicted, predicted_json, published
from d3bed.core.ids import Tier
from d3bed.plan import Problem, solve
from d3bed.plan.placements import as_published
from tests.bench.compare.made import case


@pytest.mark.parametrize("mbit", [1.0, 10.0, 300.0])
def test_ours_are_never_predicted_to_be_slower_than_rivals_or_single_tiers(mbit: float) -> None:
    rows = {row.way.name: row for row in predicted(case(mbit=mbit, streams=True))}
    latency = {name: row.single.latency_s for name, row in rows.items() if row.single}
    rate = {name: row.stream.sustained_per_s for name, row in rows.items() if row.stream}
    others = ("device", "edge", "cloud", "neurosurgeon", "dads")
    # Costs add up what the timeline overlaps: a plan of equal cost may be a little slower there.
    assert latency["optimal"] <= 1.02 * min(latency[name] for name in others)
    assert rate["optimal"] >= max(rate[name] for name in others) * (1 - 1e-9)
    assert rate["hpa"] == rate["optimal"], "above what a plan sustains both take the fastest mix"
    assert latency["dads*"] >= latency["dads"] and latency["neurosurgeon*"] >= latency["neurosurgeon"]
    for row in rows.values():
        assert row.single is not None and row.single.median_s is None
        assert row.single.backbone_bytes == sum(b for k, b in row.single.link_bytes.items() if "cloud" in k)


def test_the_input_as_published_is_that_of_the_planner() -> None:
    of = case()
    times_s = {
        tier: tuple(t / speed for t in of.times_s) for tier, speed in ((Tier.DEVICE, 0.1), (Tier.CLOUD, 1))
    }
    links = {"device-cloud": of.rates["edge-cloud"]}
    ours = Problem.from_graph(of.graph, times_s, links)
    theirs = Problem.from_graph(published(of.graph), times_s, links)
    assert theirs.output_bytes == as_published(ours).output_bytes
    assert solve(theirs, "dads").cost_s == solve(as_published(ours), "dads").cost_s


def test_a_tier_that_is_absent_is_a_row_that_says_so() -> None:
    of = case()
    alone = msgspec.structs.replace(of, agents={of.device: Tier.DEVICE}, speeds={of.device: 0.1})
    rows = {row.way.name: row for row in predicted(alone)}
    assert "edge" in rows["edge"].refused and rows["edge"].single is None
    assert rows["device"].single is not None and not rows["device"].refused


def test_cases_and_rows_survive_the_way_to_another_process() -> None:
    of = case()
    made = predicted_json(msgspec.json.encode(of))
    times = [
        [row.single and row.single.predicted_s for row in rows]
        for rows in (predicted(of), msgspec.json.decode(made, type=list[Row]))
    ]
    assert times[0] == times[1]
