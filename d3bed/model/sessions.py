"""Segments run by ONNX Runtime: operators of a step become ONNX models, written here, and sessions.

Every run of operators that stand one after the other and are known here becomes one session; what is
not known stays with torch, between sessions. So no network is refused, and a rare operator costs speed only.
ONNX Runtime fuses and rounds in its own way, and differently for other cuts: results are close to the
undivided network's (1e-5 relative), never promised to be equal.

It needs an extra (`pip install 'd3bed[onnx]'`), which is imported where a session is made; `available` tells.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from d3bed.core.graph import TensorSpec
from d3bed.core.regions import Padding
from d3bed.model.export import arguments, operator_name

__all__ = ["available", "version", "with_sessions"]

aten = torch.ops.aten

#: ONNX's operator set, and the file version that goes with it.
_OPSET, _IR = 20, 10

#: Weights of one session: protocol buffers end at 2 GiB.
_MOST_BYTES = 1_900_000_000

_TYPES = {torch.float32: 1, torch.uint8: 2, torch.int32: 6, torch.int64: 7, torch.bool: 9}


def available() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("onnx", "onnxruntime"))


def version() -> str:
    return importlib.metadata.version("onnxruntime")


# ── from operators to sessions ───────────────────────────────────────────────────────────────────────


def with_sessions(
    graph: fx.Graph, constants: Mapping[str, Any], takes: Sequence[TensorSpec], threads: int
) -> fx.Graph:
    """The same graph, with sessions in the place of what ONNX Runtime can do. `takes`: its inputs, in order.

    Constants are read by name as before; those in sessions are copied there.
    """
    _tell_shapes(graph, constants, takes)
    made = fx.Graph()
    now: dict[fx.Node, fx.Node] = {}

    def here(node: fx.Node) -> fx.Node:
        if node.op == "get_attr" and node not in now:
            now[node] = made.get_attr(str(node.target))
        return now[node]

    run: list[fx.Node] = []
    for node in graph.nodes:
        if _is_known(node, run):
            run.append(node)
        elif node.op == "placeholder":
            now[node] = made.placeholder(str(node.target))
        elif node.op != "get_attr":
            _close(run, made, now, constants, threads)
            now[node] = made.node_copy(node, here)
    return made


def _close(
    run: list[fx.Node],
    made: fx.Graph,
    now: dict[fx.Node, fx.Node],
    constants: Mapping[str, Any],
    threads: int,
) -> None:
    """Write the run of operators as one session call, and begin another."""
    inside = set(run)
    takes = dict.fromkeys(
        s for node in run for s in node.all_input_nodes if s.op != "get_attr" and s not in inside
    )
    makes = [node for node in run if isinstance(node.meta["val"], torch.Tensor)]
    makes = [node for node in makes if any(user not in inside for user in node.users)]
    if makes:
        session = _Session(_write(run, list(takes), makes, constants), threads)
        call = made.call_function(session, tuple(now[source] for source in takes))
        for number, node in enumerate(makes):
            now[node] = made.call_function(operator.getitem, (call, number))
    run.clear()


class _Session:
    """One ONNX Runtime session as a function of tensors."""

    def __init__(self, model: bytes, threads: int) -> None:
        import onnxruntime  # here: an extra

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._names = [given.name for given in self._session.get_inputs()]
        #: As the generated code spells it.
        self.__name__ = self.__qualname__ = "onnx_session"
        self.__module__ = __name__

    def __call__(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = {n: t.contiguous().numpy() for n, t in zip(self._names, tensors, strict=True)}
        return tuple(map(torch.from_numpy, self._session.run(None, given)))


def _tell_shapes(graph: fx.Graph, constants: Mapping[str, Any], takes: Sequence[TensorSpec]) -> None:
    """Have every node's `meta["val"]` be what it makes here: tiles are smaller than the maps they are of."""
    nodes = list(graph.nodes)
    for node, spec in zip(graph.find_nodes(op="placeholder"), takes, strict=True):
        node.meta["val"] = torch.empty(spec.shape, dtype=getattr(torch, spec.dtype), device="meta")
    if all("val" in node.meta for node in nodes if node.op not in ("output", "get_attr")):
        for node in nodes:
            if node.op == "get_attr":
                node.meta["val"] = constants[str(node.target)].to("meta")
        return

    class Tell(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            n.meta = {**n.meta, "val": value}
            return value

    attributes = {str(n.target): constants[str(n.target)].to("meta") for n in nodes if n.op == "get_attr"}
    given = [n.meta["val"] for n in nodes if n.op == "placeholder"]
    Tell(fx.GraphModule(attributes, graph, "Shapes")).run(*given)
    for node in nodes:
        if node.op == "get_attr":
            node.meta["val"] = constants[str(node.target)].to("meta")


def _write(
    run: Sequence[fx.Node], takes: Sequence[fx.Node], makes: Sequence[fx.Node], constants: Mapping[str, Any]
) -> bytes:
    from onnx import helper

    writer = _Writer(constants)
    for node in takes:
        writer.names[node] = f"in_{len(writer.names)}"
    for node in run:
        writer.add(node)

    def tell(name: str, node: fx.Node) -> Any:
        value: torch.Tensor = node.meta["val"]
        return helper.make_tensor_value_info(name, _TYPES[value.dtype], list(value.shape))

    inputs = [tell(writer.names[node], node) for node in takes]
    # An output must be made by a node, under its own name, once.
    outputs = []
    for number, node in enumerate(makes):
        writer.put("Identity", [writer.names[node]], out=f"out_{number}")
        outputs.append(tell(f"out_{number}", node))
    graph = helper.make_graph(writer.nodes, "step", inputs, outputs, list(writer.initializers.values()))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    return bytes(model.SerializeToString())


class _Writer:
    """An ONNX graph that grows."""

    def __init__(self, constants: Mapping[str, Any]) -> None:
        self._constants = constants
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}
        self.names: dict[fx.Node, str] = {}
        #: Of operators that make several values.
        self.parts: dict[fx.Node, list[str]] = {}

    def add(self, node: fx.Node) -> None:
        if node.target is operator.getitem:
            source, number = node.args
            self.names[node] = self.parts[source][number]  # type: ignore[index]
            return
        made = _OPERATORS[_name(node)](self, node, _given(node))
        if isinstance(made, list):
            self.parts[node] = made
        else:
            self.names[node] = made

    def put(self, kind: str, inputs: Sequence[str], out: str = "", outputs: int = 1, **settings: Any) -> Any:
        """Add an operator; its output's name, or names if there are several."""
        from onnx import helper

        number = len(self.nodes)
        names = [out or f"v{number}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **settings))
        return names[0] if outputs == 1 else names

    def read(self, value: Any, like: torch.dtype = torch.float32) -> str:
        """The name of what an argument stands for: a node, a constant of the network, or a number."""
        if isinstance(value, fx.Node) and value.op != "get_attr":
            return self.names[value]
        if isinstance(value, fx.Node):
            return self.constant(str(value.target), self._constants[str(value.target)])
        return self.constant(f"number_{value}_{like}", torch.tensor(value, dtype=like))

    def constant(self, name: str, tensor: torch.Tensor) -> str:
        from onnx import helper

        if name not in self.initializers:
            array = tensor.detach().contiguous()
            self.initializers[name] = helper.make_tensor(
                name, _TYPES[array.dtype], list(array.shape), array.numpy().tobytes(), raw=True
            )
        return name

    def reshaped(self, constant: fx.Node, shape: Sequence[int]) -> str:
        """A constant of the network in another shape."""
        name = str(constant.target)
        return self.constant(f"{name} {list(shape)}", self._constants[name].reshape(shape))

    def numbers(self, values: Sequence[int]) -> str:
        return self.constant(f"numbers_{list(values)}", torch.tensor(list(values), dtype=torch.int64))


# ── what is known ────────────────────────────────────────────────────────────────────────────────────


def _is_known(node: fx.Node, run: Sequence[fx.Node]) -> bool:
    """Whether a session can do it, behind the operators of `run`."""
    if node.op != "call_function":
        return False
    if node.target is operator.getitem:
        return node.args[0] in run
    name, made = _name(node), node.meta["val"]
    if name not in _OPERATORS:
        return False
    if isinstance(made, (list, tuple)):  # its parts must be read at once, by number
        if name != "unbind" or not _read_at_once(node):
            return False
        made = made[0]
    values = [made] + [source.meta["val"] for source in node.all_input_nodes]
    if any(not isinstance(value, torch.Tensor) or value.dtype not in _TYPES for value in values):
        return False
    kinds = {value.dtype for value in values}
    if name == "to":
        return bool(made.dtype is torch.float32)
    if name not in _ANY_NUMBERS and kinds != {torch.float32}:
        return False
    return len(kinds) == 1 and (name not in _ONLY_IF or _ONLY_IF[name](_given(node), node))


def _read_at_once(node: fx.Node) -> bool:
    """Whether only `getitem`s read it, and those stand right behind it."""
    here, left = node.next, set(node.users)
    while left and here in left and here.target is operator.getitem:
        left.discard(here)
        here = here.next
    return not left


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, (int, float))


