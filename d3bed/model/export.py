"""From a module to a flat list of functional operators.

`torch.export` gives the operators; this module makes of them an fx graph in which
- nothing is written in place (an operator that wrote to another's tensor has become its functional
  overload, later readers read its result), so that a cut anywhere is right;
- whatever does not depend on the image has been computed once and is a constant of its reader;
- the photo is uint8, normalised by the first operators.
It must not know what a vertex is (`vertices`) nor how a segment is run (`segment`).
"""

from __future__ import annotations

import io
import logging
import operator
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn
from torch.overrides import TorchFunctionMode

from d3bed.core.errors import ModelError
from d3bed.model.images import MAX_ENCODED_BYTES, decode_bytes

if TYPE_CHECKING:  # agents that load what was exported before are spared this import
    from torch.export import ExportedProgram

__all__ = [
    "DECODE",
    "NORMALISE",
    "Flat",
    "arguments",
    "export_module",
    "flatten",
    "normalise",
    "operator_name",
    "path_of",
    "read_pt2",
]

aten = torch.ops.aten

#: Name of the vertex, and mark of its operators.
NORMALISE = "normalise"

#: The vertex that makes pixels of a file; decoding and resizing are one, as a cut between them would ship
#: more than either side of it.
DECODE = "decode"

#: Tagged random by torch, but not so in eval mode.
_CALM = frozenset({"alpha_dropout", "dropout", "feature_dropout", "rrelu", "scaled_dot_product_attention"})


@dataclass(frozen=True)
class Flat:
    """The operators in order, what they read, and what they answer.

    `graph` has one placeholder (the image), `get_attr` nodes named in `constants`, and calls. Every
    call's `meta["val"]` tells the shape and dtype of what it makes.
    """

    graph: fx.Graph
    image: fx.Node
    constants: Mapping[str, torch.Tensor]
    results: tuple[fx.Node, ...]


def normalise(
    image: Any, mean: torch.Tensor, std: torch.Tensor, call: Callable[..., Any] = lambda op, *args: op(*args)
) -> Any:
    """uint8 `[1, 3, H, W]` → float32, (x / 255 − mean) / std; `mean` and `std` are `[1, 3, 1, 1]`.

    With another `call`, the same operators are written down instead of run.
    """
    real = call(aten.to.dtype, image, torch.float32)
    unit = call(aten.div.Scalar, real, 255.0)
    return call(aten.div.Tensor, call(aten.sub.Tensor, unit, mean), std)


