from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from d3bed.core.errors import ProblemError
from d3bed.core.graph import Edge, Graph, TensorSpec, Value, Vertex
from d3bed.core.ids import TIERS, Tier
from d3bed.core.measurements import LinkRate
from d3bed.plan import Problem, cost_s, link_bytes

DEVICE, EDGE, CLOUD = TIERS


def good() -> dict[str, Any]:
    """input → conv1 → conv2, every optional key used."""
    return {
        "format": "d3bed.problem/1",
        "vertices": [
            {"name": "input", "time_s": {"device": 0, "edge": 0, "cloud": 0}, "output_bytes": 1000},
            {
                "name": "conv1",
                "time_s": {"device": 0.4, "edge": 0.2, "cloud": 0.1},
                "output_bytes": 2000,
                "weight_bytes": 10,
            },
            {"name": "conv2", "time_s": {"device": 0.4, "edge": 0.2, "cloud": 0.1}, "output_bytes": 500},
        ],
        "edges": [[0, 1], [1, 2]],
        "links": {
            "device-edge": {"bytes_per_s": 1e4, "latency_s": 0.01},
            "edge-cloud": {"bytes_per_s": 1e3, "latency_s": 0.02},
            "device-cloud": {"bytes_per_s": 5e2, "latency_s": 0.03},
        },
        "result_bytes": 100,
        "current": {"conv1": "edge"},
        "migration_cost_s": 0.5,
        "allowed_tiers": {"conv1": ["device", "edge"]},
        "memory_bytes": {"edge": 100},
        "rate_per_s": 0.1,
    }


def without(*keys: str) -> dict[str, Any]:
    return {key: value for key, value in good().items() if key not in keys}


def test_everything_in_a_file_is_read_and_written_back() -> None:
    problem = Problem.parse(json.dumps(good()), "p.json")
    assert problem.names == ("input", "conv1", "conv2")
    assert problem.times_s[EDGE] == (0, 0.2, 0.2)
    assert problem.links["edge-cloud"] == LinkRate(1e3, 0.02)
    assert problem.allowed == {"conv1": (DEVICE, EDGE)}
    assert problem.current == {"conv1": EDGE}
    assert problem.weights == (0, 10, 0)
    assert problem.memory_bytes == {EDGE: 100}
    assert (problem.rate_per_s, problem.result_bytes, problem.migration_cost_s) == (0.1, 100, 0.5)
    assert Problem.parse(problem.encode()) == problem


def test_random_problems_survive_the_file_form(random_problem: Callable[..., Problem]) -> None:
    rng = random.Random(1)
    for tiers in (TIERS, (DEVICE, EDGE), (DEVICE, CLOUD), (DEVICE,)):
        for _ in range(10):
            problem = random_problem(rng, 6, tiers=tiers)
            assert Problem.parse(problem.encode()) == problem


def change(path: str, value: Any) -> str:
    """The good file with one place replaced; a path through lists and objects, `/` between."""
    raw = good()
    place: Any = raw
    *way, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    for part in way:
        place = place[part]
    place[last] = value
    return json.dumps(raw)