def _is_plain_pool(a: _Given, node: fx.Node) -> bool:
    """Rounding up must not matter: the two disagree on windows that begin in the padding."""
    if a.get("divisor_override") or len(_shape(node)) != 4:
        return False
    kernel, padding = _pair(a["kernel_size"]), _pair(a["padding"])
    stride, dilation = _pair(a["stride"]) if a["stride"] else kernel, _pair(a.get("dilation", 1))
    taken = _shape(a["input" if "input" in a else "self"])[2:]
    return list(_shape(node)[2:]) == [
        (t + 2 * p - d * (k - 1) - 1) // s + 1
        for t, p, d, k, s in zip(taken, padding, dilation, kernel, stride, strict=True)
    ]


def _is_even(a: _Given, node: fx.Node) -> bool:
    return len(_shape(node)) == 4 and all(
        taken % size == 0 for taken, size in zip(_shape(a["self"])[2:], _shape(node)[2:], strict=True)
    )


#: Those that move numbers about, of whatever type.
_ANY_NUMBERS = frozenset(
    {"cat", "crop", "flatten", "permute", "reshape", "select", "slice", "squeeze", "t"}
) | {
    *("transpose", "unbind", "unflatten", "unsqueeze", "view"),
}

_ONLY_IF: dict[str, Callable[[_Given, fx.Node], bool]] = {
    "adaptive_avg_pool2d": _is_even,
    "add": lambda a, _: a.get("alpha", 1) == 1,
    "avg_pool2d": _is_plain_pool,
    "batch_norm": lambda a, _: not a["training"] and a["running_mean"] is not None,
    "clamp": lambda a, _: _is_number(a["min"]) and _is_number(a["max"]),
    "conv2d": lambda a, _: len(_shape(a["input"])) == 4,
    "div": lambda a, _: a.get("rounding_mode") is None,
    "elu": lambda a, _: (a["alpha"], a["scale"], a["input_scale"]) == (1, 1, 1),
    "layer_norm": lambda a, _: a["weight"] is not None,
    "max_pool2d": _is_plain_pool,
    "mean": lambda a, _: a.get("dtype") is None and "dim" in a,
    "scaled_dot_product_attention": lambda a, _: (
        a["attn_mask"] is None and not a["is_causal"] and not a["dropout_p"] and not a["enable_gqa"]
    ),
    "slice": lambda a, _: (a["start"] or 0) >= 0 and (a["end"] is None or a["end"] >= 0),
    "softmax": lambda a, _: a.get("dtype") is None,
    "sub": lambda a, _: a.get("alpha", 1) == 1,
}


