from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import msgspec
import pytest

from d3bed.core.graph import Edge, Graph, TensorSpec, Value, Vertex, Window
from d3bed.plan.predictor import LEAST_SAMPLES, Predictor, Sample, Work, samples_of, works

#: Per kind: seconds per call, per FLOP, and per byte of weights.
TRUTH = {
    "conv2d 1x1": (1e-5, 2e-11, 1e-10),
    "conv2d larger": (2e-5, 1e-11, 2e-10),
    "linear": (1e-5, 0.0, 1e-10),
    "add": (5e-6, 3e-10, 0.0),
}


def chain(layers: Sequence[tuple[str, int, int]]) -> Graph:
    """A photo, then (class, width of the map, channels) one after the other."""
    vertices = [Vertex("input", "input", (TensorSpec((1, 3, 32, 32), "uint8"),))]
    for number, (group, side, channels) in enumerate(layers, start=1):
        kind, _, size = group.partition(" ")
        kernel = {"": 0, "1x1": 1, "larger": 3}[size]
        pixels = side * side * channels
        work = {"add": 1, "linear": 2 * channels}.get(kind, 2 * kernel * kernel * channels)
        weights = {"add": 0, "linear": 4 * channels * channels}.get(kind, 4 * kernel**2 * channels**2)
        shape = (1, channels, side, side)
        window = Window((kernel, kernel), (1, 1)) if kernel else None
        vertices.append(
            Vertex(
                f"{kind}{number}", kind, (TensorSpec(shape, "float32"),), (), pixels * work, weights, window
            )
        )
    edges = tuple(Edge(n, n + 1) for n in range(len(layers)))
    return Graph("made", tuple(vertices), edges, (Value(len(layers)),))


def profiled(layers: Sequence[tuple[str, int, int]]) -> tuple[Graph, tuple[float, ...]]:
    graph = chain(layers)
    times = [0.0]
    for work in works(graph)[1:]:
        per_call, per_flop, per_byte = TRUTH[work.groups[0]]
        times.append(per_call + work.flops * per_flop + work.weight_bytes * per_byte)
    return graph, tuple(times)


KNOWN = [
    sample
    for sizes in ([(32, 16), (16, 64), (8, 24)], [(64, 8), (4, 256), (20, 40)])
    for sample in samples_of(*profiled([(kind, *size) for kind in TRUTH for size in sizes]))
]


def test_a_network_of_known_kinds_is_predicted_from_other_networks() -> None:
    unseen, times_s = profiled(
        [("conv2d larger", 24, 48), ("add", 24, 48), ("conv2d 1x1", 12, 100), ("linear", 1, 500)]
    )
    predicted = Predictor.fit(KNOWN).predict(unseen)
    assert predicted == pytest.approx(times_s, rel=0.02)


def test_the_input_takes_no_time_and_all_others_some() -> None:
    graph = chain([("add", 8, 8), ("linear", 1, 10)])
    predicted = Predictor.fit(KNOWN).predict(graph)
    assert predicted[0] == 0.0 and all(time_s > 0 for time_s in predicted[1:])


def test_one_by_one_convolutions_are_told_from_larger_ones() -> None:
    predictor = Predictor.fit(KNOWN)
    small, large = (Work("conv2d", 1e8, 1e5, 1e5, 1e4, Window((side, side), (1, 1))) for side in (1, 3))
    assert predictor.seconds(small) > 1.5 * predictor.seconds(large)


def test_a_tile_pays_for_its_weights_in_full() -> None:
    predictor = Predictor.fit(KNOWN)
    whole = Work("conv2d", 4e8, 4e5, 4e5, 9e5, Window((3, 3), (1, 1)))
    quarter = msgspec.structs.replace(whole, flops=1e8, input_bytes=1e5, output_bytes=1e5)
    assert predictor.seconds(whole) / 4 < predictor.seconds(quarter) < predictor.seconds(whole)


def test_an_agent_five_times_slower_is_predicted_five_times_slower() -> None:
    graph = chain([("conv2d larger", 10, 20), ("add", 10, 20), ("linear", 1, 64)])
    slow = [Sample(s.work, 5 * s.time_s) for s in KNOWN]
    fast, slowed = Predictor.fit(KNOWN).predict(graph), Predictor.fit(slow).predict(graph)
    assert slowed == pytest.approx([5 * t for t in fast])


