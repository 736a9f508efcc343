"""Tiles made ready: each patch in the way that keeps it exact, each tile checked on a real photo.

How a convolution rounds follows from shapes, thread count and machine, not from the numbers. So a probe
decides, on random inputs and weights: the operator on the whole map, cropped, against what a tile runs.
Then the tile runs on what the undivided network really makes of a photo, and must give the very bits
that it makes there. Both verdicts are kept on disk, one file per tile and fingerprint.

Call everything here on the compute thread, under `inference_mode`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec
import torch

from d3bed.core.errors import ConfigError
from d3bed.core.graph import Value
from d3bed.core.program import Step
from d3bed.core.regions import WHOLE
from d3bed.core.tiles import Patch, Tile
from d3bed.model import images
from d3bed.model.loading import LoadedModel
from d3bed.model.segment import compile_step
from d3bed.model.tiles import Way
from d3bed.model.vertices import Body

__all__ = ["PreparedTile", "prepare_tiles"]

_FORMAT = "d3bed.tile/1"

#: Timed runs of a tile, after the one that checks it.
_RUNS = 3


@dataclasses.dataclass(frozen=True)
class PreparedTile:
    """A tile that is ready to run, and what is known about it.

    `call` is what `compile_step` gives. `identical`: it makes the undivided network's bits. `fallbacks`
    patches run at the cost of the whole map for that. `nominal_s`: seconds of this thread per run.
    """

    call: Callable[..., tuple[torch.Tensor, ...]]
    identical: bool
    fallbacks: int
    nominal_s: float


class _Verdict(msgspec.Struct, frozen=True):
    """What is kept of a tile: patches' ways by vertex, where they are not `FORCED`."""

    ways: dict[int, Way]
    identical: bool
    nominal_s: float


