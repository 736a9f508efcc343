from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from d3bed.core.errors import PlanInfeasible
from d3bed.core.graph import Edge, Graph, TensorSpec, Value, Vertex
from d3bed.core.ids import TIERS, Tier
from d3bed.core.measurements import LinkRate
from d3bed.core.plan import Plan
from d3bed.core.program import STAND_INS
from d3bed.plan import StageSpan, Timeline
from d3bed.plan import timeline as played

DEVICE, EDGE, CLOUD = TIERS


def timeline(
    graph: Graph,
    plan: Plan,
    times_s: Mapping[Tier, Sequence[float]],
    links: Mapping[tuple[Tier, Tier], LinkRate],
    tiers: tuple[Tier, ...] = TIERS,
) -> Timeline:
    """With agents named after their tiers."""
    return played(
        graph,
        plan,
        {tier: STAND_INS[tier] for tier in tiers},
        {STAND_INS[tier]: numbers for tier, numbers in times_s.items()},
        {(STAND_INS[a], STAND_INS[b]): rate for (a, b), rate in links.items()},
    )


def graph(names: str, edges: list[tuple[int, int]], sizes: list[int], results: tuple[int, ...]) -> Graph:
    vertices = tuple(
        Vertex(name, "conv2d" if v else "input", (TensorSpec((size,), "uint8"),))
        for v, (name, size) in enumerate(zip(names.split(), sizes, strict=True))
    )
    made = Graph("made", vertices, tuple(Edge(a, b) for a, b in edges), tuple(Value(v) for v in results))
    made.check()
    return made


CHAIN = graph("input a b c", [(0, 1), (1, 2), (2, 3)], [100, 200, 300, 10], (3,))
TIMES = {DEVICE: (0, 4.0, 4.0, 4.0), EDGE: (0, 2.0, 2.0, 2.0), CLOUD: (0, 1.0, 1.0, 1.0)}
#: 100 bytes/s up to the edge, 50 on to the cloud; the way back is slower and has its own latency.
LINKS = {
    (DEVICE, EDGE): LinkRate(100, 0.5),
    (EDGE, CLOUD): LinkRate(50, 0.25),
    (CLOUD, EDGE): LinkRate(10, 0.1),
    (EDGE, DEVICE): LinkRate(20, 0.2),
}


def test_one_tier_takes_its_times() -> None:
    seen = timeline(CHAIN, Plan((DEVICE,) * 4), TIMES, {})
    assert seen.latency_s == pytest.approx(12)
    assert seen.spans == (StageSpan("device", 0.0, 12.0, "a … c"),)
    assert seen.compute_s == {DEVICE: 12, EDGE: 0, CLOUD: 0}
    assert seen.busiest == "device"
    assert seen.frames_per_s == pytest.approx(1 / 12)


def test_a_chain_crosses_relays_and_comes_back() -> None:
    seen = timeline(CHAIN, Plan((DEVICE, DEVICE, EDGE, CLOUD)), TIMES, LINKS)
    a = 4.0
    b = a + 200 / 100 + 0.5 + 2.0
    c = b + 300 / 50 + 0.25 + 1.0
    back = c + 10 / 10 + 0.1 + 10 / 20 + 0.2
    assert seen.latency_s == pytest.approx(back)
    assert seen.busy_s["edge→cloud"] == pytest.approx(6)
    assert seen.busiest == "edge→cloud"
    assert [span.stage for span in seen.spans] == [
        "device",
        "device→edge",
        "edge",
        "edge→cloud",
        "cloud",
        "cloud→edge",
        "edge→device",
    ]


def test_a_tensor_for_the_cloud_alone_is_stored_and_forwarded_by_the_edge() -> None:
    seen = timeline(CHAIN, Plan((DEVICE, CLOUD, CLOUD, CLOUD)), TIMES, LINKS)
    there = 100 / 100 + 0.5 + 100 / 50 + 0.25
    assert seen.latency_s == pytest.approx(there + 3.0 + 10 / 10 + 0.1 + 10 / 20 + 0.2)
    relayed = next(span for span in seen.spans if span.stage == "edge→cloud")
    assert relayed.label == "input"
    assert relayed.start_s == pytest.approx(1.5)