BAD: list[tuple[str, Any, list[str]]] = [
    ("format", "d3bed.problem/2", ["format", "d3bed.problem/1"]),
    ("colour", 1, ["colour", "unknown key"]),
    ("allowed_tires", {}, ["allowed_tires", "unknown key", "allowed_tiers"]),
    ("vertices/1/out_bytes", 1, ["vertices[1] (conv1)", "out_bytes", "output_bytes"]),
    ("vertices/1/time_s/egde", 1, ["vertices[1] (conv1)", "time_s.egde", "edge"]),
    ("vertices/1/time_s/edge", -0.1, ["vertices[1] (conv1)", "time_s.edge", "-0.1", "≥ 0"]),
    ("vertices/1/time_s/edge", float("nan"), ["vertices[1] (conv1)", "time_s.edge", "NaN"]),
    ("vertices/2/output_bytes", float("inf"), ["vertices[2] (conv2)", "output_bytes", "infinite"]),
    ("vertices/2/output_bytes", 10**400, ["vertices[2] (conv2)", "output_bytes"]),
    ("vertices/2/output_bytes", "many", ["vertices[2] (conv2)", "output_bytes", "str"]),
    ("vertices/2/output_bytes", True, ["vertices[2] (conv2)", "output_bytes", "bool"]),
    ("vertices/2/weight_bytes", -1, ["vertices[2] (conv2)", "weight_bytes"]),
    ("vertices/2/name", "conv1", ["vertices[2] (conv1)", "name", "vertices[1]"]),
    ("vertices/2/name", 7, ["vertices[2]", "name"]),
    ("vertices/2/time_s", {"device": 1, "edge": 1}, ["vertices[2] (conv2)", "time_s.cloud", "missing"]),
    ("vertices/0/time_s", {"edge": 0, "cloud": 0}, ["vertices[0] (input)", "time_s.device"]),
    ("vertices", [], ["vertices", "empty"]),
    ("vertices/1", 3, ["vertices[1]"]),
    ("edges", [[0, 1], [1, 2], [2, 1]], ["edges", "cycle", "conv1"]),
    ("edges", [[0, 1], [1, 2], [2, 0]], ["input", "predecessor", "conv2"]),
    ("edges", [[0, 2]], ["vertices[1] (conv1)", "second source"]),
    ("edges", [[0, 1], [1, 1]], ["vertices[2] (conv2)", "second source"]),
    ("edges", [[0, 1], [1, 2], [2, 2]], ["edges", "cycle"]),
    ("edges", [[0, 1], [1, 9]], ["edges[1]", "[1, 9]"]),
    ("edges", [[0, 1], [1, -1]], ["edges[1]"]),
    ("edges", [[0, 1], [1, 2, 2]], ["edges[1]"]),
    ("edges", [[0, 1], [1, 1.5]], ["edges[1]"]),
    ("links/edge-clowd", {"bytes_per_s": 1, "latency_s": 0}, ["links.edge-clowd", "edge-cloud"]),
    ("links/device-edge/bytes_per_s", 0, ["links.device-edge.bytes_per_s", "above 0"]),
    ("links/device-edge/bytes_per_s", -1, ["links.device-edge.bytes_per_s"]),
    ("links/device-edge/latency_s", float("nan"), ["links.device-edge.latency_s", "NaN"]),
    ("links/device-edge/rate", 1, ["links", "rate", "unknown key"]),
    ("links", {"device-edge": {"bytes_per_s": 1}}, ["links.edge-cloud", "missing"]),
    ("result_bytes", -1, ["result_bytes"]),
    ("current", {"conv9": "edge"}, ["current", "conv9", "conv1"]),
    ("current", {"conv1": "egde"}, ["current", "conv1", "egde", "edge"]),
    ("migration_cost_s", float("-inf"), ["migration_cost_s", "infinite"]),
    ("allowed_tiers", {"conv1": []}, ["allowed_tiers (conv1)", "empty"]),
    ("allowed_tiers", {"conv1": ["fog"]}, ["allowed_tiers (conv1)", "fog"]),
    ("allowed_tiers", {"convl": ["edge"]}, ["allowed_tiers (convl)", "conv1"]),
    ("allowed_tiers", {"input": ["cloud"]}, ["allowed_tiers (input)", "device"]),
    ("allowed_tiers", {"conv1": ["cloud"], "conv2": ["edge"]}, ["allowed_tiers (conv2)", "conv1", "cloud"]),
    ("memory_bytes", {"fog": 1}, ["memory_bytes", "fog"]),
    ("memory_bytes", {"edge": -1}, ["memory_bytes.edge"]),
    ("rate_per_s", 0, ["rate_per_s", "above 0"]),
    ("rate_per_s", float("nan"), ["rate_per_s", "NaN"]),
]


