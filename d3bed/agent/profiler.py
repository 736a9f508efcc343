"""Seconds per vertex on this machine, measured in situ, and kept on disk.

A vertex is timed inside whole passes through the network: caches are as warm, and memory as full, as
when a segment runs. Timing each vertex alone in a hot loop is wrong by up to a factor of two.

A tile of a vertex takes longer than its share of the map: small maps are computed less efficiently. So
windowed vertices are timed on strips of the map, too, in passes of their own between the whole ones; a
line through the times of whole, half and quarter has the fixed part where the map would vanish.

With one intra-op thread the clock is that thread's CPU time: on a quiet machine it is the wall's, and on
a busy one a profile, which is kept, does not remember what else was running.

ONNX Runtime fuses vertices, and brings maps into an order of its own once a session, and a CUDA device is
given each vertex's maps: timed one by one they take longer than together. There the whole network's time is
shared out in proportion.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from d3bed.agent.passes import clock, frame_like, give_back, parts, still_needed, whole_s
from d3bed.core.graph import Value
from d3bed.core.models import TORCH
from d3bed.core.program import Step
from d3bed.core.regions import Padding, Region, Span, output_size, reach
from d3bed.core.tiles import Patch, Tile, map_size
from d3bed.model import LoadedModel, compile_step
from d3bed.model.keep import keep

__all__ = ["Profile", "ProfileCache", "fixed_part", "is_outdated", "measure"]

#: Passes that are timed: as many as fit the budget after one warm-up, within these bounds.
_MOST_RUNS, _LEAST_RUNS = 15, 3
_BUDGET_S = 6.0

#: A kept profile whose sum is this many times what the network takes now is measured again. (In quiet, sum
#: over whole is 0.98–1.12.)
OUTDATED = 1.3

#: One that was found to hold so lately is not tried anew.
RECENT_S = 600.0

_FORMAT = "d3bed.profile/3"


class Profile(NamedTuple):
    """Seconds per vertex number; 0 for the input. Of these, `fixed_s` are taken by a tile of any size:
    known for convolutions and pools, 0 for the others."""

    times_s: tuple[float, ...]
    fixed_s: tuple[float, ...]


def measure(model: LoadedModel, runs: int | None = None) -> Profile:
    """Median seconds per vertex, freeing of dead tensors included.

    Call it on the compute thread. One warm-up pass, then `runs` timed ones; None takes 15, or as many as
    fit about 6 s, at least 3. Every second one is followed by passes over strips.
    """
    graph = model.graph
    steps = parts(graph)
    samples: list[list[float]] = [[] for _ in graph.vertices]
    tiles: list[list[tuple[float, float]]] = [[] for _ in graph.vertices]
    values = {Value(0): frame_like(model)}
    with torch.inference_mode():
        for step in steps:
            passes = _Passes(model, step.vertices)
            strips = [_Strips(model, step.vertices, share) for share in (2, 4)]
            _, after = passes.run(values, [[] for _ in graph.vertices])
            for each in strips:
                each.run()
                each.samples.clear()
            spent_s = 0.0
            for done in range(runs or _MOST_RUNS):
                if runs is None and done >= _LEAST_RUNS and spent_s > _BUDGET_S / len(steps):
                    break
                spent_s += passes.run(values, samples)[0]
                if done % 2:
                    spent_s += sum(each.run() for each in strips)
            for vertex in step.vertices:
                tiles[vertex] = [tile for each in strips for tile in each.medians(vertex)]
            values = still_needed(graph, after, step.vertices[-1])
            del passes, strips
            give_back()
    times_s = (0.0, *(statistics.median(taken) for taken in samples[1:]))
    fixed_s = tuple(map(fixed_part, times_s, tiles))
    if model.engine != TORCH:
        part = min(1.0, sum(whole_s((model,), runs or _LEAST_RUNS)) / max(sum(times_s), 1e-9))
        return Profile(tuple(part * t for t in times_s), tuple(part * t for t in fixed_s))
    return Profile(times_s, fixed_s)


class _Passes:
    """Passes through a part of the network, nearly always all of it, a clock around each vertex."""

    def __init__(self, model: LoadedModel, vertices: Sequence[int]) -> None:
        self._clock = clock(model.engine)
        graph = model.graph
        takes: dict[int, list[Value]] = defaultdict(list)
        last_reader: dict[Value, int] = {}
        for value, readers in graph.consumers.items():
            last_reader[value] = max(readers)
            for reader in readers:
                takes[reader].append(value)
        wanted = set(graph.consumers) | set(graph.results)
        self._steps = []
        for vertex in vertices:
            outputs = (Value(vertex, o) for o in range(len(graph.vertices[vertex].outputs)))
            step = Step((vertex,), tuple(takes[vertex]), tuple(v for v in outputs if v in wanted))
            dead = [v for v in step.takes if last_reader[v] == vertex and v not in graph.results]
            self._steps.append((step, compile_step(model, step), dead))

    def run(
        self, given: dict[Value, torch.Tensor], samples: list[list[float]]
    ) -> tuple[float, dict[Value, torch.Tensor]]:
        """One pass; each vertex's seconds go to its samples. Returns their sum, and what is there then."""
        values = dict(given)
        began_s = clock_s = self._clock()
        for step, call, dead in self._steps:
            made = call(*[values[value] for value in step.takes])
            values.update(zip(step.makes, made, strict=True))
            del made
            for value in dead:
                del values[value]
            now_s = self._clock()
            samples[step.vertices[0]].append(now_s - clock_s)
            clock_s = now_s
        return clock_s - began_s, values


