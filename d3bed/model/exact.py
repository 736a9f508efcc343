"""Tiles made ready: each patch with kernels that keep it exact, each tile checked on a real photo.

How a convolution rounds follows from shapes, thread count and machine, not from the numbers. So a probe
decides, on random inputs and weights: the operator on the whole map, cropped, against what a tile runs.
Then the tile runs on what the undivided network really makes of a photo, and must give the very bits
that it makes there, or be off by no more than the user tolerates. Both verdicts are kept on disk, one file
per tile and fingerprint.

Call `prepare_tiles` on the compute thread: other threads may run other kernels.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec
import torch

from d3bed.core.errors import ConfigError
from d3bed.core.graph import Value
from d3bed.core.models import CUDA, TORCH
from d3bed.core.program import Step
from d3bed.core.regions import WHOLE
from d3bed.core.tiles import Patch, Tile
from d3bed.model import images
from d3bed.model.constants import beside
from d3bed.model.keep import keep
from d3bed.model.loading import LoadedModel
from d3bed.model.segment import compile_step
from d3bed.model.tensors import relative_error
from d3bed.model.tiles import LAYOUTS, Way, is_pointwise
from d3bed.model.vertices import Body

__all__ = ["PreparedTile", "prepare_tiles", "prepared_before"]

_Call = Callable[..., tuple[torch.Tensor, ...]]

_FORMAT = "d3bed.tile/6"

#: The probe compares a position in so many channels, and on so many more random images if there are fewer
#: channels: few numbers may be equal by luck.
_CHANNELS, _MOST_IMAGES = 64, 16

#: Timed passes through all tiles, after the runs that check them.
_RUNS = 9


@dataclasses.dataclass(frozen=True)
class PreparedTile:
    """A tile that is ready to run, and what is known about it.

    `call` is what `compile_step` gives. `identical`: it makes the undivided network's bits; else it is off by
    `max_rel_err`. `fallbacks` convolutions run at the cost of the whole map for that. `nominal_s`: seconds of
    this thread per run.
    """

    call: _Call
    identical: bool
    max_rel_err: float
    fallbacks: int
    nominal_s: float


class _Verdict(msgspec.Struct, frozen=True):
    """What is kept of a tile; `ways` by vertex, of those that are not packed."""

    ways: dict[int, Way]
    identical: bool
    max_rel_err: float
    nominal_s: float


def prepare_tiles(
    model: LoadedModel,
    steps: Sequence[Step],
    folder: Path,
    fingerprint: str,
    progress: Callable[[int, int], None] = lambda done, of: None,
    *,
    tolerance: float = 0.0,
) -> list[PreparedTile]:
    """Choose each patch's kernels, compile and check the tiles of these steps, in their order.

    What was prepared before, for the same network and fingerprint, is read from `folder`. Else it takes
    about two passes through the network and ten runs of each tile; `progress` is told how many of the
    tiles have been checked. Tiles are timed one after the other, as they run. With a `tolerance`, a kernel
    that is off by no more than that, as `relative_error` counts, is as good as an exact one. With another
    engine than torch's there is one way only, and what is checked against is still torch's, on the processor.
    """
    cache = _Cache(folder, model, fingerprint, tolerance)
    verdicts = {step: verdict for step in steps if (verdict := cache.get(step)) is not None}
    new = [step for step in steps if step not in verdicts]
    calls = {step: compile_step(model, step, verdict.ways) for step, verdict in verdicts.items()}
    with torch.inference_mode():
        patches = [patch for step in new for patch in _patches(step) if model.engine == TORCH]
        ways = _ways(model, patches, tolerance)
        truth = _truth(
            dataclasses.replace(model, engine=TORCH),
            {value.whole for step in new for value in (*step.takes, *step.makes)},
        )
        found = {}
        for number, step in enumerate(new, len(verdicts) + 1):
            mine = {p.vertex: ways[p] for p in _patches(step) if ways.get(p, Way.PACKED) is not Way.PACKED}
            calls[step] = compile_step(model, step, mine)
            found[step] = mine, *_checked(step, calls[step], truth)
            progress(number, len(steps))
        nominal_s = _nominal_s([(calls[step], _cut_out(truth, step.takes)) for step in new], model.engine)
    for step, time_s in zip(new, nominal_s, strict=True):
        verdicts[step] = _Verdict(*found[step], time_s)
        cache.put(step, verdicts[step])
    return [_prepared(calls[step], verdicts[step]) for step in steps]


def prepared_before(
    model: LoadedModel, steps: Sequence[Step], folder: Path, fingerprint: str, *, tolerance: float = 0.0
) -> list[PreparedTile] | None:
    """As `prepare_tiles`, in milliseconds and on any thread, where all of these were prepared before; else
    None."""
    cache = _Cache(folder, model, fingerprint, tolerance)
    verdicts = [cache.get(step) for step in steps]
    if None in verdicts:
        return None
    return [
        _prepared(compile_step(model, step, verdict.ways), verdict)
        for step, verdict in zip(steps, verdicts, strict=True)
        if verdict is not None
    ]


def _prepared(call: _Call, verdict: _Verdict) -> PreparedTile:
    return PreparedTile(
        call,
        verdict.identical,
        verdict.max_rel_err,
        sum(way is Way.FULL for way in verdict.ways.values()),
        verdict.nominal_s,
    )


def _patches(step: Step) -> tuple[Patch, ...]:
    return step.tile.patches if step.tile is not None else ()


# ── the probe ────────────────────────────────────────────────────────────────────────────────────────


def _ways(model: LoadedModel, patches: Iterable[Patch], tolerance: float) -> dict[Patch, Way]:
    """For every patch of a convolution the fastest way that makes what the whole map has in its place."""

    def close(made: torch.Tensor, wanted: torch.Tensor) -> bool:
        return torch.equal(made, wanted) or relative_error([made], [wanted]) <= tolerance

    by_vertex: dict[int, list[Patch]] = {}
    for patch in dict.fromkeys(patches):
        if model.graph.vertices[patch.vertex].kind == "conv2d":
            by_vertex.setdefault(patch.vertex, []).append(patch)
    found = {}
    for vertex, mine in by_vertex.items():
        alone = _alone(model, vertex)
        (source,) = (value for value, readers in model.graph.consumers.items() if vertex in readers)
        sink = Value(vertex)
        undivided = compile_step(alone, Step((vertex,), (source,), (sink,)))
        generator = torch.Generator().manual_seed(vertex)
        shape = model.graph.spec(source).shape
        channels = min(model.graph.spec(Value(vertex, 0, patch.makes)).shape[1] for patch in mine)
        images = [
            torch.randn(shape, generator=generator)
            for _ in range(min(_MOST_IMAGES, -(-_CHANNELS // channels)))
        ]
        wholes = [undivided(image)[0] for image in images]
        for patch in mine:
            made = Value(vertex, 0, patch.makes)
            step = Step((vertex,), (source,), (made,), Tile(0, 0, (patch.reads,), (patch,), 0))
            for way in Way:
                if way in LAYOUTS and not is_pointwise(model.graph.vertices[vertex].window):
                    continue
                call = compile_step(alone, step, {vertex: way})
                found[patch] = way
                if all(
                    close(call(image)[0], _crop(whole, made))
                    for image, whole in zip(images, wholes, strict=True)
                ):
                    break
    return found


def _alone(model: LoadedModel, vertex: int) -> LoadedModel:
    """The network with nothing but its convolution left of a vertex, and random weights in that.

    The weights are as large as makes outputs about 1, and a bias is not larger: no rounding is hidden.
    """
    head = model.body.nodes[vertex][0]
    generator = torch.Generator().manual_seed(vertex)
    random: dict[str, torch.Tensor] = {}
    for node in head.all_input_nodes:
        if node.op == "get_attr":
            shape = node.meta["val"].shape
            scale = 1 / math.sqrt(math.prod(shape[1:]))
            random[str(node.target)] = torch.randn(shape, generator=generator).mul_(scale)
    nodes = list(model.body.nodes)
    nodes[vertex] = (head,)
    values = {**model.body.values, Value(vertex): head}
    return dataclasses.replace(model, body=Body(tuple(nodes), values, beside(random, model.body.constants)))


# ── the check ────────────────────────────────────────────────────────────────────────────────────────


def _truth(model: LoadedModel, values: set[Value]) -> dict[Value, torch.Tensor]:
    """What the undivided network makes of a photo (of noise, where no photo is installed)."""
    if not values:
        return {}
    _, _, height, width = model.input.shape
    try:
        photo = images.sample() if model.spec.encoded else images.decode(images.shipped()[0], height, width)
    except ConfigError:
        generator = torch.Generator().manual_seed(0)
        photo = torch.randint(256, model.input.shape, dtype=torch.uint8, generator=generator)
    if not model.spec.encoded:
        photo = photo.to(getattr(torch, model.input.dtype))
    made = tuple(sorted(values - {Value(0)}))
    if not made:
        return {Value(0): photo}
    upto = tuple(range(1, made[-1].vertex + 1))
    return {
        Value(0): photo,
        **dict(zip(made, compile_step(model, Step(upto, (Value(0),), made))(photo), strict=True)),
    }


def _checked(step: Step, call: _Call, truth: dict[Value, torch.Tensor]) -> tuple[bool, float]:
    """Whether a tile gives the bits that the network does, and else how far it is off."""
    made = call(*_cut_out(truth, step.takes))
    wanted = [_crop(truth[value.whole], value) for value in step.makes]
    if all(map(torch.equal, made, wanted)):
        return True, 0.0
    return False, relative_error(made, wanted)


def _nominal_s(tiles: Sequence[tuple[_Call, list[torch.Tensor]]], engine: str) -> list[float]:
    """The median seconds of each, as in profiles, so that tiles and whole layers are held to the same."""
    alone = torch.get_num_threads() == 1 and engine != CUDA
    clock = time.thread_time if alone else time.perf_counter
    samples: list[list[float]] = [[] for _ in tiles]
    for _ in range(_RUNS):
        for (call, taken), mine in zip(tiles, samples, strict=True):
            began_s = clock()
            call(*taken)
            mine.append(clock() - began_s)
    return [statistics.median(mine) for mine in samples]


def _cut_out(truth: dict[Value, torch.Tensor], values: Iterable[Value]) -> list[torch.Tensor]:
    return [_crop(truth[value.whole], value).contiguous() for value in values]


def _crop(whole: torch.Tensor, value: Value) -> torch.Tensor:
    if value.region == WHOLE:
        return whole
    rows, columns, channels = (slice(*span) for span in value.region)
    return whole[:, channels, rows, columns]


# ── the cache ────────────────────────────────────────────────────────────────────────────────────────


class _Kept(msgspec.Struct, frozen=True):
    key: tuple[str, ...]
    verdict: _Verdict


class _Cache:
    """A JSON file per tile."""

    def __init__(self, folder: Path, model: LoadedModel, fingerprint: str, tolerance: float) -> None:
        self._folder = Path(folder)
        self._digest = model.graph.digest
        self._key = (
            _FORMAT,
            self._digest,
            model.spec.weights + model.spec.contents,
            fingerprint,
            repr(tolerance),
        )

    def get(self, step: Step) -> _Verdict | None:
        """An unreadable or foreign file counts as none."""
        key, file = self._place(step)
        try:
            kept = msgspec.json.decode(file.read_bytes(), type=_Kept)
        except (OSError, UnicodeDecodeError, msgspec.MsgspecError):
            return None
        return kept.verdict if kept.key == key else None

    def put(self, step: Step, verdict: _Verdict) -> None:
        key, file = self._place(step)
        keep(file, msgspec.json.encode(_Kept(key, verdict)))

    def _place(self, step: Step) -> tuple[tuple[str, ...], Path]:
        """The key of a tile, and its file."""
        key = (*self._key, hashlib.sha256(msgspec.json.encode(step)).hexdigest())
        name = hashlib.sha256("|".join(key).encode()).hexdigest()[:16]
        return key, self._folder / f"tile-{self._digest}-{name}.json"
