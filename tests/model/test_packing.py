"""Packed convolutions give the same bits, and only those that do are packed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from d3bed.core.graph import Value
from d3bed.core.program import Step
from d3bed.model import LoadedModel, compile_step

Loaded = Callable[..., LoadedModel]
Photo = Callable[[LoadedModel], torch.Tensor]


def whole_step(model: LoadedModel) -> Step:
    return Step(tuple(range(1, len(model.graph.vertices))), (Value(0),), model.graph.results)


@pytest.mark.parametrize("name", ["alexnet", "resnet18", "mobilenetv3", "vit_tiny"])
def test_with_packed_weights_a_network_makes_the_same_bits(name: str, loaded: Loaded, photo: Photo) -> None:
    model, image = loaded(name), photo(loaded(name))
    plain = replace(model, body=replace(model.body, packable=frozenset()))
    with torch.inference_mode():
        packed = compile_step(model, whole_step(model))(image)
        unpacked = compile_step(plain, whole_step(plain))(image)
    assert all(torch.equal(a, b) for a, b in zip(packed, model.whole(image), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(unpacked, packed, strict=True))


def test_what_is_packed_is_a_convolution_that_reads_one_float_map(loaded: Loaded) -> None:
    for name in ("resnet18", "networks:UNet"):
        graph = (model := loaded(name, (3, 32, 32)) if ":" in name else loaded(name)).graph
        for v in model.body.packable:
            assert graph.vertices[v].kind == "conv2d" and len(graph.predecessors[v]) == 1
            (source,) = graph.predecessors[v]
            assert graph.vertices[source].outputs[0].dtype == "float32"
    assert loaded("resnet18").body.packable


def test_it_is_the_packed_weights_that_run(loaded: Loaded, photo: Photo) -> None:
    """One ulp more in one layer shows in the result."""
    model, image = loaded("alexnet"), photo(loaded("alexnet"))
    first = min(model.body.packable)
    head = model.body.nodes[first][0]
    name = next(str(n.target) for n in head.all_input_nodes if n.op == "get_attr")
    nudged = dict(model.body.constants)
    nudged[name] = torch.nextafter(nudged[name].detach(), torch.full_like(nudged[name], torch.inf))
    other = replace(model, body=replace(model.body, constants=nudged))
    with torch.inference_mode():
        changed = compile_step(other, whole_step(other))(image)
    assert not torch.equal(changed[0], model.whole(image)[0])
