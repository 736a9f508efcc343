"""Cut networks the way agents do, but inside one process: every value crosses as bytes."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from d3bed.core.graph import Graph, Value
from d3bed.core.ids import TIERS, AgentId, Tier
from d3bed.core.messages import ModelSpec
from d3bed.core.plan import Plan
from d3bed.core.program import STAND_INS, programs_for
from d3bed.model import LoadedModel, compile_step, fingerprint, from_wire, load, prepare_tiles, to_wire

Split = Callable[..., tuple[torch.Tensor, ...]]


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def networks_importable() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        yield


@pytest.fixture(scope="session")
def loaded() -> Callable[..., LoadedModel]:
    """Load a model once a session; `networks:NAME` is in `networks.py`."""
    kept: dict[ModelSpec, LoadedModel] = {}

    def get(
        name: str,
        input: tuple[int, int, int] | None = None,
        weights: str = "random:0",
        encoded: int = 0,
    ) -> LoadedModel:
        spec = ModelSpec(name, weights, input, encoded)
        if spec not in kept:
            kept[spec] = load(spec)
        return kept[spec]

    return get


def cross(tensor: torch.Tensor) -> torch.Tensor:
    dtype, shape, strides, payload = to_wire(tensor)
    return from_wire(dtype, shape, strides, memoryview(bytearray(payload)))


def run_split(
    folder: Path, model: LoadedModel, plan: Plan, image: torch.Tensor, nudged: Collection[Value] = ()
) -> tuple[torch.Tensor, ...]:
    plan.check(model.graph)
    programs = programs_for(model.graph, plan, STAND_INS)
    have: dict[AgentId, dict[Value, torch.Tensor]] = {agent: {} for agent in programs}
    waiting = [(agent, step) for agent, program in programs.items() for step in program.steps]
    tiled = [step for _, step in waiting if step.tile is not None]
    tiles = dict(zip(tiled, prepare_tiles(model, tiled, folder, fingerprint(1)), strict=True))

    def put(agent: AgentId, value: Value, tensor: torch.Tensor) -> None:
        spec = model.graph.spec(value)
        assert spec.admits(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        have[agent][value] = tensor
        for to in programs[agent].forward.get(value, ()):
            put(to, value, cross(tensor))

    device = STAND_INS[Tier.DEVICE]
    with torch.inference_mode():
        put(device, Value(0), image)
        while waiting:
            agent, step = next(job for job in waiting if have[job[0]].keys() >= set(job[1].takes))
            waiting.remove((agent, step))
            call = tiles[step].call if step in tiles else compile_step(model, step)
            made = call(*[have[agent][value] for value in step.takes])
            for value, tensor in zip(step.makes, made, strict=True):
                if value in nudged:
                    tensor = torch.nextafter(tensor, torch.full_like(tensor, torch.inf))
                put(agent, value, tensor)
    return tuple(have[device][value] for value in model.graph.results)


@pytest.fixture(scope="session")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Run a frame (uint8 image) under a plan; `nudged` values are moved up by one ulp."""
    return partial(run_split, tmp_path_factory.mktemp("tiles"))


def random_monotone(graph: Graph, count: int, seed: int) -> list[Plan]:
    """Two cuts through the numbering, with single vertices strayed from their side, made monotone."""
    numbers = random.Random(seed)
    size = len(graph.vertices)
    plans = []
    for _ in range(count):
        first, second = sorted(numbers.choices(range(1, size + 1), k=2))
        ranks = [0]
        for v in range(1, size):
            wanted = (v >= first) + (v >= second) + numbers.choice((-1, 0, 0, 0, 0, 0, 0, 0, 0, 1))
            ranks.append(min(2, max(wanted, *(ranks[p] for p in graph.predecessors[v]))))
        plans.append(Plan(tuple(TIERS[rank] for rank in ranks)))
    return plans


@pytest.fixture(scope="session")
def random_plans() -> Callable[[Graph, int, int], list[Plan]]:
    return random_monotone


@pytest.fixture(scope="session")
def photo() -> Callable[[LoadedModel], torch.Tensor]:
    """A uint8 image of the size that a model takes: noise, the hardest case for equality by luck."""

    def make(model: LoadedModel) -> torch.Tensor:
        generator = torch.Generator().manual_seed(7)
        return torch.randint(256, model.input.shape, dtype=torch.uint8, generator=generator)

    return make
