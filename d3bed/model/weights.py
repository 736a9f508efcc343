"""What stands in a network's parameters: seeded random numbers, or a `.safetensors` file.

Libraries zero the last batch-norm weight of residual branches and shrink output layers, which makes
tests of exactness hollow: an error in a dead branch changes nothing. `randomise` fills everything with
live values (He's bounds for weights, non-trivial normalisation statistics).

Equal seeds give equal bits on every machine: each tensor has its own generator, seeded by its name,
and only uniform numbers, one multiplication and one addition are used (no vectorised logarithm).
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import torch
from torch import nn

from d3bed.core.errors import ModelError

__all__ = ["Fill", "Where", "fill", "load_file", "randomise", "seed_of", "where"]

#: torch has no public common base of its batch, instance, group and layer norms; they share these names.
_RUNNING = {"running_mean": (-0.2, 0.2), "running_var": (0.6, 1.4)}
_SCALE, _SHIFT = (0.6, 1.4), (-0.2, 0.2)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def seed_of(weights: str) -> int:
    """The number in `random:SEED`. Raises `ModelError`."""
    word, _, seed = weights.partition(":")
    if word != "random" or not seed.isdecimal():
        raise ModelError(
            weights,
            "weights",
            "not understood",
            "pretrained, random:SEED (a whole number) or a .safetensors file",
        )
    return int(seed)


class Fill(NamedTuple):
    """All that decides a tensor's seeded numbers, `low` to `high`."""

    key: str
    low: float
    high: float
    shape: tuple[int, ...]
    dtype: torch.dtype


#: Tensors of one place share their numbers.
Where = tuple[int, int]


def where(tensor: torch.Tensor) -> Where:
    return tensor.untyped_storage()._cdata, int(tensor.storage_offset())


def _is_hollow(tensor: torch.Tensor) -> bool:
    """Whether it has a shape, but no numbers (`loading` builds such networks)."""
    return hasattr(tensor, "fake_mode")


@torch.no_grad()
def randomise(module: nn.Module, seed: int) -> dict[Where, Fill]:
    """Fill every floating-point parameter and running statistic; with what, by where it is."""
    fills = {}
    for path, part in module.named_modules():
        for name, tensor in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)):
            if not tensor.is_floating_point():
                continue
            if isinstance(tensor, nn.Parameter):
                low, high = _bounds(part, name, tensor)
            elif name in _RUNNING:
                low, high = _RUNNING[name]
            else:
                continue  # a buffer that the module computed, such as a mask
            made = Fill(f"{seed}:{path}.{name}", low, high, tuple(tensor.shape), tensor.dtype)
            fills[where(tensor)] = made
            if not _is_hollow(tensor):
                tensor.copy_(fill(made))
    return fills


def _bounds(part: nn.Module, name: str, tensor: torch.Tensor) -> tuple[float, float]:
    if name == "bias":
        return _SHIFT
    if name == "weight" and tensor.dim() == 1:  # a normalisation's scale, or PReLU's slopes
        return (0.1, 0.4) if isinstance(part, nn.PReLU) else _SCALE
    if name == "weight" or tensor.dim() == 2:
        if isinstance(part, _TRANSPOSED):
            inputs = tensor.shape[0] // part.groups * math.prod(tensor.shape[2:]) / math.prod(part.stride)
        else:
            inputs = math.prod(tensor.shape[1:])
        bound = math.sqrt(6 / max(inputs, 1))
        return -bound, bound
    return -0.5, 0.5  # tokens, positions, layer scales


def fill(made: Fill) -> torch.Tensor:
    """The numbers, in memory of their own."""
    digest = hashlib.sha256(made.key.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    numbers = torch.rand(made.shape, generator=generator)
    return numbers.mul_(made.high - made.low).add_(made.low).to(made.dtype)


@torch.no_grad()
def load_file(module: nn.Module, path: Path) -> dict[Where, str]:
    """Copy a `.safetensors` file into the module's own tensors, one after the other out of the mapped file.

    Copied, not mapped for good: a weight that lies misaligned in a mapped file takes another kernel, which
    rounds differently. Returns, by where it is, the name there of each that is the same bit for bit. Raises
    `ModelError` naming what is missing, unexpected or of another shape.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return _copy(module.state_dict(), file, path)
    except (OSError, safetensors.SafetensorError) as error:
        raise ModelError(str(path), "weights", f"cannot be read: {error}", "check the file") from error


def _copy(wanted: dict[str, torch.Tensor], file: Any, path: Path) -> dict[Where, str]:
    found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    present = {where(wanted[name]) for name in wanted.keys() & found.keys()}
    problems = {
        "missing": [
            n
            for n in wanted
            if n not in found
            and where(wanted[n]) not in present  # tied to one that is there
            and not n.endswith("num_batches_tracked")
        ],
        "unexpected": [n for n in found if n not in wanted],
        "of another shape": [n for n in wanted if n in found and tuple(wanted[n].shape) != found[n]],
    }
    told = "; ".join(f"{len(names)} {what}: {_few(names)}" for what, names in problems.items() if names)
    if told:
        raise ModelError(str(path), "weights", told, "save the state_dict of this very model")
    names = {}
    for name in found:
        tensor = file.get_tensor(name)
        if not _is_hollow(wanted[name]):
            wanted[name].copy_(tensor)
        if tensor.dtype == wanted[name].dtype:
            names[where(wanted[name])] = name
    return names


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
