"""An exported network, kept between starts: exporting takes seconds, and its imports take memory.

One `.safetensors` file a network: the operators as JSON in its metadata, and those constants that are not
seeded random numbers, which are made again. Kept are networks of the zoo with `random:SEED` weights; the code
of a user's factory may change without anybody knowing. What is read is the same list of operators, name for
name and bit for bit, or it is not used. Nothing in such a file is code: operators are looked up by name.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import fx

from d3bed.core.messages import ModelSpec
from d3bed.core.models import ZOO
from d3bed.model.constants import Constants, TensorFile
from d3bed.model.export import NORMALISE, Flat, path_of
from d3bed.model.keep import keep
from d3bed.model.weights import Fill, Where, where

__all__ = ["Draft", "Reading", "draft", "get", "is_kept", "put"]

_FORMAT = "d3bed.exported/1"


class _Unkept(Exception):
    """Something that the file has no words for."""


@dataclass(frozen=True)
class Draft:
    """What a file will say, and the tensors in it."""

    text: dict[str, Any]
    stored: dict[str, torch.Tensor]


def draft(flat: Flat, known: Mapping[Where, Fill | str]) -> Draft | None:
    """`flat` as it came from the export. `known`: which constants, by where they are, are seeded
    random numbers, or come under that name from a file of weights. None if there is something in it that the
    file has no words for."""
    try:
        stored, described = _constants(flat, known)
        nodes = [_written(node) for node in flat.graph.nodes if node.op != "output"]
    except _Unkept:
        return None
    text = {
        "format": _FORMAT,
        "nodes": nodes,
        "image": flat.image.name,
        "results": [node.name for node in flat.results],
        "constants": described,
    }
    return Draft(text, stored)


def put(folder: Path, spec: ModelSpec, runs: str, drafted: Draft, packable: frozenset[int]) -> None:
    """Keep it, with the vertices that are `packable` on an engine that `runs` so (a fingerprint)."""
    if is_kept(spec):
        text = json.dumps(drafted.text | {"packable": sorted(packable)})
        keep(_file(folder, spec, runs), safetensors.torch.save(drafted.stored, {"exported": text}))


def get(
    folder: Path, spec: ModelSpec, runs: str, weights: Path | None = None
) -> tuple[Flat, frozenset[int]] | None:
    """What `put` kept, if it did; None also for a file that is not whole. `weights`: where the file is that
    the spec takes them from."""
    path = _file(folder, spec, runs)
    if not is_kept(spec) or not path.is_file():
        return None
    try:
        file = TensorFile(path)
        text = json.loads(file.metadata["exported"])
        if text["format"] != _FORMAT:
            return None
        constants = Reading.constants_of(text, file, TensorFile(weights) if weights is not None else None)
        return Reading(constants).flat(text), frozenset(text["packable"])
    except (OSError, safetensors.SafetensorError, LookupError, TypeError, ValueError, AttributeError):
        return None


def is_kept(spec: ModelSpec) -> bool:
    """Whether such a network may be kept."""
    known = (file.path for file in spec.files)  # what is in others may change
    return spec.name in ZOO and (spec.weights.startswith("random:") or spec.weights in known)


def _file(folder: Path, spec: ModelSpec, runs: str) -> Path:
    digest = hashlib.sha256("\n".join((spec.key, runs, *_versions())).encode()).hexdigest()
    return folder / f"{spec.name}-{digest[:16]}.safetensors"


@functools.cache
def _versions() -> tuple[str, ...]:
    """Of all that decides how a network is exported, this package's code included."""
    libraries = (f"{name} {importlib.metadata.version(name)}" for name in ("torchvision", "timm"))
    code = (hashlib.sha256(path.read_bytes()) for path in sorted(Path(__file__).parent.glob("*.py")))
    return (*libraries, *(each.hexdigest() for each in code))


# ── writing ───────────────────────────────────────────────────────────────────────────────────────


def _constants(
    flat: Flat, known: Mapping[Where, Fill | str]
) -> tuple[dict[str, torch.Tensor], dict[str, list[Any] | str | None]]:
    """The tensors to store, and how each constant is made: from a seed, read from the file of weights under
    another name, or (None) from this one."""
    stored: dict[str, torch.Tensor] = {}
    described: dict[str, list[Any] | str | None] = {}
    for name, tensor in flat.constants.items():
        made = known.get(where(tensor))
        whole = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
        if isinstance(made, str) and whole:
            described[name] = made
            continue
        if isinstance(made, Fill) and tensor.is_contiguous() and tuple(tensor.shape) == made.shape:
            described[name] = [made.key, made.low, made.high, list(made.shape), _dtype(tensor.dtype)]
            continue
        if not tensor.is_contiguous() or hasattr(tensor, "fake_mode"):  # computed from weights not there
            raise _Unkept
        described[name] = None
        stored[name] = tensor.detach().clone()
    return stored, described


