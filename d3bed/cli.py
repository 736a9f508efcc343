"""The `d3bed` command. Commands only translate options into calls; each imports what it needs itself,
so that `server` never imports torch and `--help` answers at once.

Exit codes: 0 all well, 1 it did not work, 2 something in the options or files is wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from d3bed import __version__
from d3bed.bench.commands import bench
from d3bed.bench.compare.commands import compare
from d3bed.core.errors import ConfigError, D3Error
from d3bed.lab.commands import steer
from d3bed.lab.exporting import exporting
from d3bed.lab.keeping import keeping
from d3bed.lab.lab_commands import lab
from d3bed.lab.reporting import reporting
from d3bed.lab.scenario_commands import scenario
from d3bed.lab.signals import until_signal
from d3bed.lab.trust_commands import IDENTITY, IdentityOption, agents, trust

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="One deep neural network over a device, edge boxes and a cloud, with exactly the same bits.",
    epilog="Start with [bold]d3bed demo[/]. Docs: README.md and docs/.",
)
app.add_typer(steer)
app.add_typer(scenario, name="scenario")
app.add_typer(reporting)
app.add_typer(keeping)
app.add_typer(exporting)
app.add_typer(lab, name="lab")
app.add_typer(bench, name="bench")
app.add_typer(compare)
app.add_typer(trust)
app.add_typer(agents, name="agents")

console = Console()
errors = Console(stderr=True)

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="TOML file; default: the demo's.")]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="Zoo name, package.module:factory, a .pt2 file, or one of d3bed export."
    ),
]
WeightsOption = Annotated[str | None, typer.Option(help="random:SEED, pretrained, or a .safetensors file.")]
InputOption = Annotated[str | None, typer.Option(help="Input size of your own model, as 3x224x224.")]
EncodedOption = Annotated[
    int | None,
    typer.Option("--encoded", metavar="KB", help="Frames are image files, usually so large; 0: pixels."),
]
NetworkOption = Annotated[
    str | None, typer.Option("--network", "-n", help="Network preset (configs/networks) or a .toml file.")
]
StrategyOption = Annotated[str | None, typer.Option("--strategy", "-s", help="How plans are made.")]
EdgesOption = Annotated[
    int | None, typer.Option("--edges", help="As many equal edge agents, which share the configured speed.")
]
TilingOption = Annotated[
    str | None,
    typer.Option("--tiling", help="How edge agents share layers: vsm, aofl, deepthings, modnn or none."),
]
ToleranceOption = Annotated[
    float | None,
    typer.Option("--tolerance", help="Tiles may be so far off (relative), as 1e-5; 0: bit-identical."),
]
EngineOption = Annotated[
    str | None,
    typer.Option(
        "--engine", help="What computes: torch (bit-identical), onnx or cuda (to 1e-5), or auto, the fastest."
    ),
]
CacheOption = Annotated[Path, typer.Option(help="Where profiles are kept.")]
FramesOption = Annotated[int | None, typer.Option("--frames", "-f", help="Frames to answer.")]
RateOption = Annotated[
    float | None,
    typer.Option("--rate", "-r", help="Frames a second, as from a camera; else one after the other."),
]
PortOption = Annotated[int | None, typer.Option("--port", "-p", help="Server port; 0 takes a free one.")]
FixedOption = Annotated[
    bool, typer.Option("--fixed", help="Keep the plan whatever happens to agents and links.")
]
ParentOption = Annotated[int | None, typer.Option(hidden=True, help="End when this process ends.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")]
LogOption = Annotated[
    str, typer.Option("--log-format", envvar="D3BED_LOG_FORMAT", help="text, or json: an object a line.")
]
TokenOption = Annotated[
    str | None, typer.Option(envvar="D3BED_TOKEN", help="Token of a server that is not local.")
]
ServerOption = Annotated[str, typer.Option(envvar="D3BED_SERVER", help="Address of the server.")]


def default_config() -> Path:
    from d3bed.config import data_dir

    return data_dir("configs") / "demo.toml"


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if show:
        console.print(f"d3bed {__version__}", highlight=False)
        raise typer.Exit


@app.command()
def demo(
    context: typer.Context,
    config: ConfigOption = Path("demo"),
    model: ModelOption = None,
    weights: WeightsOption = None,
    input: InputOption = None,
    encoded: EncodedOption = None,
    network: NetworkOption = None,
    strategy: StrategyOption = None,
    edges: EdgesOption = None,
    tiling: TilingOption = None,
    tolerance: ToleranceOption = None,
    frames: FramesOption = None,
    rate: RateOption = None,
    engine: EngineOption = None,
    headless: Annotated[
        bool,
        typer.Option(
            "--headless",
            help="No terminal page; end after --frames (default 20) with 0 only if all are exact.",
        ),
    ] = False,
    report: Annotated[Path | None, typer.Option(help="Write the d3bed.report/1 JSON here when done.")] = None,
    port: PortOption = None,
    fixed: FixedOption = False,
) -> None:
    """Start a whole testbed on this machine: a server, a device, two edge boxes and a cloud.

    Real processes, real TCP, real photos. Slow boards and slow links are emulated and say so.

    Without any option but --port, a tour of two minutes shows what changes and how the plan follows.
    """
    from d3bed.config import override, read_config
    from d3bed.lab.demo import DemoOptions, run_demo
    from d3bed.lab.scenario import find_scenario, read_scenario

    path = default_config() if config == Path("demo") else config
    if headless and frames is None:
        frames = 20
    settings = override(
        read_config(path),
        model=model,
        weights=weights,
        input=input,
        encoded_kb=encoded,
        network=network,
        strategy=strategy,
        edges=edges,
        tiling=tiling,
        tolerance=tolerance,
        frames=frames,
        rate_per_s=rate,
        port=port,
        engine=engine,
    )
    if report is not None and not report.resolve().parent.is_dir():
        raise ConfigError("--report", "", f"no such folder: {report.parent}", "make it first")
    given = {
        "--model": model,
        "--weights": weights,
        "--input": input,
        "--encoded": encoded,
        "--network": network,
        "--strategy": strategy,
        "--edges": edges,
        "--tiling": tiling,
        "--tolerance": tolerance,
        "--frames": frames,
        "--rate": rate,
        "--port": port,
    }
    overrides = [word for key, value in given.items() if value is not None for word in (key, str(value))]
    overrides += ["--fixed"] if fixed else []
    sources = [context.get_parameter_source(name) for name in context.params if name != "port"]
    bare = all(source is None or source.name == "DEFAULT" for source in sources)
    tour = read_scenario(find_scenario("tour")) if bare else None
    options = DemoOptions(settings, tuple(overrides), frames, headless, report, tour)
    raise typer.Exit(_run(run_demo(options, console)))


@app.command()
def server(
    config: ConfigOption = Path("demo"),
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; other than loopback needs a token.")
    ] = None,
    port: PortOption = None,
    model: ModelOption = None,
    weights: WeightsOption = None,
    input: InputOption = None,
    encoded: EncodedOption = None,
    network: NetworkOption = None,
    strategy: StrategyOption = None,
    edges: EdgesOption = None,
    tiling: TilingOption = None,
    tolerance: ToleranceOption = None,
    frames: FramesOption = None,
    rate: RateOption = None,
    token: TokenOption = None,
    tls: Annotated[bool, typer.Option("--tls", help="HTTPS and secured data links, by an own CA.")] = False,
    tls_name: Annotated[list[str] | None, typer.Option(help="Another name boards reach it by.")] = None,
    announce: Annotated[bool, typer.Option("--announce", help="Be found by d3bed discover (mDNS).")] = False,
    idle: Annotated[bool, typer.Option("--idle", help="Start no frames until asked to.")] = False,
    fixed: FixedOption = False,
    data_dir: Annotated[Path, typer.Option(help="Database, token and secrets.")] = Path(".d3bed"),
    parent: ParentOption = None,
    verbose: VerboseOption = False,
    log_format: LogOption = "text",
) -> None:
    """Run the control plane and dashboard. Needs no torch; never touches a tensor."""
    _begin(parent, verbose, log_format)
    from d3bed.config import override, read_config
    from d3bed.lab.offers import offered_networks, offered_scenes
    from d3bed.server.app import serve
    from d3bed.server.history import RunHistory
    from d3bed.server.memory import settle
    from d3bed.server.settings import ServerSettings

    settings = override(
        read_config(default_config() if config == Path("demo") else config),
        model=model,
        weights=weights,
        input=input,
        encoded_kb=encoded,
        network=network,
        strategy=strategy,
        edges=edges,
        tiling=tiling,
        tolerance=tolerance,
        frames=frames,
        rate_per_s=rate,
        port=port,
        host=host,
        idle=idle,
        fixed=fixed,
    )
    address = data_dir / "address"

    def report_page(history: RunHistory) -> str:
        from d3bed.lab.report import as_html  # here: a server starts without what it needs

        return as_html(history)

    def ready(url: str) -> None:
        errors.print(f"dashboard: {url}", highlight=False)
        whole = address.with_suffix(".new")
        whole.write_text(url + "\n")
        whole.replace(address)  # who waits for the file must not find it empty
        settle()

    plan = ServerSettings(
        data_dir=data_dir,
        pipelines=settings.pipelines,
        host=settings.host,
        port=settings.port,
        token=token,
        tls=tls,
        names=tuple(tls_name or ()),
        announce=announce,
        retention=settings.retention,
        networks=offered_networks(),
        scenes=offered_scenes(settings),
    )
    try:
        _run(until_signal(serve(plan, ready=ready, as_page=report_page)))
    finally:
        with contextlib.suppress(OSError):
            address.unlink()


@app.command()
def agent(
    name: Annotated[str | None, typer.Option(help="Its name; with --config, one of its agents.")] = None,
    server: Annotated[str | None, typer.Option(envvar="D3BED_SERVER", help="Address of the server.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Take tier, speed … from this file.")
    ] = None,
    tier: Annotated[str | None, typer.Option(help="device, edge or cloud.")] = None,
    host: Annotated[str | None, typer.Option(help="Address of the data listener, as peers see it.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the data listener; 0 takes a free one.")] = None,
    speed: Annotated[
        float | None, typer.Option(help="Below 1: emulate a board 1/speed times slower.")
    ] = None,
    photos: Annotated[Path | None, typer.Option(help="Folder of photos (device only).")] = None,
    shaped: Annotated[
        bool, typer.Option("--shaped", help="The server will hold links to emulated rates: use finer timers.")
    ] = False,
    tc: Annotated[
        bool, typer.Option("--tc", help="Have the kernel hold emulated links (root); else user space does.")
    ] = False,
    cpus: Annotated[
        float | None, typer.Option(help="The cores that its control group gives it, as 0.2.", min=0.01)
    ] = None,
    engine: EngineOption = None,
    token: TokenOption = None,
    identity: IdentityOption = IDENTITY,
    cache_dir: Annotated[Path, typer.Option(help="Where profiles are kept.")] = Path(".d3bed/cache"),
    parent: ParentOption = None,
    verbose: VerboseOption = False,
    log_format: LogOption = "text",
) -> None:
    """Run one agent: a board's part of a network. One that joined (d3bed join) needs no options."""
    _begin(parent, verbose, log_format)
    from d3bed.config import agent_settings

    settings = agent_settings(
        name=name,
        server=server,
        config=config,
        identity=identity,
        tier=tier,
        host=host,
        port=port,
        speed=speed,
        photos=photos,
        token=token,
        cache_dir=cache_dir,
        shaped=shaped,
        tc=tc,
        cpus=cpus,
        engine=engine,
    )
    from d3bed.agent.join import knock

    knock(settings.server, settings.token, settings.authority)  # who is refused need not wait for torch
    from d3bed.agent.agent import Agent
    from d3bed.net import new_event_loop

    async def run() -> None:
        await Agent(settings).run()

    with asyncio.Runner(loop_factory=lambda: new_event_loop(settings.shaped)) as runner:
        runner.run(until_signal(run()))


