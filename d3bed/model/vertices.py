"""Which operators form a vertex, and the graph that everybody else sees.

An operator is a vertex of its own unless it is light (an activation, batch norm, dropout, a view, plain
arithmetic, a cast) and follows a single vertex whose value nobody else reads: then it joins it. Numbers,
names and the graph's digest follow from the network alone, never from memory addresses or set order.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import fx

from d3bed.core.errors import ModelError
from d3bed.core.graph import ITEM_BYTES, Edge, Graph, TensorSpec, Value, Vertex
from d3bed.model.cost import flops, positional, weight_bytes, window
from d3bed.model.export import DECODE, NORMALISE, Flat, operator_name, path_of

__all__ = ["Body", "vertices_of"]

_LIGHT = frozenset(
    {
        # activations
        *("celu", "clamp", "clamp_max", "clamp_min", "elu", "gelu", "hardsigmoid", "hardswish", "hardtanh"),
        *("leaky_relu", "log_sigmoid", "mish", "prelu", "relu", "relu6", "rrelu", "selu", "sigmoid", "silu"),
        *("softplus", "tanh", "threshold"),
        # in eval mode
        *("_native_batch_norm_legit_no_training", "alpha_dropout", "batch_norm", "dropout"),
        "feature_dropout",
        # views and copies
        *("alias", "chunk", "clone", "contiguous", "detach", "flatten", "narrow", "permute", "reshape"),
        *("select", "slice", "split", "split_with_sizes", "squeeze", "swapaxes", "t", "tensor_split", "to"),
        *("_to_copy", "transpose", "type_as", "unbind", "unflatten", "unsqueeze", "view"),
        # arithmetic with constants
        *("abs", "add", "div", "exp", "mul", "neg", "pow", "reciprocal", "rsqrt", "rsub", "sqrt", "square"),
        "sub",
    }
)


@dataclass(frozen=True)
class Body:
    """What the graph's numbers stand for: operators per vertex, the node of each value, the constants, and
    which vertices may run with packed weights."""

    nodes: tuple[tuple[fx.Node, ...], ...]
    values: dict[Value, fx.Node]
    constants: Mapping[str, torch.Tensor]
    packable: frozenset[int] = frozenset()


def vertices_of(name: str, flat: Flat) -> tuple[Graph, Body]:
    """Raises `ModelError` if something other than a tensor would have to cross a cut."""
    groups: list[list[fx.Node]] = [[flat.image]]
    owner: dict[fx.Node, int] = {flat.image: 0}
    for node in flat.graph.nodes:
        if node.op != "call_function":
            continue
        sources = _sources(node)
        owners = {owner[source] for source in sources}
        joins = node.target is operator.getitem or (
            operator_name(node) in _LIGHT
            and len(owners) == 1
            and 0 not in owners
            and not any(DECODE in source.meta for source in sources)
            and all(len(source.users) == 1 for source in sources)
        )
        if joins:
            owner[node] = owner[sources[0]]
            groups[owner[node]].append(node)
        else:
            owner[node] = len(groups)
            groups.append([node])

    outputs = [[n for n in group if any(owner.get(u) != owner[n] for u in n.users)] for group in groups]
    outputs[0] = [flat.image]
    values = {Value(v, o): node for v, made in enumerate(outputs) for o, node in enumerate(made)}
    names = _names(groups)
    graph = Graph(
        name,
        tuple(
            _vertex(name, names[v], group, made)
            for v, (group, made) in enumerate(zip(groups, outputs, strict=True))
        ),
        _edges(groups, owner, values),
        tuple(next(value for value, node in values.items() if node is result) for result in flat.results),
    )
    graph.check()
    return graph, Body(tuple(map(tuple, groups)), values, flat.constants)


def _sources(node: fx.Node) -> list[fx.Node]:
    return [source for source in node.all_input_nodes if source.op != "get_attr"]


def _edges(
    groups: list[list[fx.Node]], owner: dict[fx.Node, int], values: dict[Value, fx.Node]
) -> tuple[Edge, ...]:
    of_node = {node: value for value, node in values.items()}
    read: dict[tuple[int, int], set[int]] = {}
    for consumer, group in enumerate(groups):
        for node in group:
            for source in _sources(node):
                if owner[source] != consumer:
                    read.setdefault((owner[source], consumer), set()).add(of_node[source].output)
    return tuple(Edge(*pair, tuple(sorted(read[pair]))) for pair in sorted(read))


def _vertex(model: str, name: str, group: list[fx.Node], made: list[fx.Node]) -> Vertex:
    head = group[0]
    outputs = []
    for node in made:
        value = node.meta["val"]
        dtype = str(value.dtype).removeprefix("torch.") if isinstance(value, torch.Tensor) else "no tensor"
        if dtype not in ITEM_BYTES:
            raise ModelError(
                model,
                path_of(node) or "forward",
                f"operator {operator_name(node)} makes {dtype}, which cannot cross a link",
                f"use tensors of {', '.join(ITEM_BYTES)}",
            )
        outputs.append(
            TensorSpec(tuple(int(size) for size in value.shape), dtype, node.meta.get("usual_bytes"))
        )
    if head.op == "placeholder":
        return Vertex(name, "input", tuple(outputs))
    return Vertex(
        name,
        NORMALISE if NORMALISE in head.meta else operator_name(head),
        tuple(outputs),
        tuple(operator_name(node) for node in group if node.target is not operator.getitem),
        sum(flops(node) for node in group),
        weight_bytes(
            {source for node in group for source in node.all_input_nodes if source.op == "get_attr"}
        ),
        window(head),
        any(positional(node) for node in group),
    )


def _names(groups: list[list[fx.Node]]) -> list[str]:
    """The module's path where it is this vertex's alone, else path and operator; repeated ones numbered."""
    paths = [path_of(group[0]) for group in groups]
    count = Counter(paths)
    parents = {path[:dot] for path in paths for dot, letter in enumerate(path) if letter == "."}
    used: Counter[str] = Counter()
    names = []
    for path, (head, *_) in zip(paths, groups, strict=True):
        if head.op == "placeholder":
            name = "input"
        elif DECODE in head.meta:
            name = DECODE
        elif NORMALISE in head.meta:
            name = NORMALISE
        elif path and count[path] == 1 and path not in parents:
            name = path
        else:
            name = f"{path}.{operator_name(head)}".lstrip(".")
        used[name] += 1
        while used[name] > 1:
            name = f"{name}_{used[name]}"
            used[name] += 1
        names.append(name)
    return names
