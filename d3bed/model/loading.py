"""A `ModelSpec` becomes something that runs."""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from d3bed.core.errors import ModelError
from d3bed.core.graph import Graph, TensorSpec
from d3bed.core.messages import ModelSpec
from d3bed.core.models import ONNX, TORCH
from d3bed.model import exported, network_file, sessions, weights, zoo
from d3bed.model.export import Flat, decode, export_module, flatten, normalise, read_pt2, with_decode
from d3bed.model.packing import packable
from d3bed.model.vertices import Body, vertices_of

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["LoadedModel", "fingerprint", "load", "write_file"]

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


def load(
    spec: ModelSpec,
    files: Mapping[str, Path] = MappingProxyType({}),
    *,
    kept: Path | None = None,
    reference: bool = True,
) -> LoadedModel:
    """Build, fill and export a network; takes seconds. Raises `ModelError`.

    Call it with the intra-op threads that the network will run with: they decide which kernels do.

    A `.pt2` file brings its own weights: they are used unless `spec.weights` is a `.safetensors` file.
    A `.safetensors` file that `d3bed export` wrote brings its own, too.
    Weights `pretrained` of a user's factory are those that the factory gave. `files`: where files that the
    spec names were put. `kept`: a folder for what exporting made (`exported`). Who will not ask for the
    `reference` takes that from there, and `whole` is built if it is called after all.
    """
    runs = fingerprint(torch.get_num_threads())
    found = exported.get(kept, spec, runs) if kept is not None and not reference else None
    if found is not None:
        flat, packed = found
        graph, body, takes = _vertices(spec, flat)
        return LoadedModel(
            spec,
            graph,
            _Later(spec, files),
            takes,
            replace(body, packable=packed),
            threads=torch.get_num_threads(),
        )
    if spec.name.endswith(network_file.SUFFIX):
        return _from_file(spec, files)
    module, program, mean, std, fills = _build(spec, files)
    mean_, std_ = (torch.tensor(numbers).view(1, -1, 1, 1) for numbers in (mean, std))
    flat = flatten(spec.name, program, mean_, std_, loaded=spec.name.endswith(".pt2"))
    drafted = exported.draft(flat, fills) if kept is not None else None
    graph, body, takes = _vertices(spec, flat)
    takes_uint8 = not any(vertex.kind == "normalise" for vertex in graph.vertices)
    if takes_uint8 and spec.floats:
        raise ModelError(spec.name, "floats", "it normalises uint8 pixels itself", "leave `floats` out")
    packed = packable(graph, body)
    if kept is not None and drafted is not None:
        exported.put(kept, spec, runs, drafted, packed)

    def whole(image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.inference_mode():
            image = decode(image, *takes.shape[-2:]) if spec.encoded else image
            first = image.clone() if takes_uint8 else normalise(image, mean_, std_)
            return tuple(pytree.tree_leaves(module(first)))

    return LoadedModel(
        spec, graph, whole, takes, replace(body, packable=packed), threads=torch.get_num_threads()
    )


def _from_file(spec: ModelSpec, files: Mapping[str, Path]) -> LoadedModel:
    """The reference is what the file says, undivided: the module that it was made of is elsewhere."""
    if spec.weights != ModelSpec("").weights:
        raise ModelError(spec.name, "weights", "it brings its own", "leave `weights` out")
    flat = network_file.read(files.get(spec.name, Path(spec.name)))
    undivided = fx.GraphModule(flat.constants, flat.graph, "Whole").forward
    graph, body, takes = _vertices(spec, flat)

    def whole(image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.inference_mode():
            image = decode(image, *takes.shape[-2:]) if spec.encoded else image
            return tuple(pytree.tree_leaves(undivided(image.clone())))

    packed = packable(graph, body)
    return LoadedModel(
        spec, graph, whole, takes, replace(body, packable=packed), threads=torch.get_num_threads()
    )


def write_file(spec: ModelSpec) -> tuple[bytes, Graph]:
    """What `d3bed export` writes of a network, and its graph. Raises `ModelError`."""
    _, program, mean, std, fills = _build(spec, {})
    mean_, std_ = (torch.tensor(numbers).view(1, -1, 1, 1) for numbers in (mean, std))
    flat = flatten(spec.name, program, mean_, std_, loaded=spec.name.endswith(".pt2"))
    return network_file.pack(spec.name, flat, fills), _vertices(spec, flat)[0]


class _Later:
    """The reference of a network that was taken as it was kept."""

    def __init__(self, spec: ModelSpec, files: Mapping[str, Path]) -> None:
        self._load = functools.cache(lambda: load(spec, files).whole)

    def __call__(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.inference_mode(False):  # it would spoil parameters for good
            whole = self._load()
        return whole(image)


def _build(
    spec: ModelSpec, files: Mapping[str, Path]
) -> tuple[nn.Module, ExportedProgram, Sequence[float], Sequence[float], dict[int, weights.Fill]]:
    """The module with its weights; exported; its pixels' mean and standard deviation; its random weights."""
    weights_file = files.get(spec.weights, Path(spec.weights))
    from_file, pretrained = spec.weights.endswith(".safetensors"), spec.weights == "pretrained"
    seed = None if from_file or pretrained else weights.seed_of(spec.weights)
    if spec.name.endswith(".pt2"):
        program = read_pt2(Path(spec.name))
        module: nn.Module = program.module()
        if from_file:
            weights.load_file(module, weights_file)
        return module, program, *zoo.IMAGENET, {}
    built = zoo.build(spec.name, spec.input, pretrained)
    fills = {}
    if from_file:
        weights.load_file(built.module, weights_file)
    elif seed is not None:
        fills = weights.randomise(built.module, seed)
    program = export_module(spec.name, built.module, torch.zeros(1, *built.input))
    return built.module, program, built.mean, built.std, fills


def _vertices(spec: ModelSpec, flat: Flat) -> tuple[Graph, Body, TensorSpec]:
    """The graph, and what its vertex of pixels gives."""
    if spec.floats:
        flat.image.meta["val"] = flat.image.meta["val"].to(torch.float32)
    graph, body = vertices_of(spec.name, with_decode(flat, spec.encoded) if spec.encoded else flat)
    takes = graph.vertices[1 if spec.encoded else 0].outputs[0]
    if spec.input and takes.shape[1:] != spec.input:
        size, asked = ("x".join(map(str, s)) for s in (takes.shape[1:], spec.input))
        raise ModelError(spec.name, "input", f"takes {size}, not {asked}", "leave `input` out")
    return graph, body, takes


def fingerprint(threads: int, engine: str = TORCH) -> str:
    """What decides how sums are rounded; equal ones of torch's own engine promise bit-identical results."""
    capability = torch.backends.cpu.get_cpu_capability()
    cores = f"{threads} thread" + ("" if threads == 1 else "s")
    runs = f"onnxruntime {sessions.version()}" if engine == ONNX else "eager"
    return f"torch {torch.__version__}, {platform.machine()} {capability}, {cores}, cpu, {runs}"
