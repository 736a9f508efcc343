"""A network in one `.safetensors` file: operators as JSON in its metadata, and all its weights.

`d3bed export` writes one of a user's network, once, where its code and torch are; boards then need neither
the code nor a `.pt2` file, and the server sends them the file by hash. Nothing in it is code, and nothing in
it is believed: operators are torch's own and pure (none reads files, draws random numbers or writes to what
it is given), names are plain, and what each operator makes is worked out anew, without computing anything.
"""

from __future__ import annotations

import json
import keyword
import operator
import re
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import fx

from d3bed.core.errors import ModelError
from d3bed.model.constants import TensorFile
from d3bed.model.export import Flat, is_random, writes
from d3bed.model.exported import Reading, draft
from d3bed.model.weights import Fill, Where

__all__ = ["SUFFIX", "pack", "read"]

SUFFIX = ".safetensors"

_KEY = "d3bed.network"
_FORMAT = "d3bed.network/1"
_MOST_NODES = 100_000
#: No tensor of a network that boards run is larger.
_MOST_BYTES = 1 << 32
#: The longest path of a module.
_MOST_LETTERS = 1000
_MOST_DEPTH = 4
#: Words that operators are told; another word could be the name of a file.
_WORDS = frozenset({"none", "tanh", "trunc", "floor", "same", "valid", "reflect", "replicate", "circular"})
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def pack(name: str, flat: Flat, fills: dict[Where, Fill]) -> bytes:
    """The file's content. Raises `ModelError` if it has no words for something in the network."""
    drafted = draft(flat, fills)
    if drafted is None:
        remedy = "use torch's own operators (aten) and contiguous weights"
        raise ModelError(name, "", "has operators or weights that such a file has no words for", remedy)
    text = json.dumps(drafted.text | {"format": _FORMAT, "made_by": f"torch {torch.__version__}"})
    return safetensors.torch.save(drafted.stored, {_KEY: text})


def read(path: Path) -> Flat:
    """Raises `ModelError` that says what is wrong with it."""
    name = str(path)
    try:
        file = TensorFile(path)
        kept = file.metadata.get(_KEY)
        if kept is None:
            raise _bad(name, "holds no network, perhaps weights alone", "write it with d3bed export")
        text = json.loads(kept)
        if text["format"] != _FORMAT:
            raise _bad(name, f"is of the format {text['format']!r}", f"this version reads {_FORMAT}")
        _check_text(text)
        constants = Reading.constants_of(text, file)
        flat = Reading(constants).flat(text)
        for node in flat.graph.nodes:
            _check(node)
    except (OSError, safetensors.SafetensorError) as error:
        raise _bad(name, f"cannot be read: {error}", "check the file") from error
    except _Refused as error:
        raise _bad(name, str(error), "write it anew with d3bed export") from error
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, RecursionError) as error:
        what = f"is not whole: {type(error).__name__}: {str(error)[:200]}"
        raise _bad(name, what, "write it anew with d3bed export") from error
    return flat


class _Refused(Exception):
    """Something that no network needs."""


def _bad(name: str, problem: str, remedy: str) -> ModelError:
    return ModelError(name, "", problem, remedy)


def _check_text(text: dict[str, Any]) -> None:
    """All that could become a word of the code that is made of the operators, before it does."""
    nodes = text["nodes"]
    if not 0 < len(nodes) <= _MOST_NODES:
        raise _Refused(f"has {len(nodes)} operators")
    if [node["op"] for node in nodes].count("placeholder") != 1:
        raise _Refused("does not take one image")
    for node in nodes:
        words = [node["name"], *node["kwargs"]]
        if node["op"] != "call_function":
            words.append(node["target"])
        for word in words:
            if not isinstance(word, str) or not _PLAIN.fullmatch(word) or keyword.iskeyword(word):
                raise _Refused(f"has something named {word!r:.100}")
        if node["op"] not in ("placeholder", "get_attr", "call_function"):
            raise _Refused(f"{node['name']} is a {node['op']!r:.100}")
        if not isinstance(node["path"], str) or len(node["path"]) > _MOST_LETTERS:
            raise _Refused(f"{node['name']} has no path that could be shown")
        _check_argument(node["args"])
        _check_argument(list(node["kwargs"].values()))
    for how in text["constants"].values():
        if how is not None:
            *_, shape, dtype = how
            _check_size(shape, getattr(torch, dtype))


def _check_argument(value: Any, depth: int = 0) -> None:
    if isinstance(value, str) and value not in _WORDS:
        raise _Refused(f"tells an operator {value!r:.100}")
    if isinstance(value, dict) and value.get("device", "cpu") != "cpu":
        raise _Refused(f"puts something on {value['device']!r:.100}")
    if isinstance(value, list):
        if depth == _MOST_DEPTH:
            raise _Refused("has lists in lists")
        for each in value:
            _check_argument(each, depth + 1)


def _check_size(shape: Any, dtype: torch.dtype) -> None:
    count = dtype.itemsize
    for size in shape:
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise _Refused(f"has a tensor of {shape!r:.100}")
        count *= max(size, 1)
    if count > _MOST_BYTES:
        raise _Refused(f"has a tensor of {count / 1e9:.3g} GB")


def _check(node: fx.Node) -> None:
    """Whether the operator is pure, and makes what the file says."""
    if node.op == "placeholder":
        image = node.meta["val"]
        if image.dtype != torch.uint8 or image.dim() != 4 or image.shape[:2] != (1, 3):
            raise _Refused(f"takes {image.dtype}{list(image.shape)}, not uint8 [1, 3, H, W]")
        _check_size(image.shape, image.dtype)
    if node.op != "call_function":
        return
    target: Any = node.target
    if target is not operator.getitem:
        schema = target._schema
        if writes(node) or is_random(node):
            raise _Refused(f"{node.name} is {schema.name}, which is not pure")
        if not node.all_input_nodes:
            raise _Refused(f"{node.name} ({schema.name}) makes something of nothing")
    given = fx.node.map_arg((node.args, node.kwargs), lambda each: _shape_of(each.meta["val"]))
    with torch.no_grad():
        made = target(*given[0], **given[1])
    if not _is_alike(made, node.meta["val"]):
        raise _Refused(f"{node.name} does not make what the file says")


def _shape_of(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_shape_of(each) for each in value]
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


def _is_alike(made: Any, told: Any) -> bool:
    if isinstance(told, list):
        return len(made) == len(told) and all(map(_is_alike, made, told))
    _check_size(told.shape, told.dtype)
    return isinstance(made, torch.Tensor) and (made.shape, made.dtype) == (told.shape, told.dtype)
