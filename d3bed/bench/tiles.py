"""What tiles on several edge agents are worth: one node and tiled, alternating, in one run of the testbed.

Every edge agent is an emulated board of the same speed, or of speeds that are given; their speeds add up
to less than the machine's cores, so that they do not slow each other down. Edge links are shaped; at a rate
of 0 no link is, and what an exchange takes is nearly all overhead. The device only sends its photo. The
speed-up is that of the convolutional part: what the edge takes alone for all layers with maps of more than
one position (by its profile's share of the measured time), over what tiled blocks take, from cutting up
their source to joining their tiles, and such layers as are not tiled. (What latency falls by would have in
it how the linear layers behind vary: they are more than half of AlexNet.) Methods run on the same path,
each chosen by its own rules.
An exchange lasts from the end of the last tile of a block until all tiles of the next have what they need,
bytes and latency included.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from d3bed.config import override, read_config
from d3bed.lab import client
from d3bed.lab.testbed import SwitchFailed, Testbed, open_testbed

__all__ = ["TARGETS", "run"]

#: Speed-up by model and nodes, at 1 Gbit/s.
TARGETS = {
    "vgg16": {2: 1.8, 4: 3.2, 8: 5.0},
    "alexnet": {2: 1.5, 4: 2.4, 8: 3.0},
    "darknet53": {2: 1.7, 4: 2.4, 8: 3.2},
    "inception_v4": {2: 1.5, 4: 2.2, 8: 2.8},
    "resnet18": {2: 1.5, 4: 2.1, 8: 2.5},
}

#: Share of a core that all emulated edge agents take together, and the most that one takes.
_ALL_EDGES, _ONE_EDGE = 0.8, 0.1

#: The last spans of a run are with the server by then.
_SHOWN_S = 1.0


def run(
    json_path: Path | None,
    console: Console,
    *,
    models: Sequence[str],
    nodes: Sequence[int],
    mbit_per_s: float,
    methods: Sequence[str],
    speeds: Sequence[float],
    frames: int,
    rounds: int,
) -> dict[str, Any]:
    """Measure, print and optionally write the figures. `speeds` are relative, the last one repeated."""
    rows: list[dict[str, Any]] = []
    for count in nodes:
        shares = [speeds[min(n, len(speeds) - 1)] for n in range(count)]
        rows += asyncio.run(_session(count, shares, mbit_per_s, models, methods, frames, rounds, console))
    result = {
        "format": "d3bed.bench.tiles/1",
        "mbit_per_s": mbit_per_s,
        "frames": frames * rounds,
        "load_average": os.getloadavg()[0],
        "runs": rows,
    }
    console.print(_table(rows, mbit_per_s, even=len(set(speeds)) == 1))
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def _config(folder: Path, shares: Sequence[float], mbit_per_s: float) -> Path:
    speed = min(_ONE_EDGE, _ALL_EDGES / sum(shares))
    network = folder / "edges.toml"
    shaped = f'network = "{network}"\n' if mbit_per_s else ""
    network.write_text(
        'description = "edge boxes on one switch"\n[links]\n'
        "device-edge = { mbit_per_s = 1000, latency_ms = 0.2 }\n"
        f"edge-edge = {{ mbit_per_s = {mbit_per_s}, latency_ms = 0.2 }}\n",
        encoding="utf-8",
    )
    agents = "".join(
        f'[[agents]]\nname = "edge-{n}"\ntier = "edge"\nspeed = {speed * share:.4f}\n'
        for n, share in enumerate(shares, 1)
    )
    names = ", ".join(f'"edge-{n}"' for n in range(1, len(shares) + 1))
    path = folder / "tiles.toml"
    path.write_text(
        f'[[agents]]\nname = "pi-1"\ntier = "device"\nspeed = 0.1\n{agents}'
        f'[pipelines.main]\ndevice = "pi-1"\nedges = [{names}]\nstrategy = "edge"\n'
        f"{shaped}adapt = false\n",
        encoding="utf-8",
    )
    return path


async def _session(
    count: int,
    shares: Sequence[float],
    mbit_per_s: float,
    models: Sequence[str],
    methods: Sequence[str],
    frames: int,
    rounds: int,
    console: Console,
) -> list[dict[str, Any]]:
    """One testbed of so many edge agents, all models and methods."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="d3bed-bench-") as folder:
        config = override(read_config(_config(Path(folder), shares, mbit_per_s)), model=models[0], port=0)
        async with open_testbed(config, ["--model", models[0], "--port", "0"]) as bed:
            for model in models:
                found = await _measure(bed, model, methods, frames, rounds, console)
                for row in found:
                    rows.append({"nodes": count, "shares": list(shares)} | row)
                    console.print(_line(rows[-1]), highlight=False)
    return rows


