"""A `ModelSpec` becomes something that runs."""

from __future__ import annotations

import copy
import functools
import logging
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
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
from d3bed.core.models import CUDA, ONNX, TORCH
from d3bed.model import cuda, exported, network_file, sessions, weights, zoo
from d3bed.model.constants import Constants, Recent
from d3bed.model.export import Flat, decode, export_module, flatten, normalise, read_pt2, with_decode
from d3bed.model.packing import packable
from d3bed.model.vertices import Body, vertices_of

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["LoadedModel", "fingerprint", "load", "write_file"]

_log = logging.getLogger(__name__)

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
    recent: Recent | None = None,
) -> LoadedModel:
    """Build, fill and export a network; takes seconds. Raises `ModelError`.

    Call it with the intra-op threads that the network will run with: they decide which kernels do.

    A `.pt2` file brings its own weights: they are used unless `spec.weights` is a `.safetensors` file.
    A `.safetensors` file that `d3bed export` wrote brings its own, too.
    Weights `pretrained` of a user's factory are those that the factory gave. `files`: where files that the
    spec names were put. `kept`: a folder for what exporting made (`exported`). Who will not ask for the
    `reference` takes that from there, so that weights are in memory only while something runs with them
    (`constants`), or as long as `recent` keeps them; the first time it is exported without weights. Then
    `whole` is built if it is called after all.
    """
    model = _load(spec, files, kept, reference)
    if recent is not None and isinstance(model.body.constants, Constants):
        model.body.constants.recent = recent
    return model


def _load(spec: ModelSpec, files: Mapping[str, Path], kept: Path | None, reference: bool) -> LoadedModel:
    if kept is not None and not reference:
        found = _as_kept(spec, files, kept) or _hollow(spec, files, kept)
        if found is not None:
            return found
    if spec.name.endswith(network_file.SUFFIX):
        return _from_file(spec, files)
    module, program, mean, std, known = _build(spec, files)
    mean_, std_ = (torch.tensor(numbers).view(1, -1, 1, 1) for numbers in (mean, std))
    flat = flatten(spec.name, program, mean_, std_, loaded=spec.name.endswith(".pt2"))
    drafted = exported.draft(flat, known) if kept is not None else None
    graph, body, takes = _vertices(spec, flat)
    takes_uint8 = not any(vertex.kind == "normalise" for vertex in graph.vertices)
    if takes_uint8 and spec.floats:
        raise ModelError(spec.name, "floats", "it normalises uint8 pixels itself", "leave `floats` out")
    packed = packable(graph, body)
    if kept is not None and drafted is not None:
        exported.put(kept, spec, fingerprint(torch.get_num_threads()), drafted, packed)
        if not reference and (found := _as_kept(spec, files, kept)) is not None:
            return found

    def whole(image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.inference_mode():
            image = decode(image, *takes.shape[-2:]) if spec.encoded else image
            first = image.clone() if takes_uint8 else normalise(image, mean_, std_)
            return tuple(pytree.tree_leaves(module(first)))

    return LoadedModel(
        spec, graph, whole, takes, replace(body, packable=packed), threads=torch.get_num_threads()
    )


def _as_kept(spec: ModelSpec, files: Mapping[str, Path], kept: Path) -> LoadedModel | None:
    found = exported.get(kept, spec, fingerprint(torch.get_num_threads()), files.get(spec.weights))
    if found is None:
        return None
    flat, packed = found
    graph, body, takes = _vertices(spec, flat)
    body = replace(body, packable=packed)
    return LoadedModel(spec, graph, _Later(spec, files), takes, body, threads=torch.get_num_threads())


def _hollow(spec: ModelSpec, files: Mapping[str, Path], kept: Path) -> LoadedModel | None:
    """Exported and kept without ever having its weights in memory; None where that cannot be."""
    if not exported.is_kept(spec):
        return None
    from torch._subclasses.fake_tensor import FakeTensorMode  # comes with the exporter

    try:
        _, program, mean, std, known = _build(spec, files, FakeTensorMode())
        mean_, std_ = (torch.tensor(numbers).view(1, -1, 1, 1) for numbers in (mean, std))
        drafted = exported.draft(flatten(spec.name, program, mean_, std_, loaded=False), known)
    except Exception as error:  # the library looks at numbers while it builds
        _log.debug("%s is built with its weights: %s", spec.name, error)
        return None
    if drafted is None:
        return None
    runs = fingerprint(torch.get_num_threads())
    exported.put(kept, spec, runs, drafted, frozenset())
    found = _as_kept(spec, files, kept)
    if found is None:  # a full disk
        return None
    packed = packable(found.graph, found.body)
    exported.put(kept, spec, runs, drafted, packed)
    return replace(found, body=replace(found.body, packable=packed))


def _from_file(spec: ModelSpec, files: Mapping[str, Path]) -> LoadedModel:
    """The reference is what the file says, undivided: the module that it was made of is elsewhere."""
    if spec.weights != ModelSpec("").weights:
        raise ModelError(spec.name, "weights", "it brings its own", "leave `weights` out")
    flat = network_file.read(files.get(spec.name, Path(spec.name)))
    graph_ = copy.deepcopy(flat.graph)  # as it is before `decode` stands at its head
    undivided = functools.cache(lambda: fx.GraphModule(dict(flat.constants), graph_, "Whole").forward)
    graph, body, takes = _vertices(spec, flat)

    def whole(image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.inference_mode():
            image = decode(image, *takes.shape[-2:]) if spec.encoded else image
            return tuple(pytree.tree_leaves(undivided()(image.clone())))

    packed = packable(graph, body)
    return LoadedModel(
        spec, graph, whole, takes, replace(body, packable=packed), threads=torch.get_num_threads()
    )


def write_file(spec: ModelSpec) -> tuple[bytes, Graph]:
    """What `d3bed export` writes of a network, and its graph. Raises `ModelError`."""
    _, program, mean, std, known = _build(spec, {})
    fills = {at: made for at, made in known.items() if isinstance(made, weights.Fill)}
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
    spec: ModelSpec, files: Mapping[str, Path], hollow: AbstractContextManager[object] | None = None
) -> tuple[
    nn.Module, ExportedProgram, Sequence[float], Sequence[float], dict[weights.Where, weights.Fill | str]
]:
    """The module with its weights; exported; its pixels' mean and standard deviation; what of its weights is
    random, or in a file under which name. With torch's mode of tensors without numbers it is `hollow`."""
    weights_file = files.get(spec.weights, Path(spec.weights))
    from_file, pretrained = spec.weights.endswith(".safetensors"), spec.weights == "pretrained"
    seed = None if from_file or pretrained else weights.seed_of(spec.weights)
    if spec.name.endswith(".pt2"):
        program = read_pt2(Path(spec.name))
        module: nn.Module = program.module()
        if from_file:
            weights.load_file(module, weights_file)
        return module, program, *zoo.IMAGENET, {}
    with hollow or nullcontext():
        built = zoo.build(spec.name, spec.input, pretrained)
    known: dict[weights.Where, weights.Fill | str] = {}
    if from_file:
        known.update(weights.load_file(built.module, weights_file))
    elif seed is not None:
        known.update(weights.randomise(built.module, seed))
    with hollow or nullcontext():
        program = export_module(spec.name, built.module, torch.zeros(1, *built.input))
    return built.module, program, built.mean, built.std, known


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
    device = cuda.name() if engine == CUDA else "cpu"
    return f"torch {torch.__version__}, {platform.machine()} {capability}, {cores}, {device}, {runs}"