def decode(encoded: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """uint8 `[n]`, a file's bytes → uint8 `[1, 3, height, width]`. Raises `ConfigError`."""
    return decode_bytes(encoded.cpu().numpy().tobytes(), height, width, "frame").to(encoded.device)


def with_decode(flat: Flat, usual_bytes: int) -> Flat:
    """The same operators behind `decode`: the image is no longer given but made of a file's bytes."""
    pixels = flat.image.meta["val"]
    height, width = pixels.shape[-2:]
    with flat.graph.inserting_before(flat.image):
        file = flat.graph.placeholder("file")
    file.meta["val"] = torch.empty(MAX_ENCODED_BYTES, dtype=torch.uint8, device="meta")
    file.meta["usual_bytes"] = usual_bytes
    with flat.graph.inserting_after(flat.image):
        image = flat.graph.call_function(decode, (file, int(height), int(width)))
    image.meta = {"val": pixels, "nn_module_stack": {}, DECODE: True}
    flat.image.replace_all_uses_with(image)
    flat.graph.erase_node(flat.image)
    return replace(flat, image=file)


def export_module(name: str, module: nn.Module, example: torch.Tensor) -> ExportedProgram:
    """Raises `ModelError` naming the operator and the module that cannot be exported."""
    from torch.export import export

    try:
        with _quiet():
            return export(module, (example,), strict=False)
    except Exception as error:
        where, what = _diagnose(module, example)
        raise ModelError(
            name,
            where or "forward",
            f"{what} cannot be exported for an input of {list(example.shape)}: {_first_line(error)}",
            "torch.export must be able to trace the model for one fixed input",
        ) from error


def read_pt2(path: Path) -> ExportedProgram:
    """Load a `.pt2` file; its weights go to ordinary allocations. Raises `ModelError`."""
    if not path.is_file():
        raise ModelError(str(path), "", "no such file", "check the path")
    from torch.export import load

    try:
        with _quiet():
            program = load(path)
    except Exception as error:
        raise ModelError(
            str(path),
            "",
            f"not a .pt2 file that torch {torch.__version__} can read",
            "save it again with torch.export.save and this version",
        ) from error
    for tensor in (*program.state_dict.values(), *program.constants.values()):
        if isinstance(tensor, torch.Tensor):
            tensor.data = tensor.data.clone()
    return program


def flatten(
    name: str, program: ExportedProgram, mean: torch.Tensor, std: torch.Tensor, *, loaded: bool
) -> Flat:
    """Raises `ModelError` for what d3bed cannot cut.

    `loaded`: the program comes from a file, which does not say which tensors share memory.
    """
    if any(writes(node) for node in program.graph.nodes):
        if not loaded:
            try:
                return _Flattening(name, program, mean, std).run()
            except _Aliased:
                pass
        try:
            with _quiet():
                program = program.run_decompositions({})
            return _Flattening(name, program, mean, std).run()
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(
                name,
                "forward",
                f"its in-place operators cannot be made functional: {_first_line(error)}",
                "rewrite them out of place",
            ) from error
    return _Flattening(name, program, mean, std).run()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class _Aliased(Exception):
    """An in-place operator writes to memory that is read under another name later on."""


class _Flattening:
    def __init__(self, name: str, program: ExportedProgram, mean: torch.Tensor, std: torch.Tensor) -> None:
        self._name, self._program, self._mean, self._std = name, program, mean, std
        self._graph = fx.Graph()
        self._constants: dict[str, torch.Tensor] = {}
        self._name_of: dict[int, str] = {}
        self._reads: dict[str, fx.Node] = {}
        #: Old node → its node in the flat graph, or the constant that it is.
        self._now: dict[fx.Node, Any] = {}
        self._last_use: dict[fx.Node, int] = {}
        self._aliases: dict[int, list[fx.Node]] = {}

    def run(self) -> Flat:
        nodes = list(self._program.graph.nodes)
        for position, node in enumerate(nodes):
            for source in node.all_input_nodes:
                self._last_use[source] = position
        image = self._inputs()
        for position, node in enumerate(nodes):
            if node.op == "call_function":
                self._call(node, position)
            elif node.op == "get_attr":
                raise self._refuse(node, "a nested graph")
            self._remember_storage(node)
        results = self._results()
        self._graph.output(results)
        for node in reversed(list(self._graph.nodes)):
            if not node.users and node.op not in ("placeholder", "output"):
                self._graph.erase_node(node)
        read = {node.target for node in self._graph.nodes if node.op == "get_attr"}
        return Flat(
            self._graph, image, {name: self._constants[name] for name in sorted(read)}, tuple(results)
        )

    def _inputs(self) -> fx.Node:
        from torch.export.graph_signature import InputKind

        signature = self._program.graph_signature
        tensors = {**self._program.constants, **self._program.state_dict}
        user: list[fx.Node] = []
        placeholders = [node for node in self._program.graph.nodes if node.op == "placeholder"]
        for node, spec in zip(placeholders, signature.input_specs, strict=True):
            if spec.kind is InputKind.USER_INPUT:
                user.append(node)
            elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
                self._now[node] = self._named(tensors[str(spec.target)], node.name)
            else:
                raise self._refuse(node, f"an input of kind {spec.kind.name.lower()}")
        if len(user) != 1 or not isinstance(user[0].meta.get("val"), torch.Tensor):
            raise ModelError(
                self._name, "forward", f"takes {len(user)} inputs", "it must take one image tensor"
            )
        wanted: torch.Tensor = user[0].meta["val"]
        if any(not isinstance(size, int) for size in wanted.shape):
            raise ModelError(self._name, "forward", "has dynamic shapes", "export it without dynamic_shapes")
        if (
            wanted.dim() != 4
            or wanted.shape[:2] != (1, 3)
            or wanted.dtype not in (torch.uint8, torch.float32)
        ):
            dtype = str(wanted.dtype).removeprefix("torch.")
            raise ModelError(
                self._name,
                "forward",
                f"takes {dtype}{list(wanted.shape)}",
                "it must take uint8 or float32 [1, 3, H, W]",
            )
        image = self._graph.placeholder("image")
        image.meta["val"] = torch.empty(wanted.shape, dtype=torch.uint8, device="meta")
        first = image if wanted.dtype == torch.uint8 else self._normalise(image)
        self._now[user[0]] = first
        return image

    def _normalise(self, image: fx.Node) -> fx.Node:
        def call(op: Any, *args: Any) -> fx.Node:
            node = self._graph.call_function(op, args)
            node.meta = {"val": image.meta["val"].to(torch.float32), "nn_module_stack": {}, NORMALISE: True}
            return node

        mean, std = (
            self._read(self._named(tensor, f"{NORMALISE}_{what}"))
            for what, tensor in (("mean", self._mean), ("std", self._std))
        )
        last: fx.Node = normalise(image, mean, std, call)  # type: ignore[arg-type]
        return last

    def _call(self, node: fx.Node, position: int) -> None:
        target: Any = node.target
        if target is not operator.getitem:
            if not isinstance(target, torch._ops.OpOverload):
                raise self._refuse(node, f"operator {getattr(target, '__name__', target)}")
            if not target._schema.returns:
                return  # an assertion
            if is_random(node):
                raise self._refuse(node, f"random operator {operator_name(node)}")
        written = node.args[0] if writes(node) else None
        if isinstance(written, fx.Node):
            target = self._functional(node, written, position)
        args = fx.node.map_arg(node.args, self._now.__getitem__)
        kwargs = fx.node.map_arg(node.kwargs, self._now.__getitem__)
        if any(isinstance(self._now[source], fx.Node) for source in node.all_input_nodes):
            args = fx.node.map_aggregate(args, self._read_if_constant)
            kwargs = fx.node.map_aggregate(kwargs, self._read_if_constant)
            new: Any = self._graph.create_node("call_function", target, args, kwargs, node.name)
            new.meta = {key: node.meta.get(key) for key in ("val", "nn_module_stack")}
        else:
            with torch.no_grad():
                new = target(*args, **kwargs)
            if isinstance(new, torch.Tensor):
                self._named(new, f"folded_{node.name}")
        self._now[node] = new
        if isinstance(written, fx.Node):
            self._now[written] = new

    def _functional(self, node: fx.Node, written: fx.Node, position: int) -> Any:
        """The overload that makes a new tensor instead. Raises `_Aliased` where that is not the same."""
        op = node.target
        assert isinstance(op, torch._ops.OpOverload)
        before, after = written.meta["val"], node.meta["val"]
        aliases = self._aliases.get(_storage(before), [])
        if any(a.op == "placeholder" and isinstance(self._now[a], torch.Tensor) for a in aliases):
            raise self._refuse(node, f"operator {operator_name(node)} on its own weights or buffers")
        packet = getattr(aten, op._schema.name.removeprefix("aten::").removesuffix("_"), None)
        functional = getattr(packet, op._overloadname, None)
        partners = [s.meta["val"] for s in node.all_input_nodes if s is not written]
        if (
            op.namespace != "aten"
            or functional is None
            or before.dtype != after.dtype
            or any(isinstance(p, torch.Tensor) and p.dim() and p.dtype != before.dtype for p in partners)
            or any(self._last_use.get(a, -1) > position for a in aliases if a is not written)
        ):
            raise _Aliased
        return functional

    def _remember_storage(self, node: fx.Node) -> None:
        made = node.meta.get("val")
        for tensor in made if isinstance(made, (list, tuple)) else (made,):
            if isinstance(tensor, torch.Tensor):
                self._aliases.setdefault(_storage(tensor), []).append(node)

    def _results(self) -> list[fx.Node]:
        from torch.export.graph_signature import OutputKind, TensorArgument

        nodes = {node.name: node for node in self._program.graph.nodes}
        found = []
        for spec in self._program.graph_signature.output_specs:
            if spec.kind is not OutputKind.USER_OUTPUT:
                raise ModelError(
                    self._name,
                    str(spec.target),
                    "the model writes to its own buffer or input",
                    "a frame must not change the network: export it in eval mode",
                )
            result = self._now.get(nodes[spec.arg.name]) if isinstance(spec.arg, TensorArgument) else None
            if not isinstance(result, fx.Node):
                raise ModelError(
                    self._name,
                    "forward",
                    f"returns {spec.arg.name or 'None'}, which does not depend on the image",
                    "return tensors that do",
                )
            found.append(result)
        return found

    def _named(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        self._constants[name] = tensor  # kept alive, so that its id stays its own
        self._name_of[id(tensor)] = name
        return tensor

    def _read_if_constant(self, value: Any) -> Any:
        return self._read(value) if isinstance(value, torch.Tensor) else value

    def _read(self, tensor: torch.Tensor) -> fx.Node:
        name = self._name_of[id(tensor)]
        if name not in self._reads:
            with self._graph.inserting_before(next(iter(self._graph.nodes), None)):
                node = self._graph.get_attr(name)
            node.meta["val"] = tensor
            self._reads[name] = node
        return self._reads[name]

    def _refuse(self, node: fx.Node, what: str) -> ModelError:
        return ModelError(
            self._name, path_of(node) or "forward", f"{what} cannot be cut", "rewrite it with plain operators"
        )


def operator_name(node: fx.Node) -> str:
    """`conv2d` for `aten.conv2d.default`; in-place names lose their underscore."""
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target._schema.name.partition("::")[2].removesuffix("_")
    return getattr(node.target, "__name__", str(node.target))


def path_of(node: fx.Node) -> str:
    """The module that ran this operator, as in `layer1.0.conv1`; empty for the outermost."""
    stack = node.meta.get("nn_module_stack") or {}
    path = str(next(reversed(stack.values()))[0]) if stack else ""
    return path.removeprefix("L['self']").removeprefix("L__self__").lstrip(".")


def arguments(node: fx.Node) -> dict[str, Any]:
    """A call's arguments by name, defaults included."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return {}
    wanted = node.target._schema.arguments
    found = {a.name: a.default_value for a in wanted}
    found |= {a.name: value for a, value in zip(wanted, node.args, strict=False)}
    return found | node.kwargs


def is_random(node: fx.Node) -> bool:
    """Whether it draws random numbers; dropout and the like that are switched off do not."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    given = arguments(node)
    return operator_name(node) not in _CALM or any(given.get(a) for a in ("train", "training", "dropout_p"))


def writes(node: fx.Node) -> bool:
    """Whether it writes to what it is given."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


@contextmanager
def _quiet() -> Iterator[None]:
    """torch.export warns of its own deprecations, and on failure logs and prints pages: a `ModelError`
    says it in a line."""
    loggers = [
        log
        for name, log in logging.root.manager.loggerDict.items()
        if isinstance(log, logging.Logger) and name.split(".")[0] == "torch" and not log.disabled
    ]
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        for log in loggers:
            log.disabled = True
        try:
            yield
        finally:
            for log in loggers:
                log.disabled = False


#: Called by torch while it traces, or by reading an attribute.
_BESIDE = frozenset({"__get__", "_set_grad_enabled"})


class _LastCalled(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.name = ""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", str(func))
        if name not in _BESIDE:
            self.name = name
        return func(*args, **(kwargs or {}))


def _diagnose(module: nn.Module, example: torch.Tensor) -> tuple[str, str]:
    """Export once more, watching: the module that was running and the operator or line that failed."""
    names = {part: name for name, part in module.named_modules()}
    running: list[str] = []

    def leave(*_: object) -> None:
        running.pop()

    hooks = [
        hook
        for part in names
        for hook in (
            part.register_forward_pre_hook(lambda part, _: running.append(names[part])),
            part.register_forward_hook(leave),
        )
    ]
    last = _LastCalled()
    line = ""
    try:
        with _quiet(), last:
            torch.export.export(module, (example,), strict=False)
    except Exception as error:
        libraries = (str(Path(torch.__file__).parent), __file__, "<string>")
        frames = [
            f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(libraries)
        ]
        line = frames[-1].line or "" if frames else ""
    finally:
        for hook in hooks:
            hook.remove()
    where = running[-1] if running else ""
    return where, f"operator {last.name}" + (f" in `{line.strip()}`" if line else "")
