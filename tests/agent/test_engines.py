"""Which engine an agent uses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from d3bed.agent import engines
from d3bed.agent.engines import chosen
from d3bed.agent.profiler import measure
from d3bed.core.errors import ModelError
from d3bed.core.messages import ModelSpec
from d3bed.core.models import AUTO, ONNX, TORCH
from d3bed.model import LoadedModel, load, sessions


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load(ModelSpec("mobilenetv3"))


def test_auto_is_the_faster_one_and_remembered(
    model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MobileNet takes a third of the time with ONNX Runtime."""
    assert chosen(model, AUTO, tmp_path).engine == ONNX
    monkeypatch.setattr(engines, "whole_s", lambda *_: pytest.fail("it was measured before"))
    assert chosen(model, AUTO, tmp_path).engine == ONNX
    (kept,) = tmp_path.glob("engine-*.json")
    kept.write_text(kept.read_text().replace('"fastest": "onnx"', '"fastest": "torch"'))
    assert chosen(model, AUTO, tmp_path).engine == TORCH


def test_what_was_kept_of_other_versions_counts_for_nothing(
    model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen(model, AUTO, tmp_path)
    (kept,) = tmp_path.glob("engine-*.json")
    kept.write_text(kept.read_text().replace("onnxruntime ", "onnxruntime 0."))
    monkeypatch.setattr(engines, "whole_s", lambda *_: [1.0, 2.0])
    assert chosen(model, AUTO, tmp_path).engine == TORCH


def test_without_the_extra_onnx_is_refused_with_the_remedy_and_auto_is_torch(
    model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "available", lambda: False)
    assert chosen(model, AUTO, tmp_path) is model
    with pytest.raises(ModelError, match=r"pip install 'd3bed\[onnx\]'"):
        chosen(model, ONNX, tmp_path)


def test_a_profile_by_onnx_adds_up_to_the_whole_networks_time(model: LoadedModel) -> None:
    with_onnx = dataclasses.replace(model, engine=ONNX)
    slow = measure(model, runs=3)
    while sum((fast := measure(with_onnx, runs=3)).times_s) >= sum(slow.times_s):  # on a busy machine
        pass
    assert sum(fast.times_s) > 0
    assert all(0 <= fixed <= time for fixed, time in zip(fast.fixed_s, fast.times_s, strict=True))