class _Strips:
    """Passes in which every windowed vertex makes a strip from the middle of its map, 1/`share` of it."""

    def __init__(self, model: LoadedModel, vertices: Sequence[int], share: int) -> None:
        self._clock = clock(model.engine)
        self.samples: dict[int, list[float]] = defaultdict(list)
        #: Of each vertex that is tall enough: what part of its map the strip is.
        self._shares: dict[int, float] = {}
        self._work = []
        for vertex in vertices:
            strip = _strip(model, vertex, share)
            if strip is not None:
                (source,), (sink,) = strip.takes, strip.makes
                self._shares[vertex] = sink.region.area / math.prod(map_size(model.graph, sink.whole))
                self._work.append((vertex, compile_step(model, strip), model.graph.spec(source)))
        numbers = max((math.prod(spec.shape) for *_, spec in self._work), default=0)
        # Many zeros, as behind a ReLU: how fast a max pool is depends on the numbers.
        self._numbers = torch.randn(numbers, generator=torch.Generator().manual_seed(0)).relu_()

    def medians(self, vertex: int) -> list[tuple[float, float]]:
        """Share of the map and seconds, where the vertex was timed."""
        taken_s = self.samples.get(vertex)
        return [(self._shares[vertex], statistics.median(taken_s))] if taken_s else []

    def run(self) -> float:
        """One pass; returns the sum of the vertices' seconds."""
        sum_s = 0.0
        for vertex, call, spec in self._work:
            strip = self._numbers[: math.prod(spec.shape)].to(getattr(torch, spec.dtype), copy=True)
            strip = strip.view(spec.shape)
            began_s = self._clock()
            made = call(strip)
            del strip, made
            taken_s = self._clock() - began_s
            self.samples[vertex].append(taken_s)
            sum_s += taken_s
        return sum_s


