"""Tensors keep dtype, strides and bits on their way through bytes, without copies where possible."""

from __future__ import annotations

import pytest
import torch

from d3bed.core.graph import ITEM_BYTES
from d3bed.model import from_wire, relative_error, to_wire

BASE = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)


@pytest.mark.parametrize("dtype", sorted(ITEM_BYTES))
def test_every_dtype_crosses(dtype: str) -> None:
    tensor = BASE.to(getattr(torch, dtype))
    name, shape, strides, payload = to_wire(tensor)
    assert (name, shape, payload.nbytes) == (dtype, (2, 3, 4, 5), 120 * ITEM_BYTES[dtype])
    assert torch.equal(from_wire(name, shape, strides, memoryview(bytearray(payload))), tensor)


@pytest.mark.parametrize(
    "tensor",
    [
        BASE,
        BASE.permute(2, 0, 3, 1),
        BASE.float().contiguous(memory_format=torch.channels_last),
        BASE[1],
        BASE[:1].transpose(1, 3),
        torch.tensor(3.5),
        torch.zeros(0, 3),
    ],
)
def test_dense_tensors_are_sent_as_they_lie(tensor: torch.Tensor) -> None:
    name, shape, strides, payload = to_wire(tensor)
    assert strides == tensor.stride()
    back = from_wire(name, shape, strides, memoryview(bytearray(payload)))
    assert torch.equal(back, tensor)
    if tensor.numel():
        assert torch.frombuffer(payload, dtype=torch.uint8).data_ptr() == tensor.data_ptr()


@pytest.mark.parametrize(
    ("tensor", "strides"),
    [
        (BASE[:, :2], (40, 20, 5, 1)),
        (BASE.permute(0, 2, 3, 1)[:, :2], (30, 5, 1, 10)),
        (torch.ones(1, 3, 1).expand(4, 3, 5), (15, 5, 1)),
        (BASE.unbind(1)[1], (20, 5, 1)),
        (BASE[..., ::2], (36, 12, 3, 1)),
    ],
)
def test_others_become_dense_in_the_same_order(tensor: torch.Tensor, strides: tuple[int, ...]) -> None:
    name, shape, made, payload = to_wire(tensor)
    assert payload.nbytes == tensor.numel() * tensor.element_size()
    assert sorted(made) == sorted(strides)
    if 0 not in tensor.stride():
        assert made == strides
    assert torch.equal(from_wire(name, shape, made, memoryview(bytearray(payload))), tensor)


def test_the_buffer_becomes_the_tensor() -> None:
    buffer = bytearray(16)
    tensor = from_wire("float32", (2, 2), (2, 1), memoryview(buffer))
    buffer[0:4] = torch.tensor([2.5]).numpy().tobytes()
    assert tensor[0, 0] == 2.5
    fixed = from_wire("float32", (2, 2), (2, 1), memoryview(bytes(buffer)))
    assert torch.equal(fixed, tensor)


def test_the_bytes_outlive_the_tensor() -> None:
    tensor = torch.full((1000,), 7, dtype=torch.uint8)
    payload = to_wire(tensor)[3]
    del tensor
    assert bytes(payload) == b"\x07" * 1000


def test_relative_error_is_scaled_by_the_largest_value() -> None:
    want = (torch.tensor([4.0, -8.0]),)
    assert relative_error((torch.tensor([4.0, -8.4]),), want) == pytest.approx(0.05)
    assert relative_error(want, want) == 0.0
