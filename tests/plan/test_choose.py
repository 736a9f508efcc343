from __future__ import annotations

import pytest

from d3bed.core.errors import ConfigError, PlanInfeasible
from d3bed.core.graph import Edge, Graph, TensorSpec, Value, Vertex
from d3bed.core.ids import TIERS, AgentId
from d3bed.core.measurements import LinkRate
from d3bed.core.plan import Plan
from d3bed.plan import STRATEGIES, Pin, choose, pinned

DEVICE, EDGE, CLOUD = TIERS
NAMES = ("input", "normalise", "features.0", "features.3", "classifier")
GRAPH = Graph(
    "made",
    tuple(
        Vertex(name, "conv2d" if v else "input", (TensorSpec((1000,), "uint8"),))
        for v, name in enumerate(NAMES)
    ),
    tuple(Edge(v, v + 1) for v in range(4)),
    (Value(4),),
)
PI, FAST, SLOW, VM = (AgentId(name) for name in ("pi-1", "edge-fast", "edge-slow", "vm"))
AGENTS = {PI: DEVICE, FAST: EDGE, SLOW: EDGE, VM: CLOUD}
PROFILES = {agent: (0.0, s, s, s, s) for agent, s in ((PI, 1.0), (FAST, 0.1), (SLOW, 0.2), (VM, 0.02))}


def both_ways(
    *pairs: tuple[AgentId, AgentId], bytes_per_s: float = 1e5
) -> dict[tuple[AgentId, AgentId], LinkRate]:
    rate = LinkRate(bytes_per_s, 0.001)
    return {link: rate for a, b in pairs for link in ((a, b), (b, a))}


RATES = both_ways((PI, FAST), (PI, SLOW), (FAST, VM), (SLOW, VM), bytes_per_s=1e4)


def test_the_faster_of_two_edges_is_named() -> None:
    choice = choose(GRAPH, PROFILES, AGENTS, RATES, PI, strategy="edge")
    assert choice.route == {DEVICE: PI, EDGE: FAST}
    assert choice.plan == Plan((DEVICE, EDGE, EDGE, EDGE, EDGE))
    assert choice.solution.cost_s == pytest.approx(0.4 + 2 * 0.101)


def test_a_slower_edge_on_a_faster_link_may_cost_less() -> None:
    rates = RATES | both_ways((PI, SLOW), bytes_per_s=1e6) | both_ways((PI, FAST), bytes_per_s=1e3)
    choice = choose(GRAPH, PROFILES, AGENTS, rates, PI, strategy="edge")
    assert choice.route[EDGE] == SLOW


def test_equal_edges_are_told_apart_by_name() -> None:
    profiles = {**PROFILES, SLOW: PROFILES[FAST]}
    assert choose(GRAPH, profiles, AGENTS, RATES, PI, strategy="edge").route[EDGE] == FAST
    renamed = {AgentId("a-edge"): EDGE, FAST: EDGE, PI: DEVICE}
    rates = both_ways((PI, FAST), (PI, AgentId("a-edge")))
    profiles = {PI: PROFILES[PI], FAST: PROFILES[FAST], AgentId("a-edge"): PROFILES[FAST]}
    assert choose(GRAPH, profiles, renamed, rates, PI).route[EDGE] == "a-edge"


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_values_go_past_the_edge_where_that_is_cheaper(strategy: str) -> None:
    """The device's link to the cloud is fast upward and slow back: only what goes up takes it."""
    agents = {agent: tier for agent, tier in AGENTS.items() if agent != SLOW}
    up = {(PI, VM): LinkRate(1e6, 0.0005), (VM, PI): LinkRate(1e2, 0.0005)}
    allowed = [Pin("classifier", (CLOUD,))] if strategy not in ("device", "edge") else []
    choice = choose(GRAPH, PROFILES, agents, RATES | up, PI, strategy=strategy, pins=allowed)
    goes_up = {
        Value(edge.producer)
        for edge in GRAPH.edges
        if (choice.plan.tiers[edge.producer], choice.plan.tiers[edge.consumer]) == (DEVICE, CLOUD)
    }
    assert set(choice.plan.direct) == goes_up
    relayed = choose(GRAPH, PROFILES, agents, RATES, PI, strategy=strategy, pins=allowed)
    assert relayed.plan.direct == ()
    if strategy == "cloud":
        saved_s = 2 * (0.001 + 1000 / 1e4) - (0.0005 + 1000 / 1e6)
        assert relayed.timeline.latency_s - choice.timeline.latency_s == pytest.approx(saved_s)


def test_the_relaying_edge_is_on_the_route() -> None:
    profiles = {**PROFILES, FAST: (0.0, 9.0, 9.0, 9.0, 9.0), SLOW: (0.0, 9.0, 9.0, 9.0, 9.0)}
    choice = choose(GRAPH, profiles, AGENTS, RATES, PI)
    assert choice.plan.tiers[1:] == (CLOUD,) * 4
    assert choice.route == {DEVICE: PI, EDGE: FAST, CLOUD: VM}
    assert choice.timeline.latency_s == pytest.approx(4 * 0.02 + 4 * 0.101)


def test_agents_without_a_measured_link_or_profile_do_not_take_part() -> None:
    one_way = {link: rate for link, rate in RATES.items() if link != (FAST, PI)}
    assert choose(GRAPH, PROFILES, AGENTS, one_way, PI, strategy="edge").route[EDGE] == SLOW
    unknown = {agent: times for agent, times in PROFILES.items() if agent != FAST}
    assert choose(GRAPH, unknown, AGENTS, RATES, PI, strategy="edge").route[EDGE] == SLOW