@app.command()
def plan(
    config: ConfigOption = Path("demo"),
    model: ModelOption = None,
    weights: WeightsOption = None,
    input: InputOption = None,
    encoded: EncodedOption = None,
    network: Annotated[
        str | None, typer.Option("--network", "-n", help="Network preset, a .toml file, or all: a grid.")
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            "--strategy",
            "-s",
            help="optimal, hpa, hpa-greedy, layers, neurosurgeon, dads, device, edge or cloud; "
            "all: side by side.",
        ),
    ] = None,
    objective: Annotated[
        str,
        typer.Option(help="latency: a frame's, at --rate if given. throughput: the most frames a second."),
    ] = "latency",
    problem: Annotated[Path | None, typer.Option(help="Solve a d3bed.problem/1 file instead.")] = None,
    save_problem: Annotated[Path | None, typer.Option(help="Write the problem that was solved.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    pin: Annotated[
        list[str] | None,
        typer.Option(help="Keep vertices on tiers: NAME=device, GLOB=edge,cloud or input..conv2=device."),
    ] = None,
    memory: Annotated[list[str] | None, typer.Option(help="Weights must fit: edge=512MB.")] = None,
    rate: Annotated[float | None, typer.Option(help="Frames a second that the plan must sustain.")] = None,
    as_published: Annotated[
        bool, typer.Option("--as-published", help="Rivals ship the float32 input of their papers.")
    ] = False,
    svg: Annotated[Path | None, typer.Option(help="Draw the graph by tier (or the sweep) here.")] = None,
    explain: Annotated[
        str | None, typer.Option(metavar="VERTEX", help="Why it is where it is, and what would move it.")
    ] = None,
    what_if: Annotated[
        str | None,
        typer.Option(metavar="CHANGE", help='"link edge-cloud=2Mbit", "tier edge=0.5x" (half as fast) …'),
    ] = None,
    sweep: Annotated[
        str | None, typer.Option(metavar="RANGE", help="Which plan wins where: edge-cloud=0.5..1000Mbit.")
    ] = None,
    tiles: Annotated[
        bool, typer.Option("--tiles", help="Compare the ways in which --edges agents may share layers.")
    ] = False,
    edges: EdgesOption = None,
    tiling: TilingOption = None,
    cache_dir: CacheOption = Path(".d3bed/cache"),
) -> None:
    """Print where each layer would run, tier by tier, and what it would cost.

    The model is profiled on this machine (once; then kept), the speeds come from the config file.

    The least latency of one frame: d3bed plan. At ten frames a second: --rate 10.

    The most frames a second, of one plan and of a mix: --objective throughput.

    Layers in tiles on several edge agents: --tiles --edges 4.
    """
    from d3bed.lab import plan_show, planning

    if tiles:
        others = (problem, save_problem, svg, explain, what_if, sweep, rate, pin, memory)
        if any(others) or as_published or objective != "latency" or "all" in (strategy, network) or encoded:
            raise ConfigError(
                "--tiles", "", "goes with a model, a network and a strategy", "leave others out"
            )
        _tiles(config, cache_dir, model, weights, input, network, strategy, edges, tiling, as_json)
        return
    for option, given in (("--edges", edges), ("--tiling", tiling)):
        if given is not None:
            raise ConfigError(option, str(given), "is about tiles", "add --tiles")
    request = planning.Request(
        default_config() if config == Path("demo") else config,
        cache_dir,
        problem,
        model=model,
        weights=weights,
        input=input,
        encoded_kb=encoded,
        network=network,
        strategy=strategy,
        objective=objective,
        pins=tuple(pin or ()),
        memory=tuple(memory or ()),
        rate_per_s=rate,
        published=as_published,
        explain=explain,
        what_if=what_if,
        sweep=sweep,
        save_problem=save_problem,
        svg=svg,
    )
    with _c_output_on_stderr():
        answers = planning.answer(request, say=_hint)
    if as_json:
        sys.stdout.write(json.dumps(planning.report(request, answers)) + "\n")
    else:
        console.print(plan_show.show(request, answers))