@pytest.mark.parametrize(("path", "value", "named"), BAD, ids=[f"{n}-{b[0]}" for n, b in enumerate(BAD)])
def test_a_bad_file_is_refused_with_place_and_key(path: str, value: Any, named: list[str]) -> None:
    with pytest.raises(ProblemError) as caught:
        Problem.parse(change(path, value), "p.json")
    message = str(caught.value)
    assert message.startswith("p.json: ")
    assert "\n" not in message
    for part in named:
        assert part in message


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '"x"', "[" * 100_000, '{"format": "d3bed.problem/1"}', "\ud800"]
)
def test_what_is_not_a_problem_at_all_is_refused(text: str) -> None:
    with pytest.raises(ProblemError, match=r"^p\.json: "):
        Problem.parse(text, "p.json")


def test_a_hundred_thousand_vertices_in_one_chain_are_checked_without_recursion() -> None:
    count = 100_000
    chain = tuple((v, v + 1) for v in range(count - 1))
    times_s = {DEVICE: (0.5,) * count, EDGE: (0.25,) * count}
    links = {"device-edge": LinkRate(1e6, 0.0)}
    problem = Problem(tuple(f"v{v}" for v in range(count)), times_s, (1,) * count, chain, links)
    problem.check("chain")
    assert cost_s(problem, (DEVICE,) * count) == pytest.approx(0.5 * count)
    with pytest.raises(ProblemError, match="cycle in or before v5, v6, v7, v8, v9, …"):
        replace(problem, edges=(*chain, (count - 1, 5))).check("chain")
    with pytest.raises(ProblemError, match=r"vertices\[70000\] \(v70000\): is a second source"):
        replace(problem, edges=(*chain[:69_999], *chain[70_000:])).check("chain")


def test_a_key_given_twice_is_refused() -> None:
    text = json.dumps(good()).replace('"rate_per_s": 0.1', '"rate_per_s": 0.1, "rate_per_s": 5')
    with pytest.raises(ProblemError, match="rate_per_s: is given twice"):
        Problem.parse(text, "p.json")


def test_absent_tiers_may_still_be_pinned_or_current() -> None:
    """An edge that died was in the current plan, and stays in the user's pins."""
    raw = good()
    for vertex in raw["vertices"]:
        del vertex["time_s"]["edge"]
    raw["links"] = {"device-cloud": raw["links"]["device-cloud"]}
    problem = Problem.parse(json.dumps(raw), "p.json")
    assert problem.tiers == (DEVICE, CLOUD)
    assert problem.allowed_ranks[1] == (0,)
    raw["links"]["device-edge"] = {"bytes_per_s": 1}
    with pytest.raises(ProblemError, match="leave this link out"):
        Problem.parse(json.dumps(raw), "p.json")


def test_vertices_may_stand_in_any_order() -> None:
    raw = good()
    raw["vertices"][1:] = raw["vertices"][:0:-1]
    raw["edges"] = [[2, 1], [0, 2], [0, 2]]
    problem = Problem.parse(json.dumps(raw), "p.json")
    assert problem.names == ("input", "conv2", "conv1")
    assert problem.order == (0, 2, 1)
    assert problem.edges == ((0, 2), (2, 1))


def test_cost_by_hand() -> None:
    plain = without("current", "allowed_tiers", "memory_bytes", "rate_per_s")
    plain["links"] = {name: good()["links"][name] for name in ("device-edge", "edge-cloud")}
    problem = Problem.parse(json.dumps(plain))
    up, back = 0.01 + 0.1, 0.01 + 0.01  # 1,000 and 100 bytes over device-edge
    assert cost_s(problem, (DEVICE, DEVICE, DEVICE)) == pytest.approx(0.8)
    assert cost_s(problem, (DEVICE, EDGE, EDGE)) == pytest.approx(0.4 + up + back)
    relayed = up + (0.02 + 1.0)
    assert cost_s(problem, (DEVICE, CLOUD, CLOUD)) == pytest.approx(0.2 + relayed + back + 0.12)
    onward = 0.02 + 2.0
    assert cost_s(problem, (DEVICE, EDGE, CLOUD)) == pytest.approx(0.3 + up + onward + back + 0.12)
    assert link_bytes(problem, (DEVICE, EDGE, CLOUD)) == {"device-edge": 1100, "edge-cloud": 2100}