def _strip(model: LoadedModel, vertex: int, share: int) -> Step | None:
    """The middle 1/`share` of the rows of a windowed vertex; None where that is all, or no tile can be."""
    graph = model.graph
    this = graph.vertices[vertex]
    sources = [value for value, readers in graph.consumers.items() if vertex in readers]
    window = this.window
    if window is None or window.transposed or len(sources) != 1 or len(this.outputs) != 1:
        return None
    size = map_size(graph, sources[0])
    made = tuple(output_size(window, axis, size[axis]) for axis in (0, 1))
    if this.outputs[0].shape[2:] != made:  # flattened at once
        return None
    height, width = made
    count = max(1, height // share)
    top = (height - count) // 2
    rows = reach(window, 0, Span(top, top + count), size[0])
    columns = reach(window, 1, Span(0, width), size[1])
    if count == height or rows is None or columns is None:
        return None
    makes, reads = Region(Span(top, top + count), Span(0, width)), Region(rows.reads, columns.reads)
    padding = Padding(rows.before, rows.after, columns.before, columns.after)
    tile = Tile(0, 0, (reads,), (Patch(vertex, makes, reads, padding, 0, 0),), 0)
    (source,) = sources
    return Step((vertex,), (Value(source.vertex, source.output, reads),), (Value(vertex, 0, makes),), tile)


def fixed_part(time_s: float, tiles: Sequence[tuple[float, float]]) -> float:
    """What remains of `time_s` where the map vanishes, by a line through it that fits tiles (share of the
    map, seconds) best; between 0 and `time_s`, 0 without tiles."""
    weights = sum((1 - share) ** 2 for share, _ in tiles)
    weighted = sum((1 - share) * (tile_s - share * time_s) for share, tile_s in tiles)
    return min(max(0.0, weighted / weights), time_s) if weights else 0.0


def is_outdated(model: LoadedModel, times_s: Sequence[float]) -> bool:
    """Whether the whole network runs clearly faster now than a kept profile says: it was taken while the
    machine was busy. (Slower now says nothing: the machine may be busy now.) Takes two runs."""
    return sum(times_s) > OUTDATED * sum(whole_s((model,), 2))


def _is_recent(file: Path) -> bool:
    """Whether a profile was measured, or found to hold still, a short while ago: a process that is started
    again is waited for."""
    try:
        return 0 <= time.time() - file.stat().st_mtime < RECENT_S
    except OSError:
        return False


class ProfileCache:
    """One JSON file per graph, fingerprint and thread count. Losing it costs a measurement."""

    def __init__(self, directory: Path) -> None:
        self._directory = Path(directory)

    def profile(
        self, model: LoadedModel, fingerprint: str, threads: int, *, fresh: bool = False
    ) -> tuple[Profile, bool]:
        """The profile, and whether it was kept: it is measured if not, or if outdated.

        Call it on the compute thread.
        """
        file = self._file(model.graph.digest, fingerprint, threads)
        kept = None if fresh else self.get(model.graph.digest, fingerprint, threads)
        if kept is not None and (_is_recent(file) or not is_outdated(model, kept.times_s)):
            with contextlib.suppress(OSError):
                os.utime(file)
            return kept, True
        measured = measure(model)
        give_back()
        self.put(model.graph.digest, fingerprint, threads, measured)
        return measured, False

    def get(self, digest: str, fingerprint: str, threads: int) -> Profile | None:
        """The profile kept for this key, or None; an unreadable or foreign file counts as none."""
        try:
            kept = json.loads(self._file(digest, fingerprint, threads).read_text(encoding="utf-8"))
            if kept["key"] != [_FORMAT, digest, fingerprint, threads]:
                return None
            found = Profile(*(tuple(map(float, kept[field])) for field in Profile._fields))
        except (OSError, ValueError, TypeError, KeyError):
            return None
        sound = all(0 <= number < math.inf for numbers in found for number in numbers)
        return found if sound and len(found.times_s) == len(found.fixed_s) > 0 else None

    def put(self, digest: str, fingerprint: str, threads: int, profile: Profile) -> None:
        kept = {"key": [_FORMAT, digest, fingerprint, threads], **profile._asdict()}
        keep(self._file(digest, fingerprint, threads), json.dumps(kept).encode())

    def _file(self, digest: str, fingerprint: str, threads: int) -> Path:
        key = hashlib.sha256(f"{fingerprint}|{threads}".encode()).hexdigest()[:12]
        return self._directory / f"profile-{digest}-{key}.json"