def prepare_tiles(
    model: LoadedModel,
    steps: Sequence[Step],
    folder: Path,
    fingerprint: str,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> list[PreparedTile]:
    """Choose each patch's way, compile and check the tiles of these steps, in their order.

    What was prepared before, for the same network and fingerprint, is read from `folder`. Else it takes
    about two passes through the network and four runs of each tile; `progress` is told of each tile.
    """
    cache = _Cache(folder, model, fingerprint)
    kept = {step: cache.get(step) for step in steps}
    new = [step for step, verdict in kept.items() if verdict is None]
    ways = _ways(model, [step.tile for step in new if step.tile is not None])
    truth = _truth(model, {v.whole for step in new for v in (*step.takes, *step.makes)})
    prepared = []
    for number, step in enumerate(steps):
        verdict = kept[step]
        if verdict is None:
            mine = {p.vertex: ways[p] for p in _patches(step) if ways[p] is not Way.FORCED}
            identical, nominal_s = _check(step, compile_step(model, step, mine), truth)
            kept[step] = verdict = _Verdict(mine, identical, nominal_s)
            cache.put(step, verdict)
        prepared.append(
            PreparedTile(
                compile_step(model, step, verdict.ways),
                verdict.identical,
                sum(way is Way.FULL for way in verdict.ways.values()),
                verdict.nominal_s,
            )
        )
        progress(number + 1, len(steps))
    return prepared


def _patches(step: Step) -> tuple[Patch, ...]:
    return step.tile.patches if step.tile is not None else ()


# ── the probe ────────────────────────────────────────────────────────────────────────────────────────


def _ways(model: LoadedModel, tiles: Iterable[Tile]) -> dict[Patch, Way]:
    """The fastest way for every patch that equals the whole."""
    patches = dict.fromkeys(patch for tile in tiles for patch in tile.patches)
    found = dict.fromkeys(patches, Way.FORCED)
    by_vertex: dict[int, list[Patch]] = {}
    for patch in patches:
        if model.graph.vertices[patch.vertex].kind == "conv2d":
            by_vertex.setdefault(patch.vertex, []).append(patch)
    for vertex, mine in by_vertex.items():
        alone = _alone(model, vertex)
        (source,) = (v for v, readers in model.graph.consumers.items() if vertex in readers)
        generator = torch.Generator().manual_seed(vertex)
        image = torch.randn(model.graph.spec(source).shape, generator=generator)
        sink = Value(vertex)
        (whole,) = compile_step(alone, Step((vertex,), (source,), (sink,)))(image)
        for patch in mine:
            tile = Tile(0, 0, patch.reads, (patch,), 0)
            step = Step((vertex,), (source,), (Value(vertex, 0, patch.makes),), tile)
            (part,) = compile_step(alone, step)(image)
            if not torch.equal(part, _crop(whole, step.makes[0])):
                found[patch] = Way.FULL
    return found


def _alone(model: LoadedModel, vertex: int) -> LoadedModel:
    """The network with nothing but its convolution left of a vertex, and random weights in that.

    The weights are as large as makes outputs about 1, and a bias is not larger: no rounding is hidden.
    """
    head = model.body.nodes[vertex][0]
    generator = torch.Generator().manual_seed(vertex)
    constants = dict(model.body.constants)
    for node in head.all_input_nodes:
        if node.op == "get_attr":
            real = constants[str(node.target)]
            scale = 1 / math.sqrt(math.prod(real.shape[1:]))
            constants[str(node.target)] = torch.randn(real.shape, generator=generator).mul_(scale)
    nodes = list(model.body.nodes)
    nodes[vertex] = (head,)
    return dataclasses.replace(
        model, body=Body(tuple(nodes), {**model.body.values, Value(vertex): head}, constants)
    )


# ── the check ────────────────────────────────────────────────────────────────────────────────────────


def _truth(model: LoadedModel, values: set[Value]) -> dict[Value, torch.Tensor]:
    """What the undivided network makes of a photo (of noise, where no photo is installed)."""
    _, _, height, width = model.input.shape
    try:
        photo = images.decode(images.shipped()[0], height, width)
    except ConfigError:
        generator = torch.Generator().manual_seed(0)
        photo = torch.randint(256, model.input.shape, dtype=torch.uint8, generator=generator)
    made = tuple(sorted(values - {Value(0)}))
    if not made:
        return {Value(0): photo}
    upto = tuple(range(1, made[-1].vertex + 1))
    return {
        Value(0): photo,
        **dict(zip(made, compile_step(model, Step(upto, (Value(0),), made))(photo), strict=True)),
    }


def _check(
    step: Step, call: Callable[..., tuple[torch.Tensor, ...]], truth: dict[Value, torch.Tensor]
) -> tuple[bool, float]:
    """Whether a tile gives the bits that the network does, and the median seconds of a run."""
    taken = [_crop(truth[value.whole], value).contiguous() for value in step.takes]
    made = call(*taken)
    identical = all(
        torch.equal(part, _crop(truth[value.whole], value))
        for part, value in zip(made, step.makes, strict=True)
    )
    del made
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    taken_s = []
    for _ in range(_RUNS):
        began_s = clock()
        call(*taken)
        taken_s.append(clock() - began_s)
    return identical, statistics.median(taken_s)


def _crop(whole: torch.Tensor, value: Value) -> torch.Tensor:
    if value.region == WHOLE:
        return whole
    return whole[:, :, slice(*value.region.rows), slice(*value.region.columns)]


# ── the cache ────────────────────────────────────────────────────────────────────────────────────────


class _Cache:
    """A JSON file per tile. Losing one costs a probe and a check."""

    def __init__(self, folder: Path, model: LoadedModel, fingerprint: str) -> None:
        self._folder = Path(folder)
        self._key = [_FORMAT, model.graph.digest, model.spec.weights, fingerprint]
        self._digest = model.graph.digest

    def get(self, step: Step) -> _Verdict | None:
        """An unreadable or foreign file counts as none."""
        try:
            kept = json.loads(self._file(step).read_text(encoding="utf-8"))
            if kept["key"] != [*self._key, self._name(step)]:
                return None
            return msgspec.convert(kept["verdict"], _Verdict, str_keys=True)
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def put(self, step: Step, verdict: _Verdict) -> None:
        """The file appears whole or not at all; a full disk is not worth an error."""
        kept = {"key": [*self._key, self._name(step)], "verdict": verdict}
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            handle, draft = tempfile.mkstemp(dir=self._folder, prefix=".tile-", suffix=".json")
            try:
                with os.fdopen(handle, "wb") as stream:
                    stream.write(msgspec.json.encode(kept))
                os.replace(draft, self._file(step))
            except OSError:
                Path(draft).unlink(missing_ok=True)
                raise

    def _name(self, step: Step) -> str:
        return hashlib.sha256(msgspec.json.encode(step)).hexdigest()[:24]

    def _file(self, step: Step) -> Path:
        key = hashlib.sha256(f"{self._key}|{self._name(step)}".encode()).hexdigest()[:16]
        return self._folder / f"tile-{self._digest}-{key}.json"