def test_a_direct_link_is_taken_where_it_is_cheaper_in_total() -> None:
    raw = without("current", "allowed_tiers", "memory_bytes", "rate_per_s")
    raw["vertices"].append({"name": "side", "time_s": dict.fromkeys(TIERS, 0.0), "output_bytes": 0})
    raw["edges"].append([0, 3])
    raw["links"]["device-cloud"] = {"bytes_per_s": 950, "latency_s": 0.0}
    problem = Problem.parse(json.dumps(raw))
    direct = (DEVICE, CLOUD, CLOUD, CLOUD)
    assert link_bytes(problem, direct) == {"device-edge": 0, "edge-cloud": 0, "device-cloud": 1100}
    assert cost_s(problem, direct) == pytest.approx(0.2 + 1.1 / 0.95)
    # The edge needs the input too: relaying it costs 1.02 s more, and the direct link 1.05 s.
    assert link_bytes(problem, (DEVICE, CLOUD, CLOUD, EDGE)) == {
        "device-edge": 1000,
        "edge-cloud": 1000,
        "device-cloud": 100,
    }


def test_every_moved_vertex_pays_migration() -> None:
    raw = without("allowed_tiers")
    raw["current"] = {"conv1": "edge", "conv2": "cloud"}
    problem = Problem.parse(json.dumps(raw))
    still = Problem.parse(json.dumps({**raw, "current": {}}))
    tiers = (DEVICE, DEVICE, CLOUD)
    assert cost_s(problem, tiers) == pytest.approx(cost_s(still, tiers) + 0.5)


def test_data_that_flows_back_has_no_cost() -> None:
    problem = Problem.parse(json.dumps(good()))
    with pytest.raises(ValueError, match="conv1: data flows back"):
        cost_s(problem, (DEVICE, CLOUD, EDGE))


def test_a_graph_becomes_a_problem() -> None:
    photo, features = TensorSpec((1, 3, 4, 4), "uint8"), TensorSpec((1, 10), "float32")
    graph = Graph(
        "m",
        (Vertex("input", "input", (photo,)), Vertex("fc", "linear", (features,), weight_bytes=480)),
        (Edge(0, 1),),
        (Value(1),),
    )
    times = {DEVICE: [0, 0.5], EDGE: [0, 0.1]}
    links = {"device-edge": LinkRate(1e4, 0.0)}
    problem = Problem.from_graph(graph, times, links, current=(DEVICE, EDGE), migration_cost_s=0.1)
    assert problem.tiers == (DEVICE, EDGE)
    assert problem.output_bytes == (48, 40)
    assert problem.result_bytes == 40
    assert problem.weights == (0, 480)
    assert problem.current == {"input": Tier.DEVICE, "fc": Tier.EDGE}
    assert Problem.parse(problem.encode()) == problem
    with pytest.raises(ProblemError, match=r"vertices\[1\] \(fc\) time_s.edge"):
        Problem.from_graph(graph, {DEVICE: [0, 0.5], EDGE: [0, float("nan")]}, links)
    with pytest.raises(ProblemError, match="time_s.edge: has 1 vertices"):
        Problem.from_graph(graph, {DEVICE: [0, 0.5], EDGE: [0]}, links)
    with pytest.raises(ProblemError, match="links.device-edge: is missing"):
        Problem.from_graph(graph, times, {})