def _written(node: fx.Node) -> dict[str, Any]:
    return {
        "name": node.name,
        "op": node.op,
        "target": _target(node),
        "args": [_argument(value) for value in node.args],
        "kwargs": {key: _argument(value) for key, value in node.kwargs.items()},
        "makes": None if node.op == "get_attr" else _made(node.meta["val"]),
        "path": path_of(node),
        NORMALISE: NORMALISE in node.meta,
    }


def _target(node: fx.Node) -> str:
    if node.op != "call_function":
        return str(node.target)
    if node.target is operator.getitem:
        return "getitem"
    if isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "aten":
        return f"{node.target._opname}.{node.target._overloadname}"
    raise _Unkept


def _argument(value: Any) -> Any:
    match value:
        case fx.Node():
            return {"node": value.name}
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else {"float": str(value)}
        case list() | tuple():
            return [_argument(each) for each in value]
        case torch.dtype() | torch.layout() | torch.memory_format():
            return {"torch": str(value).removeprefix("torch.")}
        case torch.device():
            return {"device": str(value)}
    raise _Unkept


def _made(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return {"shape": list(value.shape), "stride": list(value.stride()), "dtype": _dtype(value.dtype)}
    if isinstance(value, list | tuple):
        return [_made(each) for each in value]
    raise _Unkept


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# ── reading ───────────────────────────────────────────────────────────────────────────────────────


class Reading:
    """Makes the graph again. Raises `LookupError`, `TypeError`, `ValueError` or `AttributeError`."""

    def __init__(self, constants: Constants) -> None:
        self._constants = constants
        self._graph = fx.Graph()
        self._nodes: dict[str, fx.Node] = {}

    @staticmethod
    def constants_of(text: dict[str, Any], file: TensorFile, weights: TensorFile | None = None) -> Constants:
        """`text` is what `file` says; `weights` may be named in it."""
        made: dict[str, Fill | tuple[TensorFile, str]] = {}
        for name, how in text["constants"].items():
            if how is None:
                made[name] = file, name
            elif isinstance(how, str) and weights is not None:
                made[name] = weights, how
            else:
                made[name] = _fill(*how)
        return Constants(made)

    def flat(self, text: dict[str, Any]) -> Flat:
        for written in text["nodes"]:
            self._read(written)
        results = tuple(self._nodes[name] for name in text["results"])
        self._graph.output(list(results))
        return Flat(self._graph, self._nodes[text["image"]], self._constants, results)

    def _read(self, written: dict[str, Any]) -> None:
        name, op = written["name"], written["op"]
        node = self._graph.create_node(
            op,
            _operator(written["target"]) if op == "call_function" else written["target"],
            tuple(self._argument(value) for value in written["args"]),
            {key: self._argument(value) for key, value in written["kwargs"].items()},
            name,
        )
        if node.name != name:
            raise ValueError(name)
        if op == "get_attr":
            node.meta["val"] = self._constants.like(written["target"])
        else:
            node.meta["val"] = _tensor(written["makes"])
        node.meta["nn_module_stack"] = {"": (written["path"], None)} if written["path"] else {}
        if written[NORMALISE]:
            node.meta[NORMALISE] = True
        self._nodes[name] = node

    def _argument(self, value: Any) -> Any:
        match value:
            case {"node": name}:
                return self._nodes[name]
            case {"float": number}:
                return float(number)
            case {"torch": name}:
                found = getattr(torch, name)
                if not isinstance(found, torch.dtype | torch.layout | torch.memory_format):
                    raise ValueError(name)
                return found
            case {"device": name}:
                return torch.device(name)
            case list():
                return [self._argument(each) for each in value]
            case dict():
                raise ValueError(value)
        return value


def _fill(key: str, low: float, high: float, shape: list[int], dtype: str) -> Fill:
    made = Fill(str(key), float(low), float(high), tuple(shape), getattr(torch, dtype))
    if not isinstance(made.dtype, torch.dtype) or not made.dtype.is_floating_point:
        raise ValueError(dtype)
    return made


def _operator(target: str) -> Any:
    if target == "getitem":
        return operator.getitem
    name, _, overload = target.partition(".")
    found = getattr(getattr(torch.ops.aten, name), overload)
    if not isinstance(found, torch._ops.OpOverload):
        raise ValueError(target)
    return found


def _tensor(made: Any) -> Any:
    if isinstance(made, list):
        return [_tensor(each) for each in made]
    dtype = getattr(torch, made["dtype"])
    return torch.empty_strided(made["shape"], made["stride"], dtype=dtype, device="meta")