# ── operators ────────────────────────────────────────────────────────────────────────────────────────

_Given = Mapping[str, Any]
_Maker = Callable[[_Writer, fx.Node, _Given], Any]


def _name(node: fx.Node) -> str:
    return operator_name(node).lstrip("_")


def _given(node: fx.Node) -> _Given:
    if isinstance(node.target, torch._ops.OpOverload):
        return arguments(node)
    return {str(number): value for number, value in enumerate(node.args)}


def _pair(value: Any) -> list[int]:
    both = list(value) if isinstance(value, (list, tuple)) else [value]
    return [int(both[0]), int(both[-1])]


def _shape(node: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in node.meta["val"].shape)


def _conv(w: _Writer, node: fx.Node, a: _Given) -> str:
    padding = a["padding"]
    settings: dict[str, Any] = {}
    if padding == "same":
        settings["auto_pad"] = "SAME_UPPER"
    else:
        settings["pads"] = [0] * 4 if padding == "valid" else _pair(padding) * 2
    inputs = [w.read(a["input"]), w.read(a["weight"])] + (
        [w.read(a["bias"])] if a["bias"] is not None else []
    )
    made: str = w.put(
        "Conv",
        inputs,
        strides=_pair(a["stride"]),
        dilations=_pair(a["dilation"]),
        group=int(a["groups"]),
        **settings,
    )
    return made


