"""How long an agent takes for vertices that it has never run: a regression on what it has profiled.

Decides from shapes and earlier profiles alone; it must not know agents, files or engines. One predictor
stands for one agent: one fingerprint, thread count and speed.

Per class of operator, seconds are a non-negative combination of five causes: a fixed share per call,
FLOPs, bytes read, bytes made, and bytes of weights (which are read on every call, whatever the map's size:
a tile pays them in full). Residuals count relative to the measured time, so that short
vertices weigh as much as long ones. The classes of a convolution are 1×1, larger, grouped; they differ
in kernel, not only in size. A class with fewer than `LEAST_SAMPLES` samples, or one never seen, takes
the coefficients of its kind, else those of all vertices with weights (or without), else those of all.

Tried besides, on leave-one-network-out over the five networks, and no better: kernel area, stride, width
of the map, channels padded to 16, light operators that follow (as further causes), a robust fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from d3bed.core.graph import Graph, Window

__all__ = ["LEAST_SAMPLES", "Predictor", "Sample", "Work", "samples_of", "works"]

#: A class with fewer samples than this is not fitted on its own.
LEAST_SAMPLES = 3


class Work(msgspec.Struct, frozen=True):
    """What one vertex, or a tile of one, has to do. `weight_bytes` of a tile are the whole vertex's."""

    kind: str
    flops: float
    input_bytes: float
    output_bytes: float
    weight_bytes: float = 0.0
    window: Window | None = None

    @property
    def groups(self) -> tuple[str, ...]:
        """The classes it belongs to, narrowest first."""
        wide = ("with weights" if self.weight_bytes else "without weights", "any")
        if self.window is None or not self.weight_bytes:
            return (self.kind, *wide)
        if self.window.groups > 1:
            size = "grouped"
        else:
            size = "1x1" if self.window.kernel == (1, 1) else "larger"
        return (f"{self.kind} {size}", self.kind, *wide)

    @property
    def causes(self) -> tuple[float, ...]:
        """What seconds are made of, scaled to alike sizes: a call, FLOPs, bytes read, made, of weights."""
        scaled = (self.flops * 1e-11, self.input_bytes * 1e-10, self.output_bytes * 1e-10)
        return (1e-5, *scaled, self.weight_bytes * 1e-10)


def works(graph: Graph) -> tuple[Work, ...]:
    """The work of each vertex, by number; the input's (number 0) stands for nothing to do."""
    read = [0] * len(graph.vertices)
    for value, readers in graph.consumers.items():
        for reader in readers:
            read[reader] += graph.spec(value).nbytes
    return tuple(
        Work(
            kind=vertex.kind,
            flops=vertex.flops,
            input_bytes=read[number],
            output_bytes=sum(spec.nbytes for spec in vertex.outputs),
            weight_bytes=vertex.weight_bytes,
            window=vertex.window,
        )
        for number, vertex in enumerate(graph.vertices)
    )


class Sample(msgspec.Struct, frozen=True):
    """Something that the agent has run, and how long it took: a vertex, or a tile of one."""

    work: Work
    time_s: float


def samples_of(graph: Graph, times_s: Sequence[float]) -> tuple[Sample, ...]:
    """A profile, seconds per vertex of `graph`, without the input. Raises `ValueError` if it does not fit."""
    return tuple(Sample(w, t) for w, t in list(zip(works(graph), times_s, strict=True))[1:])


class Predictor(msgspec.Struct, frozen=True):
    """Fitted coefficients by class of operator, in the order of `Work.causes`. Plain data: it can be kept.

    `samples` counts what each class was fitted from.
    """

    coefficients: dict[str, tuple[float, ...]]
    samples: dict[str, int]

    @classmethod
    def fit(cls, samples: Iterable[Sample]) -> Predictor:
        """From what one agent has run. Raises `ValueError` without anything that took time."""
        rows: dict[str, list[Sample]] = {}
        for sample in samples:
            for group in sample.work.groups if sample.time_s > 0 else ():
                rows.setdefault(group, []).append(sample)
        if not rows:
            raise ValueError("there is nothing to fit: no sample took any time")
        fitted = {
            group: _fit(found)
            for group, found in rows.items()
            if len(found) >= LEAST_SAMPLES or group == "any"
        }
        return cls(fitted, {group: len(rows[group]) for group in fitted})

    def group(self, work: Work) -> str:
        """The class whose coefficients `work` is predicted with."""
        return next(group for group in work.groups if group in self.coefficients)

    def seconds(self, work: Work) -> float:
        """How long one vertex or tile takes."""
        coefficients = self.coefficients[self.group(work)]
        return sum(c * x for c, x in zip(coefficients, work.causes, strict=True))

    def predict(self, graph: Graph) -> tuple[float, ...]:
        """Seconds per vertex; 0 for the input."""
        return (0.0, *(self.seconds(work) for work in works(graph)[1:]))

    def unknown(self, graph: Graph) -> tuple[str, ...]:
        """Kinds of `graph` of which too little was profiled: what is said of them is a guess."""
        guessed = {w.kind for w in works(graph)[1:] if w.kind not in self.group(w).split()}
        return tuple(sorted(guessed))


def _fit(samples: Sequence[Sample]) -> tuple[float, ...]:
    """Non-negative least squares of (predicted / measured − 1)."""
    from scipy.optimize import nnls  # here, so that importing the planner stays cheap

    relative = [[cause / sample.time_s for cause in sample.work.causes] for sample in samples]
    coefficients, _ = nnls(relative, [1.0] * len(samples))
    return tuple(float(c) for c in coefficients)