def _tiles(
    config: Path,
    cache_dir: Path,
    model: str | None,
    weights: str | None,
    input: str | None,
    network: str | None,
    strategy: str | None,
    edges: int | None,
    tiling: str | None,
    as_json: bool,
) -> None:
    """What `d3bed plan --tiles` prints."""
    from d3bed.lab.tiling import TileRequest, share, show

    path = default_config() if config == Path("demo") else config
    request = TileRequest(path, cache_dir, model, weights, input, network, strategy, edges, tiling)
    with _c_output_on_stderr():
        found = share(request, _hint, every=True)
    if as_json:
        sys.stdout.write(json.dumps(found.report()) + "\n")
    else:
        console.print(show(found))


def _hint(text: str) -> None:
    errors.print(text, style="dim", highlight=False)


@app.command("tiles")
def draw_tiles(
    svg: Annotated[Path, typer.Option(metavar="FILE", help="Where the drawing goes.")],
    config: ConfigOption = Path("demo"),
    model: ModelOption = None,
    weights: WeightsOption = None,
    input: InputOption = None,
    network: Annotated[str | None, typer.Option("--network", "-n", help="Network preset.")] = None,
    edges: EdgesOption = None,
    tiling: TilingOption = None,
    block: Annotated[int, typer.Option(help="Which block, as d3bed plan --tiles counts.", min=1)] = 1,
    photo: Annotated[Path | None, typer.Option(help="Your own; else one that is shipped.")] = None,
    cache_dir: CacheOption = Path(".d3bed/cache"),
) -> None:
    """Draw the tiles of a block, and what they read of one another, over a photo."""
    from d3bed.lab.tiles_svg import draw
    from d3bed.lab.tiling import TileRequest, share

    path = default_config() if config == Path("demo") else config
    request = TileRequest(path, cache_dir, model, weights, input, network, None, edges, tiling)
    with _c_output_on_stderr():
        found = share(request, _hint, every=False)
    console.print(draw(found, block, photo, svg), highlight=False)


