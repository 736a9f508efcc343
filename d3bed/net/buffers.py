"""Memory for received payloads, used again when nobody looks at it any more.

Fresh memory costs a page fault per 4 KiB, about as much as receiving into it; so large payloads get
a block of their own from a pool, and small ones consecutive slices of a shared block. Each block is
lent through a new exporting object: whatever is made from the payload (slices, NumPy arrays, torch
tensors) keeps that object alive, and its end is what brings the block back. Nothing here guesses.
"""

from __future__ import annotations

import mmap
import weakref
from collections import deque

import numpy as np

__all__ = ["BufferPool"]

_ALIGNMENT = 64
_SLAB_BYTES = 1024 * 1024
_SMALL_BYTES = 64 * 1024


class BufferPool:
    """Lends writable memoryviews, aligned to at least 64 bytes; keeps at most `idle_bytes` unused.

    `take` belongs to one thread; the views may die in any.
    """

    def __init__(self, idle_bytes: int = 64 * 1024 * 1024) -> None:
        self.idle_bytes = 0
        self._most_idle_bytes = idle_bytes
        self._idle: dict[int, list[mmap.mmap]] = {}
        # Finalizers run wherever the last view dies, even inside `take`: they only append here.
        self._returned: deque[mmap.mmap] = deque()
        self._slab = memoryview(b"")
        self._slab_used = 0

    def take(self, nbytes: int) -> memoryview:
        """A writable view of `nbytes` bytes; its contents are whatever was there before."""
        if nbytes > _SMALL_BYTES:
            return self._lend(nbytes)
        if self._slab_used + nbytes > len(self._slab):
            self._slab = self._lend(_SLAB_BYTES)
            self._slab_used = 0
        view = self._slab[self._slab_used : self._slab_used + nbytes]
        self._slab_used += -(-nbytes // _ALIGNMENT) * _ALIGNMENT
        return view

    def _lend(self, nbytes: int) -> memoryview:
        self._collect()
        size = 1 << (nbytes - 1).bit_length()
        idle = self._idle.get(size)
        if idle:
            block = idle.pop()
            self.idle_bytes -= size
        else:
            block = mmap.mmap(-1, size)
        exporter = np.frombuffer(block, np.uint8, nbytes)
        weakref.finalize(exporter, self._returned.append, block).atexit = False
        return exporter.data

    def _collect(self) -> None:
        while self._returned:
            block = self._returned.popleft()
            if self.idle_bytes + len(block) <= self._most_idle_bytes:
                self._idle.setdefault(len(block), []).append(block)
                self.idle_bytes += len(block)