def test_without_an_edge_agent_the_cloud_is_next() -> None:
    links = {(DEVICE, CLOUD): LinkRate(10, 0.5), (CLOUD, DEVICE): LinkRate(10, 0.5)}
    times = {tier: TIMES[tier] for tier in (DEVICE, CLOUD)}
    seen = timeline(CHAIN, Plan((DEVICE, CLOUD, CLOUD, CLOUD)), times, links, (DEVICE, CLOUD))
    assert seen.latency_s == pytest.approx(10.5 + 3.0 + 1.5)
    assert set(seen.compute_s) == {DEVICE, CLOUD}


#: Two branches from the input, joined at the end.
FORK = graph("input left right join", [(0, 1), (0, 2), (1, 3), (2, 3)], [100, 100, 100, 10], (3,))


def test_tiers_and_links_work_at_the_same_time() -> None:
    """The device computes `left` while the input travels and the edge computes `right`."""
    seen = timeline(FORK, Plan((DEVICE, DEVICE, EDGE, EDGE)), TIMES, LINKS)
    right = 100 / 100 + 0.5 + 2.0
    left = 4.0 + 100 / 100 + 0.5
    assert right < left
    assert seen.latency_s == pytest.approx(left + 2.0 + 10 / 20 + 0.2)
    assert seen.latency_s < sum(seen.busy_s.values())


def test_a_link_sends_one_after_the_other_but_latency_holds_nobody_up() -> None:
    fan = graph("input a b join", [(0, 1), (0, 2), (1, 3), (2, 3)], [1, 200, 200, 10], (3,))
    times = {DEVICE: (0, 1.0, 1.0, 0), EDGE: (0, 0, 0, 1.0)}
    links = {**LINKS, (DEVICE, EDGE): LinkRate(100, 10.0)}
    seen = timeline(fan, Plan((DEVICE, DEVICE, DEVICE, EDGE)), times, links)
    sent = [(span.start_s, span.end_s) for span in seen.spans if span.stage == "device→edge"]
    assert sent == [(1.0, 3.0), (3.0, 5.0)]
    assert seen.latency_s == pytest.approx(5.0 + 10.0 + 1.0 + 0.7)


def test_a_ready_step_does_not_wait_for_an_earlier_one() -> None:
    """In the cloud `early` is first in the program, but its large tensor comes last, over two links."""
    edges = [(0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 5)]
    case = graph("input big small early late join", edges, [1, 5000, 10, 1, 1, 1], (5,))
    times = {DEVICE: (0, 3.0, 0, 0, 0, 0), EDGE: (0, 0, 1.0, 0, 0, 0), CLOUD: (0, 0, 0, 1.0, 1.0, 1.0)}
    links = {link: LinkRate(1000, 0.0) for link in LINKS}
    seen = timeline(case, Plan((DEVICE, DEVICE, EDGE, CLOUD, CLOUD, CLOUD)), times, links)
    cloud = {span.label: span.start_s for span in seen.spans if span.stage == "cloud"}
    assert cloud["late"] == pytest.approx(0.001 + 1.0 + 0.01)
    assert cloud["early"] == pytest.approx(3.0 + 5.0 + 5.0)
    assert cloud["join"] == pytest.approx(14.0)


def test_a_result_made_early_still_has_to_come_back() -> None:
    two = graph("input head tail", [(0, 1), (1, 2)], [1, 1000, 10], (1, 2))
    times = {DEVICE: (0, 0, 0), EDGE: (0, 1.0, 1.0)}
    links = {(DEVICE, EDGE): LinkRate(1000, 0.0), (EDGE, DEVICE): LinkRate(100, 0.0)}
    seen = timeline(two, Plan((DEVICE, EDGE, EDGE)), times, links)
    assert seen.latency_s == pytest.approx(0.001 + 1.0 + 10.0 + 0.1)


def test_a_plan_without_numbers_for_its_way_is_refused() -> None:
    plan = Plan((DEVICE, EDGE, EDGE, EDGE))
    with pytest.raises(PlanInfeasible, match="device→edge"):
        timeline(CHAIN, plan, TIMES, {})
    with pytest.raises(PlanInfeasible, match="edge"):
        timeline(CHAIN, plan, {Tier.DEVICE: TIMES[DEVICE]}, LINKS)
