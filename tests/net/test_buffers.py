from __future__ import annotations

import gc
import threading

import numpy as np
import pytest

from d3bed.net.buffers import BufferPool

LARGE = 300_000


def address(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).__array_interface__["data"][0])


@pytest.mark.parametrize("nbytes", [1, 63, 64, 65, 10_000, 65_536, 65_537, 1_000_000, 12_800_000])
def test_views_are_writable_aligned_and_as_long_as_asked(nbytes: int) -> None:
    pool = BufferPool()
    for _ in range(3):
        view = pool.take(nbytes)
        assert len(view) == nbytes and not view.readonly and address(view) % 64 == 0
        view[-1] = 7


@pytest.mark.parametrize("nbytes", [100, 10_000])
def test_small_views_do_not_overlap(nbytes: int) -> None:
    pool = BufferPool()
    views = [pool.take(nbytes) for _ in range(500)]
    for number, view in enumerate(views):
        view[:] = bytes([number % 256]) * nbytes
    assert all(bytes(view) == bytes([number % 256]) * nbytes for number, view in enumerate(views))


def test_dead_buffer_is_used_again() -> None:
    pool = BufferPool()
    view = pool.take(LARGE)
    where = address(view)
    del view
    assert address(pool.take(LARGE + 1)) == where  # the same size class


@pytest.mark.parametrize(
    "derive",
    [
        lambda view: view[10:20],
        lambda view: view[::2],
        lambda view: memoryview(view).cast("B"),
        lambda view: np.frombuffer(view, np.float32),
        lambda view: np.frombuffer(view, np.float32).reshape(3, -1)[1:].T,
    ],
    ids=["slice", "strided slice", "cast", "array", "array of array"],
)
def test_buffer_is_not_used_again_while_anything_looks_at_it(derive: object) -> None:
    assert callable(derive)
    pool = BufferPool()
    view = pool.take(LARGE)
    where = address(view)
    derived = derive(view)
    del view
    gc.collect()
    other = pool.take(LARGE)
    assert address(other) != where
    del derived
    assert address(pool.take(LARGE)) == where


def test_torch_tensor_keeps_its_buffer() -> None:
    torch = pytest.importorskip("torch")
    pool = BufferPool()
    view = pool.take(LARGE)
    view[:4] = np.float32(1.5).tobytes()
    where = address(view)
    tensor = torch.frombuffer(view, dtype=torch.float32)[:1].view(1, 1)
    del view
    gc.collect()
    other = pool.take(LARGE)
    other[:4] = bytes(4)
    assert address(other) != where and tensor.item() == 1.5
    del tensor
    assert address(pool.take(LARGE)) == where


def test_small_view_keeps_its_whole_block() -> None:
    pool = BufferPool()
    kept = pool.take(100)
    kept[:] = b"k" * 100
    for _ in range(100):  # more than a block of others
        pool.take(60_000)[:] = b"x" * 60_000
    assert bytes(kept) == b"k" * 100


def test_idle_memory_is_bounded() -> None:
    pool = BufferPool(idle_bytes=1 << 20)
    views = [pool.take(LARGE) for _ in range(10)]
    views.clear()
    pool.take(LARGE)
    assert 0 < pool.idle_bytes <= 1 << 20


def test_views_may_die_in_another_thread() -> None:
    pool = BufferPool()
    held = [pool.take(LARGE)]
    where = address(held[0])
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    assert address(pool.take(LARGE)) == where
