"""ONNX Runtime in the place of torch: close for every network and cut, and told apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from d3bed.core.graph import Graph, Value
from d3bed.core.messages import ModelSpec
from d3bed.core.models import CLOSE, ONNX
from d3bed.core.plan import Plan
from d3bed.core.program import Step
from d3bed.model import LoadedModel, compile_step, fingerprint, load, prepare_tiles, relative_error
from tests.model.test_tiles import blocks_of, even

Loaded = Callable[..., LoadedModel]
Photo = Callable[[LoadedModel], torch.Tensor]
Split = Callable[..., tuple[torch.Tensor, ...]]
Plans = Callable[[Graph, int, int], list[Plan]]


def sessions_in(call: Any) -> int:
    return str(call.__self__.code).count("= d3bed_model_sessions_onnx_session")


def with_onnx(model: LoadedModel) -> LoadedModel:
    return dataclasses.replace(model, engine=ONNX)


def whole_call(model: LoadedModel) -> Any:
    step = Step(tuple(range(1, len(model.graph.vertices))), (Value(0),), model.graph.results)
    return compile_step(model, step)


@pytest.mark.parametrize("name", ["alexnet", "resnet18", "densenet121", "mobilenetv3", "vit_tiny"])
def test_a_whole_network_is_one_session_and_close(loaded: Loaded, photo: Photo, name: str) -> None:
    model = with_onnx(loaded(name))
    call = whole_call(model)
    assert sessions_in(call) == 1
    with torch.inference_mode():
        (made,), (wanted,) = call(photo(model)), model.whole(photo(model))
    assert 0 < relative_error([made], [wanted]) <= CLOSE


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny"])
def test_every_cut_is_close(
    loaded: Loaded, photo: Photo, split: Split, random_plans: Plans, name: str
) -> None:
    """A ViT has vertices with several outputs, and tensors that are not contiguous."""
    model = with_onnx(loaded(name))
    image = photo(model)
    for plan in random_plans(model.graph, 4, 3):
        assert relative_error(split(model, plan, image), model.whole(image)) <= CLOSE


class Strange(torch.nn.Module):
    """Operators of which there is no ONNX counterpart here, between others."""

    def __init__(self) -> None:
        super().__init__()
        self.before = torch.nn.Conv2d(3, 8, 3, padding="same")
        self.pool = torch.nn.MaxPool2d(3, 2, ceil_mode=True)
        self.after = torch.nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = torch.nn.functional.softplus(self.before(x))
        made = self.after(self.pool(made))
        return torch.cumsum(made.clamp(min=-0.5), 1).mean((2, 3))


def strange() -> torch.nn.Module:
    return Strange()


def test_what_is_not_known_stays_with_torch() -> None:
    model = with_onnx(load(ModelSpec("tests.model.test_sessions:strange", input=(3, 22, 22))))
    call = whole_call(model)
    image = torch.randint(256, model.input.shape, dtype=torch.uint8)
    assert "softplus" in call.__self__.code and "cumsum" in call.__self__.code
    assert "max_pool2d" in call.__self__.code  # its last window begins in the padding
    assert sessions_in(call) >= 3
    with torch.inference_mode():
        assert relative_error(call(image), model.whole(image)) <= CLOSE


class Rows(torch.nn.Module):
    """Linear layers of a single row and of several, with a bias and without."""

    def __init__(self) -> None:
        super().__init__()
        self.several = torch.nn.Linear(6, 5)
        self.single = torch.nn.Linear(90, 7)
        self.bare = torch.nn.Linear(7, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return cast("torch.Tensor", self.bare(self.single(self.several(x).flatten(1))))


def rows() -> torch.nn.Module:
    return Rows()


def test_linear_layers_of_a_row_and_of_several_are_one_session() -> None:
    model = with_onnx(load(ModelSpec("tests.model.test_sessions:rows", input=(3, 6, 6))))
    call = whole_call(model)
    image = torch.randint(256, model.input.shape, dtype=torch.uint8)
    assert sessions_in(call) == 1
    with torch.inference_mode():
        assert relative_error(call(image), model.whole(image)) <= CLOSE


def tiles_of(model: LoadedModel, *grid: int) -> list[Step]:
    """Of one of its blocks."""
    block = blocks_of(model.graph)[1]
    return [
        Step(
            block.vertices,
            (Value(block.sources[0].vertex, 0, t.takes[0]),),
            (Value(block.sink.vertex, 0, t.makes),),
            t,
        )
        for t in even(model.graph, block, *grid).tiles
    ]


@pytest.mark.parametrize("grid", [(2, 1), (1, 1, 2)])
def test_tiles_are_close_and_say_so(grid: tuple[int, ...], loaded: Loaded, tmp_path: Path) -> None:
    model = with_onnx(loaded("resnet18"))
    tiles = prepare_tiles(model, tiles_of(model, *grid), tmp_path, fingerprint(1, ONNX))
    assert all(not tile.identical and 0 < tile.max_rel_err <= CLOSE for tile in tiles)
    assert all(tile.fallbacks == 0 and sessions_in(tile.call) >= 1 for tile in tiles)


def test_fingerprints_tell_engines_apart() -> None:
    assert "onnxruntime" in fingerprint(1, ONNX)
    assert fingerprint(1, ONNX) != fingerprint(1)
