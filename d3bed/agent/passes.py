"""A network run in parts, so that no more of its weights than one part's are in memory at a time.

Nearly every network is one part: only the weights of very large ones, VGG-16's for one, would fill a board
that then runs but a few layers. Call all of it on the compute thread.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping, Sequence

import psutil
import torch

from d3bed.core.graph import Graph, Value
from d3bed.core.models import CUDA
from d3bed.core.program import Step
from d3bed.model import LoadedModel, compile_step
from d3bed.model.images import sample

__all__ = [
    "clock",
    "frame_like",
    "give_back",
    "least_s",
    "parts",
    "room_for_weights",
    "still_needed",
    "whole_s",
    "whole_step",
]

#: Weights of a part, unless one vertex has more.
_PART_BYTES = 256 << 20


def clock(engine: str) -> Callable[[], float]:
    """With one intra-op thread its CPU time: what else runs on the machine does not count."""
    alone = torch.get_num_threads() == 1 and engine != CUDA
    return time.thread_time if alone else time.perf_counter


def whole_step(graph: Graph) -> Step:
    """The whole network as one step, from a frame to its results."""
    return Step(tuple(range(1, len(graph.vertices))), (Value(0),), graph.results)


def parts(graph: Graph) -> list[Step]:
    """The whole network as steps, one after the other."""
    runs: list[list[int]] = [[]]
    held = 0
    for vertex, told in enumerate(graph.vertices):
        if vertex == 0:
            continue
        if runs[-1] and held + told.weight_bytes > _PART_BYTES:
            runs.append([])
            held = 0
        runs[-1].append(vertex)
        held += told.weight_bytes
    return [_step(graph, run) for run in runs]


def _step(graph: Graph, run: Sequence[int]) -> Step:
    inside = set(run)
    read = [(value, set(readers)) for value, readers in graph.consumers.items()]
    takes = tuple(value for value, readers in read if value.vertex not in inside and readers & inside)
    made = [value for value, readers in read if value.vertex in inside and readers - inside]
    makes = dict.fromkeys((*made, *(value for value in graph.results if value.vertex in inside)))
    return Step(tuple(run), takes, tuple(makes))


def still_needed(graph: Graph, values: dict[Value, torch.Tensor], after: int) -> dict[Value, torch.Tensor]:
    """Of these, what vertices behind `after` read."""
    return {v: t for v, t in values.items() if max(graph.consumers.get(v, (0,))) > after}


def frame_like(model: LoadedModel) -> torch.Tensor:
    """A frame: noise does where it is pixels."""
    if model.spec.encoded:
        return sample()
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, model.input.shape, dtype=getattr(torch, model.input.dtype), generator=generator)


def whole_s(models: Sequence[LoadedModel], runs: int) -> list[float]:
    """The least seconds of some runs of a whole network, as each of these has it: with different engines."""
    graph = models[0].graph
    values = {Value(0): frame_like(models[0])}
    sums_s = [0.0] * len(models)
    for step in parts(graph):
        calls = {compile_step(model, step): clock(model.engine) for model in models}
        takes = [values[value] for value in step.takes]
        for number, least in enumerate(least_s(takes, calls, runs)):
            sums_s[number] += least
        with torch.inference_mode():
            values |= dict(zip(step.makes, next(iter(calls))(*takes), strict=True))
        values = still_needed(graph, values, step.vertices[-1])
    return sums_s


def least_s(
    takes: Sequence[torch.Tensor],
    calls: Mapping[Callable[..., tuple[torch.Tensor, ...]], Callable[[], float]],
    runs: int,
) -> list[float]:
    """The least seconds by its clock that each took, run in turns behind one run that warms up."""
    samples: list[list[float]] = [[] for _ in calls]
    with torch.inference_mode():
        for call in calls:
            call(*takes)
        for _ in range(runs):
            for (call, now), taken_s in zip(calls.items(), samples, strict=True):
                began_s = now()
                call(*takes)
                taken_s.append(now() - began_s)
    return [min(taken_s) for taken_s in samples]


def room_for_weights(configured: int | None) -> int:
    """Bytes of the weights that no plan needs now, and that stay all the same: as configured, or an eighth of
    the memory."""
    return psutil.virtual_memory().total // 8 if configured is None else configured


def give_back() -> None:
    """Have the C library return what was freed: it keeps it for later, and a board has other uses for it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
