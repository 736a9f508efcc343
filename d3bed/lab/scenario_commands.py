"""The `d3bed scenario` commands: options into calls; each imports what it needs itself."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from d3bed.core.errors import ConfigError
from d3bed.lab.commands import LOCAL, ServerOption, TokenOption
from d3bed.lab.signals import until_signal

if TYPE_CHECKING:
    from rich.table import Table

    from d3bed.lab.player import Played

__all__ = ["scenario"]

scenario = typer.Typer(
    no_args_is_help=True, help="Changes on a timeline: play them, compare strategies, record."
)
console = Console()
errors = Console(stderr=True)


@scenario.command("list")
def list_scenarios() -> None:
    """The scenarios that are shipped."""
    from rich.table import Table

    from d3bed.lab.scenario import read_scenario, shipped_scenarios

    table = Table("name", "lasts", "events", "what happens")
    for path in shipped_scenarios():
        found = read_scenario(path)
        table.add_row(found.name, f"{found.duration_s:g} s", str(len(found.events)), found.description)
    console.print(table)


@scenario.command("play")
def play_scenario(
    file: Annotated[str, typer.Argument(help="A .toml file, or the name of a shipped one.")],
    strategies: Annotated[
        str | None, typer.Option("--strategies", "-s", help="Play it once for each, comma-separated.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="The testbed; default: what the scenario names.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Another network.")] = None,
    fixed: Annotated[
        bool, typer.Option("--fixed", help="Keep each first plan, to see what adapting gains.")
    ] = False,
    server: Annotated[
        str | None,
        typer.Option(envvar="D3BED_SERVER", help="Play on this running testbed; default: start one."),
    ] = None,
    token: TokenOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Play a scenario, and print what happens and what became of the frames.

    Without --server each strategy gets a testbed of its own, so that all meet the same conditions.
    """
    from d3bed.config import check_model
    from d3bed.lab.player import FORMAT
    from d3bed.lab.scenario import find_scenario, read_scenario

    found = read_scenario(find_scenario(file))
    told = errors if as_json else console

    def say(text: str) -> None:
        told.print(text, highlight=False, soft_wrap=True, markup=False)

    wanted = [name.strip() for name in strategies.split(",")] if strategies else []
    say(f"{found.name}: {found.description} ({found.duration_s:g} s)")
    if model is not None:
        check_model(model, "--model", "")
    options = (["--model", model] if model is not None else []) + (["--fixed"] if fixed else [])
    if server is None:
        played = asyncio.run(_on_own_testbed(found, config, options, wanted, say))
    elif config is not None or options:
        raise ConfigError("--server", "", "has its own configuration", "leave the testbed's options out")
    else:
        played = asyncio.run(_on_server(found, server, token, wanted, say))
    if as_json:
        rows = [{name: getattr(row, name) for name in row.__struct_fields__} for row in played]
        sys.stdout.write(json.dumps({"format": FORMAT, "scenario": found.name, "played": rows}) + "\n")
    else:
        console.print(_table(found.name, played))


async def _on_own_testbed(
    found: Any, config: Path | None, options: list[str], wanted: list[str], say: Any
) -> list[Played]:
    from d3bed.config import check_strategy, read_config
    from d3bed.lab.player import compare

    for name in wanted:
        check_strategy(name, "--strategies", "")
    settings = read_config(config or found.testbed)
    return await compare(found, settings, options, wanted or [settings.pipelines[0].strategy], say)


async def _on_server(found: Any, server: str, token: str | None, wanted: list[str], say: Any) -> list[Played]:
    from d3bed.lab.player import Stage, play

    stage = Stage(server.rstrip("/"), token)
    names: list[str | None] = [*wanted] or [None]
    return [row for name in names for row in await play(found, stage, say, name)]


@scenario.command("record")
def record_scenario(
    output: Annotated[Path, typer.Option("--output", "-o", help="The .toml file to write.")],
    server: ServerOption = LOCAL,
) -> None:
    """Follow a running testbed until Ctrl-C, then write what was changed meanwhile as a scenario."""
    from d3bed.lab.recorder import Recorder

    if not output.resolve().parent.is_dir():
        raise ConfigError("--output", str(output), "no such folder", "make it first")
    recorders: list[Recorder] = []
    asyncio.run(until_signal(_record(server, recorders)))
    if not recorders:
        raise ConfigError(server, "", "nothing was heard of it", "check --server")
    found = recorders[0].scenario(output.stem)
    try:
        output.write_text(found.to_toml(), encoding="utf-8")
    except OSError as error:
        raise ConfigError("--output", str(output), str(error.strerror), "choose another file") from error
    console.print(f"{output}: {len(found.events)} events in {found.duration_s:g} s", highlight=False)


async def _record(server: str, recorders: list[Any]) -> None:
    """Ends with the server, or when it is cancelled."""
    from websockets.exceptions import ConnectionClosed

    from d3bed.lab import client
    from d3bed.lab.follow import follow_messages
    from d3bed.lab.recorder import Recorder
    from d3bed.lab.scenario import in_words

    await client.get(server, "/api/agents")  # says it well where nobody answers
    try:
        async for state, message in follow_messages(server.rstrip("/")):
            if not recorders:
                recorders.append(Recorder(state.data, message["now"]))
                errors.print("recording; Ctrl-C ends it", style="dim")
            told = len(recorders[0].events)
            for event in message.get("events", ()):
                recorders[0].saw(event)
            recorders[0].tick(message["now"])
            for event in recorders[0].events[told:]:
                errors.print(f"{event.at_s:7.2f} s  {in_words([event])}", highlight=False, markup=False)
    except ConnectionClosed:
        errors.print("the server is gone", style="dim")


def _table(name: str, played: list[Played]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    columns = "strategy frames mean median p95 switches lost dropped re-run inexact cloud-MB".split()
    several = len({row.pipeline for row in played}) > 1
    if several:
        columns.insert(0, "pipeline")
    table = Table(title=f"{name} (latencies in ms)", box=SIMPLE_HEAD, padding=0, pad_edge=False)
    for column in columns:
        table.add_column(
            column, justify="left" if column in ("pipeline", "strategy") else "right", no_wrap=True
        )
    for row in played:
        times = ("–" if s is None else f"{s * 1e3:.0f}" for s in (row.mean_s, row.median_s, row.p95_s))
        counts = (row.switches, row.lost, row.dropped, row.rerun, row.inexact)
        crossed = f"{row.backbone_bytes / 1e6:.1f}"
        named = [row.pipeline, row.strategy] if several else [row.strategy]
        table.add_row(*named, str(row.frames), *times, *map(str, counts), crossed)
    return table
