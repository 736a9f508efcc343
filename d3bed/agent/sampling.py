"""Whether a board that has nothing to do is still as fast as it was: one layer, timed when the server asks.

Spans tell that of boards that work. One that frames have left would stay known by its last ones: nobody would
see that its load is over, or that some has come.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from d3bed.agent.executor import Executor
from d3bed.core.program import Step
from d3bed.model import LoadedModel, compile_step

__all__ = ["Sampler"]

#: The layer is the one that takes longest of those that take no longer than this on the board.
_MOST_S = 0.010
#: The median of so many runs counts, after one that finds cold caches, which a frame's layers do not.
_RUNS = 3


@dataclass(frozen=True)
class _Layer:
    vertex: int
    call: Callable[..., tuple[torch.Tensor, ...]]
    inputs: tuple[torch.Tensor, ...]
    nominal_s: float


class Sampler:
    """Of one agent; a model's layer is compiled once."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._layers: dict[str, _Layer | None] = {}

    async def sample(self, model: LoadedModel, nominal_s: Sequence[float]) -> tuple[int, float] | None:
        """A vertex, and the seconds that it takes now, as slow as emulated; None where no layer will do."""
        key = model.spec.key
        if key not in self._layers:
            self._layers[key] = _layer(model, nominal_s, self._executor.speed)
        layer = self._layers[key]
        if layer is None:
            return None
        taken_s = [
            await self._executor.time(lambda: layer.call(*layer.inputs), layer.nominal_s)
            for _ in range(1 + _RUNS)
        ]
        return layer.vertex, statistics.median(taken_s[1:])

    def forget(self, key: str) -> None:
        """The model's profile is another one now."""
        self._layers.pop(key, None)


def _layer(model: LoadedModel, nominal_s: Sequence[float], speed: float) -> _Layer | None:
    graph = model.graph
    vertices = range(len(graph.vertices))
    takes = {v: tuple(value for value, to in graph.consumers.items() if v in to) for v in vertices}
    # Not those of the photo: a file has no usual content.
    able = [v for v, values in takes.items() if values and all(value.vertex > 0 for value in values)]
    able = [v for v in able if 0 < nominal_s[v] <= _MOST_S * speed]
    if not able:
        return None
    vertex = max(able, key=lambda v: nominal_s[v])
    makes = tuple(value for value in (*graph.consumers, *graph.results) if value.vertex == vertex)
    call = compile_step(model, Step((vertex,), takes[vertex], tuple(dict.fromkeys(makes))))
    specs = [graph.spec(value) for value in takes[vertex]]
    inputs = tuple(torch.ones(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in specs)
    return _Layer(vertex, call, inputs, nominal_s[vertex])