def test_an_edge_without_a_cloud_behind_it_can_still_win() -> None:
    rates = both_ways((PI, FAST)) | both_ways((PI, SLOW), (SLOW, VM), bytes_per_s=100)
    choice = choose(GRAPH, PROFILES, AGENTS, rates, PI)
    assert choice.route == {DEVICE: PI, EDGE: FAST}


def test_without_edges_the_cloud_is_reached_directly() -> None:
    agents = {PI: DEVICE, VM: CLOUD}
    choice = choose(GRAPH, PROFILES, agents, both_ways((PI, VM)), PI)
    assert choice.route == {DEVICE: PI, CLOUD: VM}
    assert choice.solution.link_bytes == {"device-cloud": 2000}
    assert choice.timeline.latency_s == pytest.approx(4 * 0.02 + 2 * 0.011)


def test_a_device_alone_runs_everything() -> None:
    choice = choose(GRAPH, PROFILES, AGENTS, {}, PI)
    assert choice.route == {DEVICE: PI}
    assert choice.plan.tiers == (DEVICE,) * 5
    with pytest.raises(PlanInfeasible, match="there is no edge here"):
        choose(GRAPH, PROFILES, AGENTS, {}, PI, strategy="edge")
    with pytest.raises(PlanInfeasible, match="pi-1 has no profile"):
        choose(GRAPH, {}, AGENTS, {}, PI)


def test_pins_become_allowed_tiers() -> None:
    pins = [Pin("normalise", (DEVICE,)), Pin("features.*", (DEVICE, EDGE))]
    assert pinned(GRAPH, pins) == {
        "normalise": (DEVICE,),
        "features.0": (DEVICE, EDGE),
        "features.3": (DEVICE, EDGE),
    }
    choice = choose(GRAPH, PROFILES, AGENTS, RATES, PI, strategy="cloud", pins=pins)
    assert choice.plan.tiers == (DEVICE, DEVICE, EDGE, EDGE, CLOUD)


def test_pins_on_one_vertex_add_up() -> None:
    pins = [Pin("*.0", (DEVICE, EDGE)), Pin("features.*", (EDGE, CLOUD))]
    assert pinned(GRAPH, pins)["features.0"] == (EDGE,)
    with pytest.raises(ConfigError, match="leaves features.0 no tier"):
        pinned(GRAPH, [*pins, Pin("features.0", (CLOUD,))])
    with pytest.raises(ConfigError, match="the input stays on the device"):
        pinned(GRAPH, [Pin("*", (CLOUD,))])


def test_a_pin_that_matches_nothing_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no vertex of made matches.*did you mean classifier"):
        choose(GRAPH, PROFILES, AGENTS, RATES, PI, pins=[Pin("clasifier", (EDGE,))])


def test_pins_that_contradict_the_order_of_layers_are_refused() -> None:
    pins = [Pin("normalise", (CLOUD,)), Pin("classifier", (EDGE,))]
    with pytest.raises(ConfigError, match="data would flow back"):
        choose(GRAPH, PROFILES, AGENTS, RATES, PI, pins=pins)


def test_a_pin_to_a_tier_that_nobody_serves_leaves_no_plan() -> None:
    with pytest.raises(PlanInfeasible, match="cloud: classifier is pinned to it"):
        choose(GRAPH, PROFILES, AGENTS, both_ways((PI, FAST)), PI, pins=[Pin("classifier", (CLOUD,))])


def test_the_current_plan_is_kept_where_moving_costs_more_than_it_gains() -> None:
    current = choose(GRAPH, PROFILES, AGENTS, RATES, PI, strategy="device")
    free = choose(GRAPH, PROFILES, AGENTS, RATES, PI, current=current)
    assert free.plan != current.plan
    dear = choose(GRAPH, PROFILES, AGENTS, RATES, PI, current=current, migration_cost_s=10)
    assert dear.plan == current.plan


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(ConfigError, match="hpa2"):
        choose(GRAPH, PROFILES, AGENTS, RATES, PI, strategy="hpa2")


def test_staying_is_judged_under_the_same_conditions() -> None:
    first = choose(GRAPH, PROFILES, AGENTS, RATES, PI, strategy="edge")
    loaded = {**PROFILES, FAST: (0.0, 1.0, 1.0, 1.0, 1.0)}
    again = choose(GRAPH, loaded, AGENTS, RATES, PI, strategy="edge", current=first)
    assert again.route[EDGE] == SLOW
    assert again.kept_s == pytest.approx(4.0 + 2 * 0.101)
    assert again.kept_s is not None and again.timeline.latency_s < again.kept_s


def test_staying_is_no_choice_without_an_agent_of_the_route() -> None:
    first = choose(GRAPH, PROFILES, AGENTS, RATES, PI, strategy="edge")
    left = {agent: times for agent, times in PROFILES.items() if agent != FAST}
    again = choose(GRAPH, left, AGENTS, RATES, PI, current=first)
    assert again.kept_s is None


def test_hpa_adjusts_the_plan_in_force_and_says_what_it_looked_at() -> None:
    agents = {PI: DEVICE, FAST: EDGE, VM: CLOUD}
    first = choose(GRAPH, PROFILES, agents, RATES, PI, strategy="hpa")
    assert first.adjustment is None
    same = choose(GRAPH, PROFILES, agents, RATES, PI, strategy="hpa", current=first)
    assert same.plan == first.plan
    assert same.adjustment is not None and same.adjustment.examined == 0
    loaded = {**PROFILES, FAST: (0.0, 5.0, 5.0, 5.0, 5.0), VM: (0.0, 5.0, 5.0, 5.0, 5.0)}
    moved = choose(GRAPH, loaded, agents, RATES, PI, strategy="hpa", current=first)
    assert moved.plan == choose(GRAPH, loaded, agents, RATES, PI).plan != first.plan
    assert moved.adjustment is not None and moved.adjustment.examined > 0
