"""`d3bed compare`: options into calls; it imports what it needs itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from d3bed.core.errors import ConfigError

__all__ = ["compare"]

compare = typer.Typer()
console = Console()
errors = Console(stderr=True)

_MODELS = "alexnet,vgg16,resnet18,darknet53,inception_v4"
#: What `--scale` plans, unless told otherwise.
_SCALED = "resnet18,vgg16"
_NETWORKS = "wifi,rural,optical,4g,5g"
_STRATEGIES = "device,edge,cloud,neurosurgeon,dads,layers,hpa,optimal,hpa+vsm,optimal+vsm"


#: What `--quick` compares: models, networks, strategies.
_QUICK = ("alexnet,resnet18", "wifi,optical", "edge,cloud,dads,optimal,optimal+vsm")


@compare.command("compare")
def run_compare(
    out: Annotated[Path, typer.Option(help="Folder for results; a real run there is continued.")],
    models: Annotated[
        str | None, typer.Option(help="Comma-separated; default: all five, with --scale two.")
    ] = None,
    networks: Annotated[
        str, typer.Option(help="Presets, comma-separated; unshaped: links as they are.")
    ] = _NETWORKS,
    strategies: Annotated[
        str, typer.Option(help="Comma-separated; +vsm: the edge agents share layers in tiles.")
    ] = _STRATEGIES,
    edges: Annotated[int, typer.Option(help="Edge agents, the first so many of the testbed's.")] = 4,
    testbed: Annotated[
        Path | None, typer.Option(help="TOML file of your boards; default: emulated, configs/compare.toml.")
    ] = None,
    frames: Annotated[
        int | None, typer.Option("--frames", "-f", help="Only frames one at a time, so many a run.", min=2)
    ] = None,
    rate: Annotated[
        float | None, typer.Option("--rate", "-r", help="Only streams, at so many frames a second.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Two networks, two links, few frames: within 3 minutes.")
    ] = False,
    predict: Annotated[
        bool,
        typer.Option(
            "--predict", help="From profiles alone: seconds for frames, a few minutes with streams."
        ),
    ] = False,
    scale: Annotated[
        bool,
        typer.Option("--scale", help="How it grows: edges, rates, devices, backbone, graph size; predicted."),
    ] = False,
    dask: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Plan on this Dask cluster; default: on this machine's cores."),
    ] = None,
    cache_dir: Annotated[Path, typer.Option(help="Where profiles are kept.")] = Path(".d3bed/cache"),
) -> None:
    """Check the claim: ours, its rivals and single tiers over networks and links, with plots.

    The whole grid as predicted, in seconds: d3bed compare --predict --frames 10 --out grid

    Really run, on emulated boards; cut short, the same command goes on: d3bed compare --out real

    How it grows, with plots: d3bed compare --scale --out grows

    Rivals are compared twice: with our uint8 photo as their input, and as published (*), with the float32
    tensor of their papers. Without --frames or --rate both are compared: frames one at a time, and the
    highest rate that a stream sustains.

    The results depend on the speeds in configs/compare.toml and on the presets in configs/networks, which are
    ours: copy, change, and give yours as --testbed and --networks FILE.toml. The exit code is 1 if an
    answer was not bit-identical to the undivided network's.
    """
    from d3bed.bench.compare.grid import Asked, ways
    from d3bed.bench.compare.run import Request, measure
    from d3bed.bench.compare.run import predict as predict_grid
    from d3bed.bench.compare.run import scale as scale_up
    from d3bed.bench.compare.setting import AS_THEY_ARE, read_setting
    from d3bed.config import check_model, check_rate, data_dir, read_config, read_network

    if sum((quick, predict, scale)) > 1:
        raise ConfigError("--quick", "", "goes without --predict and --scale", "give one of the three")
    models = models or (_SCALED if scale else _MODELS)
    if quick:
        models, networks, strategies = _QUICK
        edges, frames = 2, frames or 3
    if frames is not None and rate is not None:
        raise ConfigError("--rate", f"{rate:g}", "frames come one at a time, or at a rate", "leave one out")
    check_rate(rate, "--rate", "")
    file = data_dir("configs") / "compare.toml" if testbed is None else testbed
    asked = Asked(
        models=_listed(models, "--models"),
        networks=_listed(networks, "--networks"),
        strategies=_listed(strategies, "--strategies"),
        edges=edges,
        frames=None if rate is not None else frames or 10,
        streams=frames is None,
        rate_per_s=rate,
        testbed=file.name,
    )
    for model in asked.models:
        check_model(model, "--models", "")
    for network in asked.networks:
        if network != AS_THEY_ARE:
            read_network(network, "--networks", "")
    ways(asked.strategies)
    _folder(out)
    request = Request(asked, read_setting(file, edges), out, cache_dir, dask)
    if scale:
        everyone = len(read_config(file).pipelines[0].edges)
        scale_up(request, read_setting(file, max(1, everyone)), console, _hint)
    elif predict:
        predict_grid(request, console, _hint)
    else:
        found = measure(request, console, _hint)
        runs = [each for row in found.rows for each in (row.single, row.stream)]
        if any(each is not None and each.identical is False for each in runs):
            raise typer.Exit(1)


def _listed(text: str, option: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not found:
        raise ConfigError(option, text, "names nothing", "write names with commas between them")
    return found


def _folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("--out", str(out), f"{error.strerror}", "choose another place") from error


def _hint(text: str) -> None:
    errors.print(text, style="dim", highlight=False)