def _batch_norm(w: _Writer, node: fx.Node, a: _Given) -> str:
    channels = _shape(a["input"])[1]
    weight = w.read(a["weight"]) if a["weight"] is not None else w.constant("ones", torch.ones(channels))
    bias = w.read(a["bias"]) if a["bias"] is not None else w.constant("zeros", torch.zeros(channels))
    mean, var = w.read(a["running_mean"]), w.read(a["running_var"])
    made: str = w.put(
        "BatchNormalization", [w.read(a["input"]), weight, bias, mean, var], epsilon=float(a["eps"])
    )
    return made


def _pool(kind: str) -> _Maker:
    def make(w: _Writer, node: fx.Node, a: _Given) -> Any:
        kernel = _pair(a["kernel_size"])
        settings: dict[str, Any] = {
            "kernel_shape": kernel,
            "strides": _pair(a["stride"]) if a["stride"] else kernel,
            "pads": _pair(a["padding"]) * 2,
            "ceil_mode": int(a["ceil_mode"]),
        }
        if kind == "MaxPool":
            settings["dilations"] = _pair(a["dilation"])
        else:
            settings["count_include_pad"] = int(a["count_include_pad"])
        return w.put(kind, [w.read(a["input" if "input" in a else "self"])], **settings)

    return make