async def _measure(
    bed: Testbed, model: str, methods: Sequence[str], frames: int, rounds: int, console: Console
) -> list[dict[str, Any]]:
    reports: dict[str, list[dict[str, Any]]] = {method: [] for method in ("none", *methods)}
    exchanges_s: dict[str, list[float]] = {method: [] for method in methods}
    share, untiled = 0.0, dict.fromkeys(methods, 0.0)
    for _ in range(rounds):
        for method in reports:
            try:
                view = await bed.switch(model=model, strategy="edge", tiling=method)
            except SwitchFailed as error:
                console.print(f"{model}, {method}: no plan: {error}", highlight=False)
                continue
            reports[method].append(await bed.run(frames))
            if method != "none":
                await asyncio.sleep(_SHOWN_S)
                tiles = reports[method][-1]["tiles"]
                exchanges_s[method] += _exchanges_s(
                    await client.get(bed.base, "/api/state"), view["epoch"], tiles
                )
                untiled[method] = _convolutional_share(view, tiles)
            share = _convolutional_share(view)
    alone = reports.pop("none")
    alone_s = statistics.median(r["latency_s"]["median"] for r in alone)
    edge_s = statistics.median(r["compute_s"]["edge"] for r in alone)
    part_s = share * edge_s
    rows = []
    for method, mine in reports.items():
        if not mine:
            continue
        latency_s = statistics.median(r["latency_s"]["median"] for r in mine)
        last = mine[-1]
        predicted_s = _parts_s(last, "predicted_s") or 0.0
        measured = [taken_s for r in mine if (taken_s := _parts_s(r, "measured_s")) is not None]
        if not measured:
            console.print(f"{model}, {method}: no frame went all its way in tiles", highlight=False)
            continue
        measured_s = statistics.median(measured)
        tiled_s = measured_s + untiled[method] * edge_s
        exact = [r["exact"] for r in (*alone, *mine)]
        rows.append(
            {
                "model": model,
                "method": method,
                "alone_s": part_s,
                "tiled_s": tiled_s,
                "speed_up": part_s / tiled_s,
                "latency_alone_s": alone_s,
                "latency_s": latency_s,
                "predicted_part_s": predicted_s,
                "measured_part_s": measured_s,
                "exchange_s": statistics.median(exchanges_s[method]) if exchanges_s[method] else None,
                "all_identical": all(e["checked"] == e["identical"] > 0 for e in exact),
                "tiles": last["tiles"],
            }
        )
    return rows


def _parts_s(report: dict[str, Any], what: str) -> float | None:
    """Of all tiled parts together; None where one was never measured."""
    parts = {tiled["part"]: tiled[what] for tiled in report["tiles"]}
    return None if None in parts.values() else sum(parts.values())


