"""The `d3bed bench` commands: options into calls; each imports what it needs itself."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from d3bed.core.models import PAPER_MODELS

__all__ = ["bench"]

bench = typer.Typer(
    no_args_is_help=True, help="Measurements that you can repeat; ratios side by side in one run."
)

console = Console()

JsonOption = Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")]


@bench.command("wire")
def bench_wire(json_file: JsonOption = None) -> None:
    """Tensor transport against raw blocking sockets and pickle, and how exact link shaping is."""
    from d3bed.bench.wire import run

    run(json_file, console)


@bench.command("plan")
def bench_plan(json_file: JsonOption = None) -> None:
    """How long an optimal plan takes, building included."""
    from d3bed.bench.plan import run

    run(json_file, console)


@bench.command("adapt")
def bench_adapt(
    json_file: JsonOption = None,
    parts: Annotated[
        str,
        typer.Option(
            help="offline: HPA's plans against the exact optimum; on a testbed, for minutes: reaction (2), "
            "switches (2), noise (5), day (4), static (4), return (2), streams (3); server: many simulated "
            "agents (3). Comma-separated."
        ),
    ] = "offline,reaction,switches,noise,day,static,return,streams,server",
) -> None:
    """How good and fast adjusted plans are, and how soon and calmly they follow on a real testbed.

    A day of a camera is compared with an oracle that has the exact plan at once, and the best static plan.
    """
    from d3bed.bench.adapt import run

    run(json_file, console, [part.strip() for part in parts.split(",")])


@bench.command("predict")
def bench_predict(
    json_file: JsonOption = None,
    networks: Annotated[str, typer.Option(help="Network presets, comma-separated, or all.")] = "wifi",
    models: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(PAPER_MODELS),
    strategies: Annotated[str, typer.Option(help="Comma-separated.")] = "optimal,edge,cloud",
    frames: Annotated[int, typer.Option("--frames", "-f", help="Frames a run.")] = 15,
) -> None:
    """Predicted against measured latency, emulated and at full speed, and emulated slowness."""
    from d3bed.bench.predict import run
    from d3bed.config import networks as presets

    run(
        json_file,
        console,
        models=models.split(","),
        networks=list(presets()) if networks == "all" else networks.split(","),
        strategies=strategies.split(","),
        frames=frames,
    )


@bench.command("tiles")
def bench_tiles(
    json_file: JsonOption = None,
    models: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(PAPER_MODELS),
    nodes: Annotated[str, typer.Option(help="Numbers of edge agents, comma-separated.")] = "2,4,8",
    mbit: Annotated[
        float, typer.Option(help="Rate of links between edge agents; 0: links are not shaped.")
    ] = 1000.0,
    methods: Annotated[str, typer.Option(help="vsm, aofl, deepthings, modnn; comma-separated.")] = "vsm",
    speeds: Annotated[str, typer.Option(help="Relative speeds of the agents, as 1,1,1,0.5.")] = "1",
    frames: Annotated[int, typer.Option("--frames", "-f", help="Frames a round.")] = 5,
    rounds: Annotated[int, typer.Option(help="How often one node and tiles alternate.")] = 2,
) -> None:
    """Tiles on several edge agents against one of them, alternating, for each method."""
    from d3bed.bench.tiles import run

    run(
        json_file,
        console,
        models=models.split(","),
        nodes=[int(count) for count in nodes.split(",")],
        mbit_per_s=mbit,
        methods=methods.split(","),
        speeds=[float(speed) for speed in speeds.split(",")],
        frames=frames,
        rounds=rounds,
    )


@bench.command("streams")
def bench_streams(
    json_file: JsonOption = None,
    networks: Annotated[str, typer.Option(help="Network presets, comma-separated.")] = "lan,wifi",
    models: Annotated[str, typer.Option(help="Comma-separated.")] = "alexnet,resnet18",
    strategies: Annotated[str, typer.Option(help="Comma-separated.")] = "device,edge,cloud,optimal",
    seconds: Annotated[float, typer.Option(help="Of each stream.")] = 15.0,
) -> None:
    """Frames a second of streams that never wait: single tiers, one plan, a mix of plans."""
    from d3bed.bench.streams import run

    run(
        json_file,
        console,
        models=models.split(","),
        networks=networks.split(","),
        strategies=strategies.split(","),
        seconds=seconds,
    )


@bench.command("chaos")
def bench_chaos(
    json_file: JsonOption = None,
    seed: Annotated[int, typer.Option(help="Which faults come, and when.")] = 1,
    faults: Annotated[int, typer.Option(help="How many; 0: only the single ones, for figures.")] = 100,
    minutes: Annotated[float, typer.Option(help="In how long.")] = 10.0,
    rounds: Annotated[int, typer.Option(help="How often single faults are measured before.")] = 3,
) -> None:
    """Kill, pause and cut off agents, server and links under a stream: nothing is lost, twice or wrong."""
    from d3bed.bench.chaos import run

    result = run(json_file, console, seed=seed, faults=faults, minutes=minutes, rounds=rounds)
    raise typer.Exit(1 if result["bad"] else 0)


@bench.command("fuzz")
def bench_fuzz(
    json_file: JsonOption = None,
    seed: Annotated[int, typer.Option(help="Which inputs.")] = 1,
    wire: Annotated[int, typer.Option(help="Inputs to the data port's protocol.")] = 1_000_000,
    control: Annotated[int, typer.Option(help="Messages of agents to the coordinator.")] = 100_000,
    server: Annotated[int, typer.Option(help="Messages on control connections to a server.")] = 100_000,
    api: Annotated[int, typer.Option(help="Requests to the JSON API.")] = 100_000,
    document: Annotated[
        int, typer.Option(help="About so many more, by schemathesis from the OpenAPI document.")
    ] = 20_000,
    minutes: Annotated[
        float | None,
        typer.Option(help="At most so long for each of these; what came of it is told.", min=0.1),
    ] = None,
) -> None:
    """Malformed input on data port, control connection and JSON API: no crash, no hang, no growth.

    Ctrl-C ends it, and tells what came of it until then.
    """
    from d3bed.bench.fuzz_server import run

    result = run(
        json_file,
        console,
        seed=seed,
        wire=wire,
        control=control,
        server=server,
        api=api,
        document=document,
        minutes=math.inf if minutes is None else minutes,
    )
    raise typer.Exit(1 if result["bad"] else 0)


@bench.command("engines")
def bench_engines(
    json_file: JsonOption = None,
    models: Annotated[
        str, typer.Option(help="Comma-separated.")
    ] = "alexnet,resnet18,darknet53,inception_v4,vgg16",
    runs: Annotated[int, typer.Option(help="Timed runs of each, in turns; the shortest counts.")] = 7,
) -> None:
    """Whole networks at one thread: torch's eager module, d3bed's segments of it, and ONNX Runtime."""
    from d3bed.bench.engines import run

    run(json_file, console, models=models.split(","), runs=runs)


@bench.command("predictor")
def bench_predictor(
    json_file: JsonOption = None,
    models: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(PAPER_MODELS),
) -> None:
    """How well a network that was never profiled is predicted from those that were."""
    from d3bed.bench.predictor import run

    run(json_file, console, models=models.split(","))


@bench.command("labels")
def bench_labels(
    json_file: JsonOption = None,
    images: Annotated[int | None, typer.Option(help="Only the first so many.", min=1)] = None,
) -> None:
    """1,797 handwritten digits through every strategy and way of tiling: the predictions of the whole."""
    from d3bed.bench.labels import run

    if not run(json_file, console, images)["lossless"]:
        raise typer.Exit(1)


@bench.command("server")
def bench_server(
    json_file: JsonOption = None,
    agents: Annotated[str, typer.Option(help="Numbers of agents, comma-separated.")] = "50,500",
    seconds: Annotated[float, typer.Option(help="Of each; memory wants ten minutes.", min=10)] = 60.0,
) -> None:
    """What the server takes for many agents that each tell ten spans a second, and how soon it answers."""
    from d3bed.bench.server import run

    run(json_file, console, agents=[int(count) for count in agents.split(",")], seconds=seconds)


@bench.command("lab")
def bench_lab(
    json_file: JsonOption = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="TOML file; default: configs/boards.toml.")
    ] = None,
    times: Annotated[int, typer.Option(help="Up and down so many times.", min=0)] = 20,
    cut: Annotated[float, typer.Option(help="Then pull a cable for so many seconds; 0: not.", min=0)] = 10.0,
) -> None:
    """How long a lab takes to come up and to go, whether anything stays, and what a pulled cable costs."""
    from d3bed.bench.lab import run
    from d3bed.config import data_dir, read_config

    run(json_file, console, read_config(config or data_dir("configs") / "boards.toml"), times, cut)


@bench.command("dashboard")
def bench_dashboard(
    json_file: JsonOption = None,
    minutes: Annotated[
        float, typer.Option(help="How long the page is watched; its heap is judged over ten.", min=0.1)
    ] = 1.0,
    events: Annotated[int, typer.Option(help="Events a second.", min=10)] = 1000,
    clients: Annotated[str, typer.Option(help="Numbers of clients, comma-separated.")] = "1,10,50",
) -> None:
    """The page under load in a real Chromium, and what it costs the server: two to three minutes.

    A server of its own tells of a made-up testbed. Needs the packages playwright and psutil, and Chromium.
    """
    from d3bed.bench.dashboard import run

    run(
        json_file,
        console,
        minutes=minutes,
        events=events,
        clients=[int(count) for count in clients.split(",")],
    )
