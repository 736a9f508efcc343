"""Plans for a stream of frames: what keeps up, what does when nothing does, and when to leave a plan."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable

import msgspec
import pytest

from d3bed.core.graph import Edge, Graph, TensorSpec, Value, Vertex
from d3bed.core.ids import TIERS, AgentId
from d3bed.core.measurements import LinkRate
from d3bed.plan import STRATEGIES, Choice, Objective, Problem, Solution, choose, solve

DEVICE, EDGE, CLOUD = TIERS
PI, BOX, VM = AgentId("pi-1"), AgentId("edge-1"), AgentId("vm")
AGENTS = {PI: DEVICE, BOX: EDGE, VM: CLOUD}
GRAPH = Graph(
    "made",
    tuple(Vertex(f"v{v}", "conv2d" if v else "input", (TensorSpec((1000,), "uint8"),)) for v in range(9)),
    tuple(Edge(v, v + 1) for v in range(8)),
    (Value(8),),
)
#: 0.8 s on the device, 0.4 s on the edge, 0.24 s in the cloud; a crossing takes 10 ms.
PROFILES = {agent: (0.0,) + (s,) * 8 for agent, s in ((PI, 0.1), (BOX, 0.05), (VM, 0.03))}
RATES = {link: LinkRate(1e5, 0.001) for a, b in ((PI, BOX), (BOX, VM)) for link in ((a, b), (b, a))}


def at_rate(rate_per_s: float | None, strategy: str = "optimal", current: Choice | None = None) -> Choice:
    return choose(
        GRAPH, PROFILES, AGENTS, RATES, PI, strategy=strategy, current=current, rate_per_s=rate_per_s
    )


def test_a_rate_that_the_best_plan_sustains_changes_nothing() -> None:
    alone, slow = at_rate(None), at_rate(2.0)
    assert slow.plan == alone.plan
    assert slow.latency_s == pytest.approx(alone.latency_s)
    assert alone.frames_per_s == pytest.approx(1 / 0.24)


@pytest.mark.parametrize("strategy", ["optimal", "hpa"])
def test_where_a_single_tier_cannot_keep_up_the_tiers_share_every_frame(strategy: str) -> None:
    choice = at_rate(5.0, strategy)
    assert not choice.mix
    assert choice.frames_per_s >= 5.0
    assert len(set(choice.plan.tiers)) > 1
    assert choice.latency_s > at_rate(None).latency_s


def test_above_what_one_plan_sustains_frames_take_several_plans() -> None:
    one, many = at_rate(5.0), at_rate(100.0)
    assert len(many.mix) > 1
    assert sum(v.share for v in many.mix) == pytest.approx(1.0)
    assert many.plan == many.mix[0].plan and many.mix[0].share == max(v.share for v in many.mix)
    assert many.frames_per_s > one.frames_per_s
    # All three tiers at once cannot do more than their speeds add up to.
    assert many.frames_per_s <= (1 / 0.8 + 1 / 0.4 + 1 / 0.24) * (1 + 1e-9)
    assert {CLOUD, EDGE, DEVICE} == set(many.route)


@pytest.mark.parametrize("strategy", ["neurosurgeon", "cloud", "layers", "hpa-greedy"])
def test_strategies_without_mixes_drop_frames_rather_than_plan_nothing(strategy: str) -> None:
    choice = at_rate(100.0, strategy)
    assert not choice.mix and choice.plan.tiers


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_above_what_any_mix_could_sustain_nothing_is_planned_twice_and_the_plan_is_the_same(
    strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float | None] = []

    def noted(problem: Problem, name: str, objective: Objective = "latency") -> Solution:
        rates.append(problem.rate_per_s)
        return solve(problem, name, objective)

    module = importlib.import_module("d3bed.plan.choose")
    monkeypatch.setattr(module, "solve", noted)
    quick = at_rate(100.0, strategy)
    assert rates == [None]
    monkeypatch.setattr(module, "most_per_s", lambda problem: math.inf)
    slow = at_rate(100.0, strategy)
    assert len(rates) == 3, "planned for the rate in vain, then without"
    assert (quick.plan, quick.mix, quick.latency_s) == (slow.plan, slow.mix, slow.latency_s)


def test_a_plan_that_cannot_keep_up_is_left_whatever_the_latency() -> None:
    alone = at_rate(None)
    faster = at_rate(5.0, current=alone)
    assert faster.outrun and faster.kept_s == pytest.approx(alone.latency_s)
    again = at_rate(5.0, current=faster)
    assert not again.outrun and again.kept_s == pytest.approx(faster.latency_s)


def test_staying_with_a_mix_is_judged_as_a_mix() -> None:
    mixed = at_rate(100.0)
    again = at_rate(100.0, current=mixed)
    assert again.kept_s == pytest.approx(mixed.latency_s)


def test_depth_fills_every_stage() -> None:
    assert at_rate(None).depth == 1 + math.ceil(at_rate(None).latency_s * at_rate(None).frames_per_s)
    assert at_rate(5.0).depth >= 3


@pytest.mark.parametrize("rival", ["dads", "neurosurgeon"])
def test_a_rival_that_cannot_keep_up_takes_its_fastest_plan_and_not_the_one_for_a_frame(rival: str) -> None:
    alone, overrun = at_rate(None, rival), at_rate(100.0, rival)
    assert overrun.frames_per_s > 1.2 * alone.frames_per_s
    # Edge and cloud share the frame: 8 vertices in 8 steps, the slower tier at 50 ms, the faster at 30.
    assert overrun.frames_per_s == pytest.approx(1 / 0.15)
    assert not overrun.mix


def test_edge_agents_that_are_alike_are_planned_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    twins = [AgentId(f"edge-{n}") for n in range(1, 5)]
    agents = {PI: DEVICE, VM: CLOUD} | dict.fromkeys(twins, EDGE)
    profiles = {a: PROFILES[PI if a == PI else VM if a == VM else BOX] for a in agents}
    rates = {link: LinkRate(1e5, 0.001) for t in twins for e in (PI, VM) for link in ((t, e), (e, t))}
    module = importlib.import_module("d3bed.plan.choose")
    asked: list[str] = []
    solved: Callable[[Problem, str], Solution] = module.solve

    def solve(problem: Problem, strategy: str) -> Solution:
        asked.append(strategy)
        return solved(problem, strategy)

    monkeypatch.setattr(module, "solve", solve)
    found = choose(GRAPH, profiles, agents, rates, PI, strategy="edge")
    assert asked == ["edge"] and found.route[EDGE] == "edge-1"
    in_force = msgspec.structs.replace(found, agents=found.agents | {EDGE: twins[2], CLOUD: VM})
    asked.clear()
    choose(GRAPH, profiles, agents, rates, PI, strategy="edge", current=in_force)
    assert len(asked) == 2, "the route in force is looked at even where another is like it"
