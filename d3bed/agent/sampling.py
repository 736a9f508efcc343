"""Whether a board that has nothing to do is still as fast as it was: layers, timed when the server asks.

Spans tell that of boards that work. One that frames have left would stay known by its last ones: nobody would
see that its load is over, or that some has come. One layer would not do: where its weights stay in a cache
from run to run, as they do not between frames, it takes half of what it was profiled to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from d3bed.agent.executor import Executor
from d3bed.core.graph import Value
from d3bed.core.program import Step
from d3bed.model import LoadedModel, compile_step

__all__ = ["Sampler"]

#: Of the layers that take no longer than this on the board, those that take longest.
_MOST_S = 0.010
#: So many, or the first alone where another takes less than this share of it.
_LAYERS, _LEAST = 3, 0.3
#: So many runs in all, after one of each that finds cold caches, which a frame's layers do not.
_RUNS = 3


@dataclass(frozen=True)
class _Layer:
    vertex: int
    call: Callable[..., tuple[torch.Tensor, ...]]
    inputs: tuple[torch.Tensor, ...]
    nominal_s: float


class Sampler:
    """Of one agent; a model's layers are compiled once."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._layers: dict[str, tuple[_Layer, ...]] = {}

    async def sample(self, model: LoadedModel, nominal_s: Sequence[float]) -> tuple[int, float] | None:
        """A vertex, and the seconds that it takes now, as slow as emulated; None where no layer will do. Of
        all runs it is the one in the middle, by what it takes of what it took when it was profiled."""
        key = model.spec.key
        if key not in self._layers:
            self._layers[key] = _layers(model, nominal_s, self._executor.speed)
        layers = self._layers[key]
        if not layers:
            return None
        for layer in layers:
            await self._time(layer)
        taken = [(layer, await self._time(layer)) for layer in layers * (_RUNS // len(layers))]
        taken.sort(key=lambda each: each[1] / each[0].nominal_s)
        layer, taken_s = taken[len(taken) // 2]
        return layer.vertex, taken_s

    async def _time(self, layer: _Layer) -> float:
        return await self._executor.time(lambda: layer.call(*layer.inputs), layer.nominal_s)

    def forget(self, key: str) -> None:
        """The model's profile is another one now."""
        self._layers.pop(key, None)


def _layers(model: LoadedModel, nominal_s: Sequence[float], speed: float) -> tuple[_Layer, ...]:
    graph = model.graph
    vertices = range(len(graph.vertices))
    takes = {v: tuple(value for value, to in graph.consumers.items() if v in to) for v in vertices}
    # Not those of the photo: a file has no usual content.
    able = [v for v, values in takes.items() if values and all(value.vertex > 0 for value in values)]
    able = [v for v in able if 0 < nominal_s[v] <= _MOST_S * speed]
    longest = sorted(able, key=lambda v: nominal_s[v], reverse=True)[:_LAYERS]
    if longest and (len(longest) < _LAYERS or nominal_s[longest[-1]] < _LEAST * nominal_s[longest[0]]):
        longest = longest[:1]
    return tuple(_compiled(model, vertex, takes[vertex], nominal_s[vertex]) for vertex in longest)


def _compiled(model: LoadedModel, vertex: int, takes: tuple[Value, ...], nominal_s: float) -> _Layer:
    graph = model.graph
    makes = tuple(value for value in (*graph.consumers, *graph.results) if value.vertex == vertex)
    call = compile_step(model, Step((vertex,), takes, tuple(dict.fromkeys(makes))))
    specs = [graph.spec(value) for value in takes]
    inputs = tuple(torch.ones(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in specs)
    return _Layer(vertex, call, inputs, nominal_s)
