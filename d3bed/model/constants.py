"""A network's constants: each is made when it is asked for, and gone when nobody uses it any more.

What runs holds its weights; of what does not, so much stays as there is room for (`Recent`). They come out of
a mapped `.safetensors` file, or are seeded random numbers, made again.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import struct
import threading
import weakref
from collections import ChainMap, OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import safetensors
import torch

from d3bed.core.errors import ModelError
from d3bed.model.weights import Fill, fill

__all__ = ["Constants", "Recent", "TensorFile", "beside"]

_TYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8},
    **{"U8": torch.uint8, "BOOL": torch.bool},
}


def beside(extra: Mapping[str, Any], constants: Mapping[str, torch.Tensor]) -> Mapping[str, Any]:
    """Both, `extra` first; nothing is made for that."""
    return ChainMap(*cast("tuple[dict[str, Any], ...]", (extra, constants)))


class TensorFile:
    """A mapped `.safetensors` file. Raises `OSError`, `safetensors.SafetensorError`, `LookupError`."""

    def __init__(self, path: Path) -> None:
        with safetensors.safe_open(path, framework="pt") as file:  # its header is sound
            self.metadata: dict[str, str] = file.metadata() or {}
        self._path, self._file = path, os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._file).atexit = False
        (header_bytes,) = struct.unpack("<Q", os.pread(self._file, 8, 0))
        header: dict[str, Any] = json.loads(os.pread(self._file, header_bytes, 8))
        header.pop("__metadata__", None)
        self._begin, self._header = 8 + header_bytes, header
        # Writable for torch alone: nothing is written, and if it were, not to the file.
        self._mapped = mmap.mmap(self._file, 0, access=mmap.ACCESS_COPY)
        self._state = self._now()

    def like(self, name: str) -> torch.Tensor:
        """The tensor without its numbers."""
        told = self._header[name]
        return torch.empty(told["shape"], dtype=_TYPES[told["dtype"]], device="meta")

    def read(self, name: str) -> torch.Tensor:
        """A copy in memory of its own: a weight that lies misaligned in a mapped file takes another kernel,
        which rounds differently. The pages of the file that it came from are given back."""
        if self._now() != self._state:
            raise ModelError(str(self._path), "", "was changed while it is in use", "load the model again")
        like, (first, last) = self.like(name), self._header[name]["data_offsets"]
        if first == last:
            return torch.empty(like.shape, dtype=like.dtype)
        first, last = self._begin + first, self._begin + last
        mapped = torch.frombuffer(self._mapped, dtype=like.dtype, count=math.prod(like.shape), offset=first)
        made = mapped.view(like.shape).clone()
        page = first // mmap.PAGESIZE * mmap.PAGESIZE
        self._mapped.madvise(mmap.MADV_DONTNEED, page, last - page)
        return made

    def _now(self) -> tuple[int, int]:
        state = os.fstat(self._file)
        return state.st_size, state.st_mtime_ns


class Recent:
    """The tensors that were asked for last, of up to so many bytes: the next plan may need them again."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes, self._bytes = most_bytes, 0
        self._held: OrderedDict[int, torch.Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def asked(self, tensor: torch.Tensor) -> None:
        if tensor.nbytes > self._most_bytes:
            return
        with self._lock:
            if self._held.pop(id(tensor), None) is None:
                self._bytes += tensor.nbytes
            self._held[id(tensor)] = tensor
            while self._bytes > self._most_bytes:
                self._bytes -= self._held.popitem(last=False)[1].nbytes


class Constants(Mapping[str, torch.Tensor]):
    """`how`: by name, a tensor's seeded numbers, or the file that has it and its name there. `recent` may
    be set, and shared by several. Raises `LookupError` if one is not there."""

    def __init__(self, how: Mapping[str, Fill | tuple[TensorFile, str]]) -> None:
        self._how = how
        self.recent = Recent(0)
        self._held: weakref.WeakValueDictionary[str, torch.Tensor] = weakref.WeakValueDictionary()
        for name in how:
            self.like(name)

    def __getitem__(self, name: str) -> torch.Tensor:
        held = self._held.get(name)
        if held is None:
            how = self._how[name]
            with torch.inference_mode(False):  # whoever asks first: it serves others, too
                held = fill(how) if isinstance(how, Fill) else how[0].read(how[1])
            self._held[name] = held
        self.recent.asked(held)
        return held

    def like(self, name: str) -> torch.Tensor:
        """The tensor without its numbers."""
        how = self._how[name]
        if isinstance(how, Fill):
            return torch.empty(how.shape, dtype=how.dtype, device="meta")
        return how[0].like(how[1])

    def __contains__(self, name: object) -> bool:
        return name in self._how

    def __iter__(self) -> Iterator[str]:
        return iter(self._how)

    def __len__(self) -> int:
        return len(self._how)
