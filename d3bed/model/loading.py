"""A `ModelSpec` becomes something that runs."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import torch
from torch import nn
from torch.utils import _pytree as pytree

from d3bed.core.errors import ModelError
from d3bed.core.graph import Graph, TensorSpec
from d3bed.core.messages import ModelSpec
from d3bed.core.models import ONNX, TORCH
from d3bed.model import sessions, weights, zoo
from d3bed.model.export import decode, export_module, flatten, normalise, read_pt2, with_decode
from d3bed.model.packing import packable
from d3bed.model.vertices import Body, vertices_of

__all__ = ["LoadedModel", "fingerprint", "load"]

Whole = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]


@dataclass(frozen=True)
class LoadedModel:
    """A network in memory.

    `whole` is the undivided eager module, normalising included: uint8 `[1, 3, H, W]` (`input`; float32
    with `spec.floats`) → the graph's results in order. It is the reference that segments must equal bit for
    bit, or where `engine` is not torch's, closely. `threads` are the intra-op threads that it runs with.
    """

    spec: ModelSpec
    graph: Graph
    whole: Whole
    input: TensorSpec
    body: Body
    engine: str = TORCH
    threads: int = 1


def load(spec: ModelSpec, files: Mapping[str, Path] = MappingProxyType({})) -> LoadedModel:
    """Build, fill and export a network; takes seconds. Raises `ModelError`.

    Call it with the intra-op threads that the network will run with: they decide which kernels do.

    A `.pt2` file brings its own weights: they are used unless `spec.weights` is a `.safetensors` file.
    Weights `pretrained` of a user's factory are those that the factory gave. `files`: where files that the
    spec names were put.
    """
    weights_file = files.get(spec.weights, Path(spec.weights))
    from_file, pretrained = spec.weights.endswith(".safetensors"), spec.weights == "pretrained"
    seed = None if from_file or pretrained else weights.seed_of(spec.weights)
    if spec.name.endswith(".pt2"):
        program = read_pt2(Path(spec.name))
        module: nn.Module = program.module()
        mean, std = zoo.IMAGENET
        if from_file:
            weights.load_file(module, weights_file)
    else:
        built = zoo.build(spec.name, spec.input, pretrained)
        module, mean, std = built.module, built.mean, built.std
        if from_file:
            weights.load_file(module, weights_file)
        elif seed is not None:
            weights.randomise(module, seed)
        program = export_module(spec.name, module, torch.zeros(1, *built.input))

    mean_, std_ = (torch.tensor(numbers).view(1, -1, 1, 1) for numbers in (mean, std))
    flat = flatten(spec.name, program, mean_, std_, loaded=spec.name.endswith(".pt2"))
    if spec.floats:
        flat.image.meta["val"] = flat.image.meta["val"].to(torch.float32)
    graph, body = vertices_of(spec.name, with_decode(flat, spec.encoded) if spec.encoded else flat)
    takes = graph.vertices[1 if spec.encoded else 0].outputs[0]
    if spec.input and takes.shape[1:] != spec.input:
        size, asked = ("x".join(map(str, s)) for s in (takes.shape[1:], spec.input))
        raise ModelError(spec.name, "input", f"takes {size}, not {asked}", "leave `input` out")
    takes_uint8 = not any(vertex.kind == "normalise" for vertex in graph.vertices)
    if takes_uint8 and spec.floats:
        raise ModelError(spec.name, "floats", "it normalises uint8 pixels itself", "leave `floats` out")

    def whole(image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.inference_mode():
            image = decode(image, *takes.shape[-2:]) if spec.encoded else image
            first = image.clone() if takes_uint8 else normalise(image, mean_, std_)
            return tuple(pytree.tree_leaves(module(first)))

    return LoadedModel(
        spec,
        graph,
        whole,
        takes,
        replace(body, packable=packable(graph, body)),
        threads=torch.get_num_threads(),
    )


def fingerprint(threads: int, engine: str = TORCH) -> str:
    """What decides how sums are rounded; equal ones of torch's own engine promise bit-identical results."""
    capability = torch.backends.cpu.get_cpu_capability()
    cores = f"{threads} thread" + ("" if threads == 1 else "s")
    runs = f"onnxruntime {sessions.version()}" if engine == ONNX else "eager"
    return f"torch {torch.__version__}, {platform.machine()} {capability}, {cores}, cpu, {runs}"
