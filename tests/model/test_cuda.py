"""What runs on a CUDA device, as far as a machine without one can tell: that everything goes there and comes
back. The processor stands for it, and torch's device without numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

from d3bed.agent.engines import chosen
from d3bed.core.errors import ModelError
from d3bed.core.graph import Value
from d3bed.core.messages import ModelSpec
from d3bed.core.models import AUTO, CLOSE, CUDA, ONNX, TORCH
from d3bed.core.program import Step
from d3bed.model import LoadedModel, compile_step, cuda, fingerprint, load, prepare_tiles, sessions
from d3bed.model.calls import as_function
from tests.model.test_sessions import tiles_of

Loaded = Callable[..., LoadedModel]
Photo = Callable[[LoadedModel], torch.Tensor]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "DEVICE", torch.device("cpu"))


def whole_step(model: LoadedModel) -> Step:
    return Step(tuple(range(1, len(model.graph.vertices))), (Value(0),), model.graph.results)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny"])
def test_a_network_there_is_the_network(stand_in: None, loaded: Loaded, photo: Photo, name: str) -> None:
    model = dataclasses.replace(loaded(name), engine=CUDA)
    with torch.inference_mode():
        (made,), (wanted,) = compile_step(model, whole_step(model))(photo(model)), model.whole(photo(model))
    assert torch.equal(made, wanted)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny"])
def test_all_that_operators_read_is_there(
    loaded: Loaded, photo: Photo, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device without numbers: what were left behind would meet it nowhere."""
    meta, seen = torch.device("meta"), []

    def placed(graph: fx.Graph, read: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
        seen.append((graph, move(graph, read, device)))
        return seen[-1][1]

    move = cuda.placed
    monkeypatch.setattr(cuda, "DEVICE", meta)
    monkeypatch.setattr(cuda, "placed", placed)
    model = dataclasses.replace(loaded(name), engine=CUDA)
    compile_step(model, whole_step(model))
    ((graph, read),) = seen
    assert len(read) > 60 and all(tensor.is_meta for tensor in read.values())
    with torch.inference_mode():
        assert all(made.is_meta for made in as_function(graph, read)(photo(model).to(meta)))


def test_an_encoded_photo_is_decoded_on_the_processor(stand_in: None) -> None:
    from d3bed.model import images

    model = dataclasses.replace(load(ModelSpec("mobilenetv3", encoded=40_000)), engine=CUDA)
    with torch.inference_mode():
        (made,) = compile_step(model, whole_step(model))(images.sample())
        (wanted,) = model.whole(images.sample())
    assert torch.equal(made, wanted)


def test_tiles_are_checked_against_the_processors_network(
    stand_in: None, loaded: Loaded, tmp_path: Path
) -> None:
    model = dataclasses.replace(loaded("resnet18"), engine=CUDA)
    tiles = prepare_tiles(model, tiles_of(model, 2, 1), tmp_path, fingerprint(1, CUDA))
    assert len(tiles) == 2 and all(tile.max_rel_err <= CLOSE and tile.nominal_s > 0 for tile in tiles)


def test_without_a_device_it_is_refused_with_what_to_do_and_auto_does_without(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "available", lambda: False)
    monkeypatch.setattr(sessions, "available", lambda: False)
    model = loaded("resnet18")
    with pytest.raises(ModelError, match=r"no CUDA device on this agent.*nvidia-smi.*engine = \"torch\""):
        chosen(model, CUDA, tmp_path)
    assert chosen(model, AUTO, tmp_path).engine == TORCH


def test_auto_takes_the_fastest_of_three(
    stand_in: None, loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from d3bed.agent import engines

    monkeypatch.setattr(cuda, "available", lambda: True)
    monkeypatch.setattr(cuda, "name", lambda: "CUDA 13, a device")
    asked = []

    def timed(models: list[LoadedModel], runs: int) -> list[float]:
        asked.append([model.engine for model in models])
        return [3.0, 2.0, 1.0]

    monkeypatch.setattr(engines, "whole_s", timed)
    assert [chosen(loaded("resnet18"), AUTO, tmp_path).engine for _ in range(2)] == [CUDA, CUDA]
    assert asked == [[TORCH, ONNX, CUDA]]  # and remembered
    assert chosen(loaded("resnet18"), CUDA, tmp_path).engine == CUDA
    assert len({fingerprint(1, engine) for engine in (TORCH, ONNX, CUDA)}) == 3
