"""Tiles made ready: each patch in the way that keeps it exact, each tile checked on a real photo.

How a convolution rounds follows from shapes, thread count and machine, not from the numbers. So a probe
decides, on random inputs and weights: the operator on the whole map, cropped, against what a tile runs.
Then the tile runs on what the undivided network really makes of a photo, and must give the very bits
that it makes there. Both verdicts are kept on disk, one file per tile and fingerprint.

Call everything here on the compute thread: other threads may run other kernels.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
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
from d3bed.model.vertices import Body

__all__ = ["PreparedTile", "prepare_tiles"]

_FORMAT = "d3bed.tile/1"

#: The probe compares a position in so many channels, and on so many more random images if there are fewer
#: channels: few numbers may be equal by luck.
_CHANNELS, _MOST_IMAGES = 64, 16

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
    """What is kept of a tile; `full`: vertices whose convolution runs on a map of the whole size."""

    full: tuple[int, ...]
    identical: bool
    nominal_s: float


def prepare_tiles(
    model: LoadedModel,
    steps: Sequence[Step],
    folder: Path,
    fingerprint: str,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> list[PreparedTile]:
    """Choose each patch's kernels, compile and check the tiles of these steps, in their order.

    What was prepared before, for the same network and fingerprint, is read from `folder`. Else it takes
    about two passes through the network and four runs of each tile; `progress` is told of each tile.
    """
    cache = _Cache(folder, model, fingerprint)
    verdicts = {step: cache.get(step) for step in steps}
    new = [step for step, verdict in verdicts.items() if verdict is None]
    prepared = []
    with torch.inference_mode():
        unequal = _unequal(model, [patch for step in new for patch in _patches(step)])
        truth = _truth(model, {value.whole for step in new for value in (*step.takes, *step.makes)})
        for number, step in enumerate(steps):
            verdict = verdicts[step]
            if verdict is None:
                full = tuple(patch.vertex for patch in _patches(step) if patch in unequal)
                call = compile_step(model, step, full)
                verdicts[step] = verdict = _Verdict(full, *_check(step, call, truth))
                cache.put(step, verdict)
            else:
                call = compile_step(model, step, verdict.full)
            prepared.append(PreparedTile(call, verdict.identical, len(verdict.full), verdict.nominal_s))
            progress(number + 1, len(steps))
    return prepared


def _patches(step: Step) -> tuple[Patch, ...]:
    return step.tile.patches if step.tile is not None else ()


# ── the probe ────────────────────────────────────────────────────────────────────────────────────────


def _unequal(model: LoadedModel, patches: Iterable[Patch]) -> set[Patch]:
    """The patches of convolutions that are not what the whole map has in their place."""
    by_vertex: dict[int, list[Patch]] = {}
    for patch in dict.fromkeys(patches):
        if model.graph.vertices[patch.vertex].kind == "conv2d":
            by_vertex.setdefault(patch.vertex, []).append(patch)
    found = set[Patch]()
    for vertex, mine in by_vertex.items():
        alone = _alone(model, vertex)
        (source,) = (value for value, readers in model.graph.consumers.items() if vertex in readers)
        sink = Value(vertex)
        undivided = compile_step(alone, Step((vertex,), (source,), (sink,)))
        calls = {}
        for patch in mine:
            made, tile = Value(vertex, 0, patch.makes), Tile(0, 0, patch.reads, (patch,), 0)
            calls[patch] = made, compile_step(alone, Step((vertex,), (source,), (made,), tile))
        generator = torch.Generator().manual_seed(vertex)
        channels = model.graph.spec(sink).shape[1]
        for _ in range(min(_MOST_IMAGES, -(-_CHANNELS // channels))):
            image = torch.randn(model.graph.spec(source).shape, generator=generator)
            (whole,) = undivided(image)
            for patch, (made, call) in calls.items():
                if patch not in found and not torch.equal(call(image)[0], _crop(whole, made)):
                    found.add(patch)
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
    values = {**model.body.values, Value(vertex): head}
    return dataclasses.replace(model, body=Body(tuple(nodes), values, constants))


# ── the check ────────────────────────────────────────────────────────────────────────────────────────


def _truth(model: LoadedModel, values: set[Value]) -> dict[Value, torch.Tensor]:
    """What the undivided network makes of a photo (of noise, where no photo is installed)."""
    if not values:
        return {}
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
    """Whether a tile gives the bits that the network does, and the least seconds of a run."""
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
    return identical, min(taken_s)


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
