"""Lossless on real labels: every digit through every strategy and every way of tiling, against the whole.

Plans are those that the strategies make of the digits' network on three sets of links, with and without
pins that keep its first layers on the device and its last in the cloud, so that all tiers have work; and with
each way of tiling on four edge agents (on slow boards with fast links, where tiles pay). Each is carried out
by the programs, compiled segments, checked tiles and wire form that agents use, in one process: what a frame
meets but for sockets. Predictions have to be those of the undivided network, image by image, and so the
accuracy; bits are compared as well.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from d3bed.bench.digits import SPEC, images
from d3bed.core.graph import Graph, Value
from d3bed.core.ids import AgentId, Tier
from d3bed.core.measurements import LinkRate
from d3bed.core.plan import Plan
from d3bed.core.program import programs_for
from d3bed.model import LoadedModel, compile_step, fingerprint, load, prepare_tiles
from d3bed.model.tensors import from_wire, to_wire
from d3bed.plan import STRATEGIES, Pin, choose
from d3bed.plan.vsm import METHODS

__all__ = ["carrier", "planned", "run"]

_EDGES = tuple(AgentId(f"edge-{n}") for n in range(1, 5))
_PI, _VM = AgentId("pi-1"), AgentId("cloud-1")
_ROUTE = {Tier.DEVICE: _PI, Tier.EDGE: _EDGES[0], Tier.CLOUD: _VM}
_AGENTS = {_PI: Tier.DEVICE, _VM: Tier.CLOUD} | dict.fromkeys(_EDGES, Tier.EDGE)

#: Name, device–edge and edge–cloud in Mbit/s, and how many times slower than the cloud device and edge are.
_LINKS = (("slow", 0.4, 0.2, 8.0, 2.0), ("mixed", 40.0, 4.0, 3.0, 2.0), ("fast", 1000.0, 1000.0, 12.0, 2.4))
_FLOP_S = 2e-9
_PINS = (Pin("stem.*", (Tier.DEVICE,)), Pin("head", (Tier.CLOUD,)))

#: An image in, the undivided network's results out, by way of a plan.
Carrier = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]


def run(json_path: Path | None, console: Console, count: int | None = None) -> dict[str, Any]:
    """Every image (or the first `count`) through every plan. Prints, and optionally writes, the figures."""
    torch.set_num_threads(1)
    model = load(SPEC)
    pixels, labels = (part[:count] for part in images())
    with torch.inference_mode():
        whole = [model.whole(image.unsqueeze(0))[0] for image in pixels]
    predicted = [int(result.argmax()) for result in whole]
    accuracy = _accuracy(predicted, labels)
    rows = []
    with tempfile.TemporaryDirectory(prefix="d3bed-labels-") as folder:
        for plan, names in planned(model.graph).items():
            carry = carrier(model, Plan.parse(plan), Path(folder))
            found = [carry(image.unsqueeze(0))[0] for image in pixels]
            mine = [int(result.argmax()) for result in found]
            rows.append(
                {
                    "plan": plan,
                    "by": names,
                    "images": len(found),
                    "same_predictions": sum(a == b for a, b in zip(mine, predicted, strict=True)),
                    "identical": sum(map(torch.equal, found, whole)),
                    "accuracy": _accuracy(mine, labels),
                }
            )
    result = {
        "format": "d3bed.bench.labels/1",
        "images": len(whole),
        "accuracy": accuracy,
        "rows": rows,
        "lossless": all(
            row["same_predictions"] == row["images"] and row["accuracy"] == accuracy for row in rows
        ),
    }
    console.print(_table(rows, accuracy))
    plans, passed = len(rows), len(rows) * len(whole)
    words = "identical to the whole network's" if result["lossless"] else "NOT all those of the whole network"
    console.print(f"{len(whole):,} images × {plans} plans: {passed:,} predictions, {words}", highlight=False)
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def planned(graph: Graph) -> dict[str, list[str]]:
    """Every plan, as text, and who makes it: strategies by links, and ways of tiling."""
    found: dict[str, list[str]] = {}
    for name, near, far, device, edge in _LINKS:
        for strategy in STRATEGIES:
            for pins in ((), _PINS):
                plan = _choose(graph, strategy, "none", (near, far), (device, edge, 1.0), pins)
                words = f"{strategy}, {name} links" + ", pins" * bool(pins)
                found.setdefault(plan.describe(), []).append(words)
    for method in METHODS:
        plan = _choose(graph, "edge", method, (1000.0, 1000.0), (1000.0, 100.0, 1000.0))
        if plan.tiles:
            found.setdefault(plan.describe(), []).append(f"tiles, {method}")
            gathered = tuple(msgspec.structs.replace(tiled, gather=True) for tiled in plan.tiles)
            text = msgspec.structs.replace(plan, tiles=gathered).describe()
            found.setdefault(text, []).append(f"tiles, {method}, gathered")
    return found


def _choose(
    graph: Graph,
    strategy: str,
    tiling: str,
    mbit: tuple[float, float],
    slower: Sequence[float],
    pins: Sequence[Pin] = (),
) -> Plan:
    seconds = [vertex.flops * _FLOP_S for vertex in graph.vertices]
    factors = dict(zip(Tier, slower, strict=True))
    times_s = {agent: [s * factors[tier] for s in seconds] for agent, tier in _AGENTS.items()}
    fixed_s = {agent: [0.0] * len(seconds) for agent in _AGENTS}
    near, far = (LinkRate(rate * 1e6 / 8, 0.0) for rate in mbit)
    rates = {
        (a, b): far if Tier.CLOUD in (_AGENTS[a], _AGENTS[b]) else near
        for a in _AGENTS
        for b in _AGENTS
        if a != b and {_AGENTS[a], _AGENTS[b]} != {Tier.DEVICE, Tier.CLOUD}
    }
    return choose(
        graph, times_s, _AGENTS, rates, _PI, strategy=strategy, tiling=tiling, fixed_s=fixed_s, pins=pins
    ).plan


def carrier(model: LoadedModel, plan: Plan, folder: Path) -> Carrier:
    """The plan's programs, compiled, with tiles prepared (kept in `folder`), agent by agent."""
    plan.check(model.graph)
    programs = programs_for(model.graph, plan, _ROUTE)
    jobs = [(agent, step) for agent, program in programs.items() for step in program.steps]
    tiled = [step for _, step in jobs if step.tile is not None]
    tiles = dict(zip(tiled, prepare_tiles(model, tiled, folder, fingerprint(1)), strict=True))
    calls = {step: tiles[step].call if step in tiles else compile_step(model, step) for _, step in jobs}

    def carry(image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        have: dict[AgentId, dict[Value, torch.Tensor]] = {agent: {} for agent in programs}

        def put(agent: AgentId, value: Value, tensor: torch.Tensor) -> None:
            have[agent][value] = tensor
            for to in programs[agent].forward.get(value, ()):
                dtype, shape, strides, payload = to_wire(tensor)
                put(to, value, from_wire(dtype, shape, strides, memoryview(bytearray(payload))))

        waiting = list(jobs)
        with torch.inference_mode():
            put(_PI, Value(0), image)
            while waiting:
                agent, step = next(job for job in waiting if have[job[0]].keys() >= set(job[1].takes))
                waiting.remove((agent, step))
                made = calls[step](*[have[agent][value] for value in step.takes])
                for value, tensor in zip(step.makes, made, strict=True):
                    put(agent, value, tensor)
        return tuple(have[_PI][value] for value in model.graph.results)

    return carry


def _accuracy(predicted: Sequence[int], labels: torch.Tensor) -> float:
    right: int = sum(a == b for a, b in zip(predicted, labels.tolist(), strict=True))
    return right / len(predicted)


def _table(rows: Sequence[dict[str, Any]], accuracy: float) -> Table:
    table = Table(
        "plan of",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        title=f"digits: the whole network reads {accuracy:.6f} rightly",
        title_justify="left",
    )
    for heading in ("vertices", "tiles", "images", "same", "bits", "accuracy"):
        table.add_column(heading, justify="right")
    for row in rows:
        plan = Plan.parse(row["plan"])
        first, *others = row["by"]
        table.add_row(
            first + (f" and {len(others)} more" if others else ""),
            " · ".join(str(plan.tiers.count(tier)) for tier in Tier),
            str(len(plan.tiles) or ""),
            str(row["images"]),
            str(row["same_predictions"]),
            str(row["identical"]),
            f"{row['accuracy']:.6f}",
        )
    return table
