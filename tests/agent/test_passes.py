"""A network in parts is the network; each part's weights are there for a while."""

from __future__ import annotations

import itertools

import pytest
import torch

from d3bed.agent import passes
from d3bed.agent.passes import frame_like, parts, still_needed, whole_s, whole_step
from d3bed.agent.profiler import measure
from d3bed.core.graph import Value
from d3bed.core.messages import ModelSpec
from d3bed.model import LoadedModel, compile_step, load


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    """With values that are read in several parts."""
    return load(ModelSpec("mobilenetv3"))


def test_most_networks_are_one_part(model: LoadedModel) -> None:
    assert parts(model.graph) == [whole_step(model.graph)]


def test_parts_one_after_the_other_make_what_the_whole_does(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "_PART_BYTES", 500_000)
    graph, steps = model.graph, parts(model.graph)
    assert len(steps) > 5
    assert tuple(itertools.chain(*(step.vertices for step in steps))) == whole_step(graph).vertices
    values, frame = {Value(0): frame_like(model)}, frame_like(model)
    with torch.inference_mode():
        for step in steps:
            made = compile_step(model, step)(*(values[value] for value in step.takes))
            values = still_needed(graph, values | dict(zip(step.makes, made, strict=True)), step.vertices[-1])
            assert (step is steps[-1]) or values
        assert torch.equal(made[-1], compile_step(model, whole_step(graph))(frame)[0])
    assert not values
    profile = measure(model, runs=1)
    assert len(profile.times_s) == len(graph.vertices) and all(time > 0 for time in profile.times_s[1:])
    assert whole_s((model,), 1)[0] > 0