# ── running ───────────────────────────────────────────────────────────────────────────────────────


def _begin(parent: int | None, verbose: bool, log_format: str) -> None:
    """What every long-running process does first."""
    if parent is not None:
        from d3bed.lab.processes import die_with_parent

        die_with_parent(parent)
    from d3bed.logs import start_logging

    start_logging(errors, log_format, verbose=verbose)


@contextlib.contextmanager
def _c_output_on_stderr() -> Iterator[None]:
    """The MILP solver's C code rarely writes a line to stdout, where JSON is expected."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def main() -> None:
    """Entry point: turns errors that a user can mend into one line and an exit code."""
    try:
        app()
    except ConfigError as error:
        _complain(error)
        sys.exit(ConfigError.EXIT_CODE)
    except D3Error as error:
        _complain(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _EXTRAS:
            raise
        extra = _EXTRAS[(error.name or "").split(".")[0]]
        errors.print(f"d3bed: this command needs the package {error.name} — pip install 'd3bed\\[{extra}]'")
        sys.exit(ConfigError.EXIT_CODE)


#: Which extra brings a package that a command may miss.
_EXTRAS = {
    "torch": "agent",
    "torchvision": "agent",
    "timm": "agent",
    "PIL": "agent",
    "safetensors": "agent",
    "aiohttp": "server",
    "jinja2": "server",
    "scipy": "server",
    "zeroconf": "discovery",
    "websockets": "agent",
    "distributed": "compare",
    "sklearn": "compare",
    "numpy": "agent",
    "psutil": "agent",
    "pytest": "dev",
    "cryptography": "tls",
}


def _complain(error: Exception) -> None:
    errors.print("d3bed:", str(error), style="bold red", markup=False, highlight=False, soft_wrap=True)
