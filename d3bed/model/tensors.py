"""Tensors to bytes and back.

Which kernel an operator picks, and so how it rounds, may follow its input's strides: they travel with
the bytes. A dense tensor (any permutation of a contiguous layout) is sent as it lies in memory, without
a copy; one with holes or repeats (a slice, an expanded constant) is first copied to a dense layout of
the same stride order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

__all__ = ["from_wire", "relative_error", "to_wire"]


def to_wire(tensor: torch.Tensor) -> tuple[str, tuple[int, ...], tuple[int, ...], memoryview]:
    """(dtype as in `ITEM_BYTES`, shape, strides in elements, bytes). The view keeps the tensor alive."""
    if not _dense(tensor):
        tensor = tensor.clone(memory_format=torch.preserve_format)
    flat = tensor.as_strided((tensor.numel(),), (1,), tensor.storage_offset())
    raw: Any = flat.view(torch.uint8).numpy()
    dtype = str(tensor.dtype).removeprefix("torch.")
    return dtype, tuple(tensor.shape), tensor.stride(), memoryview(raw)


def from_wire(
    dtype: str, shape: tuple[int, ...], strides: tuple[int, ...], buffer: memoryview
) -> torch.Tensor:
    """A tensor over `buffer`, which it keeps alive; only a read-only buffer is copied.

    The caller has checked dtype, shape and strides against the buffer's size (`net/wire` does).
    """
    kind: torch.dtype = getattr(torch, dtype)
    if not buffer.nbytes:
        return torch.empty_strided(shape, strides, dtype=kind)
    flat = torch.frombuffer(bytearray(buffer) if buffer.readonly else buffer, dtype=kind)
    return flat.as_strided(shape, strides)


def relative_error(answer: Sequence[torch.Tensor], reference: Sequence[torch.Tensor]) -> float:
    """Largest absolute difference over the largest absolute reference value."""
    worst = 0.0
    for got, want in zip(answer, reference, strict=True):
        scale = float(want.double().abs().max()) or 1.0
        worst = max(worst, float((got.double() - want.double()).abs().max()) / scale)
    return worst


def _dense(tensor: torch.Tensor) -> bool:
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n != 1):
        if stride != expected:
            return False
        expected *= size
    return True