def _exchanges_s(state: dict[str, Any], epoch: int, tiles: Sequence[dict[str, Any]]) -> list[float]:
    """Seconds of every exchange (or gather and cutting up anew) in the frames shown: from when all tiles that
    a block reads are made to when all its agents have what they need."""
    sinks = {block["vertices"][-1]: _place(block["vertices"]) for block in tiles}
    found = []
    for frame in state["frames"]:
        ready_s: dict[tuple[int, int], float] = {}
        end_s: dict[tuple[int, int], float] = {}
        waited_s: dict[tuple[str, tuple[int, int]], float] = {}
        spans = [span for span in frame["spans"] if span["tile"] is not None and frame["epoch"] == epoch]
        for span in sorted(spans, key=lambda span: span["start_s"]):
            block = _place(span["vertices"])
            if span["kind"] == "queue":
                waited_s[span["agent"], block] = span["end_s"] - span["start_s"]
            elif span["kind"] == "compute":
                start_s = span["start_s"] - waited_s.get((span["agent"], block), 0.0)
                ready_s[block] = max(ready_s.get(block, 0.0), start_s)
                end_s[block] = max(end_s.get(block, 0.0), span["end_s"])
        for tiled in tiles:
            after = _place(tiled["vertices"])
            done_s = [end_s[sinks[v]] for v in tiled["sources"] if v in sinks and sinks[v] in end_s]
            if after in ready_s and done_s:
                found.append(ready_s[after] - max(done_s))
    return found


def _place(vertices: Sequence[int]) -> tuple[int, int]:
    """By which spans name a block."""
    return vertices[0], vertices[-1]


def _convolutional_share(view: dict[str, Any], tiles: Sequence[dict[str, Any]] = ()) -> float:
    """Of the edge's profile: the vertices that make maps of more than one position, and are not tiled."""
    times_s, vertices = view["profile_s"]["edge"], view["graph"]["vertices"]
    tiled = {v for block in tiles for v in block["vertices"]}
    maps = sum(
        time_s
        for v, (time_s, vertex) in enumerate(zip(times_s, vertices, strict=True))
        if v not in tiled and len(vertex["shape"]) == 4 and vertex["shape"][2:] != [1, 1]
    )
    return float(maps / sum(times_s))


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['model']}, {row['nodes']} nodes, {row['method']}: {row['speed_up']:.2f}x "
        f"({row['alone_s'] * 1e3:.0f} ms alone), {len(row['tiles'])} blocks"
    )


def _table(rows: list[dict[str, Any]], mbit_per_s: float, *, even: bool) -> Table:
    rate = f"at {mbit_per_s:g} Mbit/s" if mbit_per_s else "on links that are not shaped"
    table = Table(
        *(
            "model",
            "nodes",
            "method",
            "alone ms",
            "tiled ms",
            "×",
            "target",
            "MB",
            "exch. ms",
            "off by",
            "exact",
        ),
        title=f"tiles {rate}, convolutional part",
        caption="×: over one node; MB exchanged a frame; exch.: from block to block; off by: predicted part",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for row in rows:
        target = TARGETS.get(row["model"], {}).get(row["nodes"]) if even and mbit_per_s == 1000 else None
        reached = target is None or row["method"] != "vsm" or row["speed_up"] >= target
        speed_up = f"{row['speed_up']:.2f}"
        measured_s = row["measured_part_s"]
        table.add_row(
            row["model"],
            str(row["nodes"]),
            row["method"],
            f"{row['alone_s'] * 1e3:.0f}",
            f"{row['tiled_s'] * 1e3:.0f}",
            f"[green]{speed_up}[/]" if reached else f"[red]{speed_up} ✗[/]",
            f"{target:g}" if target else "",
            f"{sum(t['exchanged_bytes'] + t['gathered_bytes'] for t in row['tiles']) / 1e6:.2f}",
            f"{row['exchange_s'] * 1e3:.1f}" if row["exchange_s"] is not None else "",
            f"{row['predicted_part_s'] / measured_s - 1:+.1%}" if measured_s else "",
            "yes" if row["all_identical"] else "[red]NO[/]",
        )
    return table