def _adaptive(w: _Writer, node: fx.Node, a: _Given) -> str:
    taken, size = _shape(a["self"])[-2:], _pair(a["output_size"])
    kernel = [t // s for t, s in zip(taken, size, strict=True)]
    if kernel == [1, 1]:
        return str(w.put("Identity", [w.read(a["self"])]))
    if size == [1, 1]:
        return str(w.put("GlobalAveragePool", [w.read(a["self"])]))
    return str(w.put("AveragePool", [w.read(a["self"])], kernel_shape=kernel, strides=kernel))


def _linear(w: _Writer, node: fx.Node, a: _Given) -> str:
    taken, bias = w.read(a["input"]), a["bias"]
    if len(_shape(a["input"])) == 2:
        if _shape(a["input"])[0] == 1 and a["weight"].op == "get_attr":
            return _row(w, taken, a)
        inputs = [taken, w.read(a["weight"])] + ([w.read(bias)] if bias is not None else [])
        return str(w.put("Gemm", inputs, transB=1))
    flipped = w.put("Transpose", [w.read(a["weight"])], perm=[1, 0])  # folded when the session is made
    product = w.put("MatMul", [taken, flipped])
    return str(w.put("Add", [product, w.read(bias)]) if bias is not None else product)


def _row(w: _Writer, taken: str, a: _Given) -> str:
    """A single row times a matrix, as a convolution of one pixel: that reads the weights where they lie,
    once, and reading is what takes the time (AlexNet's first: 9.6 ms, 11.7 as `Gemm`, 10.9 as `MatMul`)."""
    outputs, inputs = _shape(a["weight"])
    pixel = w.put("Reshape", [taken, w.numbers([1, inputs, 1, 1])])
    kernels = w.reshaped(a["weight"], [outputs, inputs, 1, 1])
    bias = [w.read(a["bias"])] if a["bias"] is not None else []
    made = w.put("Conv", [pixel, kernels, *bias], kernel_shape=[1, 1])
    return str(w.put("Reshape", [made, w.numbers([1, outputs])]))


def _reshape(w: _Writer, node: fx.Node, a: _Given) -> str:
    return str(w.put("Reshape", [w.read(a["self"]), w.numbers(_shape(node))]))


def _turn(w: _Writer, node: fx.Node, a: _Given) -> str:
    rank = len(_shape(a["self"]))
    order = [d % rank for d in a["dims"]] if "dims" in a else list(range(rank))
    if "dim0" in a:
        one, other = a["dim0"] % rank, a["dim1"] % rank
        order[one], order[other] = order[other], order[one]
    return str(w.put("Transpose", [w.read(a["self"])], perm=order))


def _cat(w: _Writer, node: fx.Node, a: _Given) -> str:
    return str(w.put("Concat", [w.read(t) for t in a["tensors"]], axis=int(a["dim"])))


def _two(kind: str) -> _Maker:
    def make(w: _Writer, node: fx.Node, a: _Given) -> Any:
        dtype: torch.dtype = node.meta["val"].dtype
        return w.put(kind, [w.read(a["self"], dtype), w.read(a["other"], dtype)])

    return make


def _one(kind: str, **settings: Any) -> _Maker:
    def make(w: _Writer, node: fx.Node, a: _Given) -> Any:
        return w.put(kind, [w.read(a["self" if "self" in a else "input"])], **settings)

    return make


def _clip(low: Any, high: Any) -> _Maker:
    """Bounds are numbers, or names of arguments."""

    def make(w: _Writer, node: fx.Node, a: _Given) -> Any:
        bounds = [a.get(b) if isinstance(b, str) else b for b in (low, high)]
        names = ["" if bound is None else w.read(float(bound)) for bound in bounds]
        return w.put("Clip", [w.read(a["self"]), *names])

    return make


def _leaky(w: _Writer, node: fx.Node, a: _Given) -> str:
    return str(w.put("LeakyRelu", [w.read(a["self"])], alpha=float(a["negative_slope"])))


def _silu(w: _Writer, node: fx.Node, a: _Given) -> str:
    taken = w.read(a["self"])
    return str(w.put("Mul", [taken, w.put("Sigmoid", [taken])]))


def _gelu(w: _Writer, node: fx.Node, a: _Given) -> str:
    return str(w.put("Gelu", [w.read(a["self"])], approximate=str(a["approximate"])))


def _softmax(w: _Writer, node: fx.Node, a: _Given) -> str:
    return str(w.put("Softmax", [w.read(a["self"])], axis=int(a["dim"])))


def _mean(w: _Writer, node: fx.Node, a: _Given) -> str:
    rank = len(_shape(a["self"]))
    axes = [int(d) % rank for d in (a["dim"] or range(rank))]
    return str(w.put("ReduceMean", [w.read(a["self"]), w.numbers(axes)], keepdims=int(a["keepdim"])))


def _select(w: _Writer, node: fx.Node, a: _Given) -> str:
    index = w.constant(f"index_{a['index']}", torch.tensor(int(a["index"])))
    return str(w.put("Gather", [w.read(a["self"]), index], axis=int(a["dim"])))


def _slice(w: _Writer, node: fx.Node, a: _Given) -> str:
    dim = int(a["dim"])
    size = _shape(a["self"])[dim]
    start, end = (size if v is None else int(v) for v in (a["start"] or 0, a["end"]))
    numbers = [w.numbers([value]) for value in (start, min(end, size), dim, int(a["step"]))]
    return str(w.put("Slice", [w.read(a["self"]), *numbers]))


def _unbind(w: _Writer, node: fx.Node, a: _Given) -> list[str]:
    dim = int(a["dim"])
    count = _shape(a["self"])[dim]
    parts = w.put("Split", [w.read(a["self"])], outputs=count, axis=dim, num_outputs=count)
    return [str(w.put("Squeeze", [part, w.numbers([dim])])) for part in (parts if count > 1 else [parts])]


def _layer_norm(w: _Writer, node: fx.Node, a: _Given) -> str:
    inputs = [w.read(a["input"]), w.read(a["weight"])] + (
        [w.read(a["bias"])] if a["bias"] is not None else []
    )
    axis = -len(a["normalized_shape"])
    return str(w.put("LayerNormalization", inputs, axis=axis, epsilon=float(a["eps"])))


def _attention(w: _Writer, node: fx.Node, a: _Given) -> str:
    rank, width = len(_shape(a["query"])), _shape(a["query"])[-1]
    scale = 1 / math.sqrt(width) if a["scale"] is None else float(a["scale"])
    query = w.put("Mul", [w.read(a["query"]), w.read(scale)])
    turned = w.put("Transpose", [w.read(a["key"])], perm=[*range(rank - 2), rank - 1, rank - 2])
    weights = w.put("Softmax", [w.put("MatMul", [query, turned])], axis=-1)
    return str(w.put("MatMul", [weights, w.read(a["value"])]))


def _cast(w: _Writer, node: fx.Node, a: _Given) -> str:
    return str(w.put("Cast", [w.read(a["self"])], to=_TYPES[node.meta["val"].dtype]))


def _crop(w: _Writer, node: fx.Node, a: _Given) -> str:
    starts, stops = a["1"][::2], a["1"][1::2]  # rows, columns, channels
    ends = [w.numbers(list(starts)), w.numbers(list(stops)), w.numbers([2, 3, 1])]
    return str(w.put("Slice", [w.read(a["0"]), *ends]))


def _frame(w: _Writer, node: fx.Node, a: _Given) -> str:
    part = _crop(w, node, a)
    top, bottom, left, right = Padding(*a["2"])
    if not any(a["2"]):
        return part
    around = w.numbers([0, 0, top, left, 0, 0, bottom, right])
    return str(w.put("Pad", [part, around, w.read(float(a["3"]))]))


_OPERATORS: dict[str, _Maker] = {
    "adaptive_avg_pool2d": _adaptive,
    "add": _two("Add"),
    "avg_pool2d": _pool("AveragePool"),
    "batch_norm": _batch_norm,
    "cat": _cat,
    "clamp": _clip("min", "max"),
    "conv2d": _conv,
    "crop": _crop,
    "div": _two("Div"),
    "elu": _one("Elu"),
    "exp": _one("Exp"),
    "flatten": _reshape,
    "frame": _frame,
    "gelu": _gelu,
    "hardsigmoid": _one("HardSigmoid", alpha=1 / 6, beta=0.5),
    "hardswish": _one("HardSwish"),
    "hardtanh": _clip("min_val", "max_val"),
    "layer_norm": _layer_norm,
    "leaky_relu": _leaky,
    "linear": _linear,
    "max_pool2d": _pool("MaxPool"),
    "mean": _mean,
    "mish": _one("Mish"),
    "mul": _two("Mul"),
    "neg": _one("Neg"),
    "permute": _turn,
    "relu": _one("Relu"),
    "relu6": _clip(0.0, 6.0),
    "reshape": _reshape,
    "scaled_dot_product_attention": _attention,
    "select": _select,
    "sigmoid": _one("Sigmoid"),
    "silu": _silu,
    "slice": _slice,
    "softmax": _softmax,
    "sqrt": _one("Sqrt"),
    "squeeze": _reshape,
    "sub": _two("Sub"),
    "t": _turn,
    "tanh": _one("Tanh"),
    "to": _cast,
    "transpose": _turn,
    "unbind": _unbind,
    "unflatten": _reshape,
    "unsqueeze": _reshape,
    "view": _reshape,
    **dict.fromkeys(
        ("alias", "clone", "contiguous", "detach", "dropout", "feature_dropout"), _one("Identity")
    ),
}