def test_an_unknown_kind_takes_what_kinds_alike_take_and_is_named() -> None:
    predictor = Predictor.fit(KNOWN)
    sigmoid = Work("sigmoid", 1e6, 4e6, 4e6)
    assert predictor.group(sigmoid) == "without weights"
    assert predictor.seconds(sigmoid) == pytest.approx(
        predictor.seconds(msgspec.structs.replace(sigmoid, kind="add"))
    )
    assert predictor.group(Work("gru", 1e6, 1e4, 1e4, 1e4)) == "with weights"
    graph = chain([("add", 8, 8)])
    odd = msgspec.structs.replace(graph.vertices[1], kind="sigmoid")
    assert predictor.unknown(graph) == ()
    assert predictor.unknown(Graph("odd", (graph.vertices[0], odd), graph.edges, graph.results)) == (
        "sigmoid",
    )


def test_a_class_with_few_samples_takes_its_kinds_coefficients() -> None:
    few = samples_of(*profiled([("conv2d larger", 32, 16)] * LEAST_SAMPLES + [("conv2d 1x1", 16, 16)]))
    predictor = Predictor.fit(few)
    assert predictor.group(Work("conv2d", 1e6, 1e4, 1e4, 1e4, Window((1, 1), (1, 1)))) == "conv2d"
    assert predictor.samples["conv2d larger"] == LEAST_SAMPLES


def test_depthwise_convolutions_are_a_class_of_their_own() -> None:
    assert Work("conv2d", 1, 1, 1, 1, Window((3, 3), (1, 1), groups=8)).groups[0] == "conv2d grouped"


def test_short_vertices_count_as_much_as_long_ones() -> None:
    """Fitted in absolute error, one long vertex that fits badly would ruin a hundred short ones."""
    graph, times_s = profiled([("add", side, 4) for side in range(2, 40)] + [("add", 400, 64)])
    wrong = samples_of(graph, (*times_s[:-1], 3 * times_s[-1]))
    predicted = Predictor.fit(wrong).predict(graph)
    errors = sorted(abs(p / t - 1) for p, t in zip(predicted[1:], times_s[1:], strict=True))
    assert errors[len(errors) // 2] < 0.1


def recorded() -> dict[str, tuple[Sample, ...]]:
    """Profiles of the five networks, measured once; the file says where."""
    text = (Path(__file__).parent / "recorded" / "vertex-times.json").read_text(encoding="utf-8")
    return {
        network: tuple(
            Sample(
                Work(kind, flops, read, made, weights, Window(tuple(kernel), (1, 1), groups=groups))
                if kernel
                else Work(kind, flops, read, made, weights),
                1e-6 * time_us,
            )
            for kind, flops, read, made, weights, kernel, groups, time_us in rows
        )
        for network, rows in json.loads(text)["networks"].items()
    }


def test_each_of_the_five_networks_is_predicted_from_what_the_other_four_took() -> None:
    """The targets: a median error of at most 20 % per vertex and 10 % per segment."""
    profiles = recorded()
    vertex_medians, segment_medians = {}, {}
    for network, samples in profiles.items():
        others = [sample for other, known in profiles.items() if other != network for sample in known]
        predictor = Predictor.fit(others)
        predicted = [predictor.seconds(sample.work) for sample in samples]
        measured = [sample.time_s for sample in samples]
        vertex_medians[network] = statistics.median(
            abs(p / t - 1) for p, t in zip(predicted, measured, strict=True)
        )
        segment_medians[network] = statistics.median(
            abs(sum(predicted[first:last]) / sum(measured[first:last]) - 1)
            for first, last in combinations(range(len(samples) + 1), 2)
        )
    assert len(profiles) == 5 and max(vertex_medians.values()) < 0.15
    assert statistics.median(segment_medians.values()) < 0.05
    del segment_medians["inception_v4"]  # its average pools are of a kind that no other network has
    assert max(segment_medians.values()) < 0.10


def test_it_survives_being_written_and_read() -> None:
    predictor = Predictor.fit(KNOWN)
    assert msgspec.json.decode(msgspec.json.encode(predictor), type=Predictor) == predictor


def test_nothing_to_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to fit"):
        Predictor.fit([])


def test_a_profile_of_another_graph_is_refused() -> None:
    with pytest.raises(ValueError):
        samples_of(chain([("add", 8, 8)]), (0.0, 1e-3, 1e-3))
