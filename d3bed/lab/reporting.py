"""The commands that tell what happened: options into calls of `report`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from d3bed.core.errors import ConfigError

__all__ = ["reporting"]

reporting = typer.Typer()
console = Console()

RunArgument = Annotated[str | None, typer.Argument(metavar="[RUN]", help="Which run; default: the latest.")]
ServerOption = Annotated[str, typer.Option(envvar="D3BED_SERVER", help="Address of the server.")]
DataOption = Annotated[
    Path | None, typer.Option("--data-dir", help="Read a server's data folder instead; it need not run.")
]
TokenOption = Annotated[
    str | None, typer.Option(envvar="D3BED_TOKEN", help="Token of a server that is not local.")
]


@reporting.command()
def report(
    run: RunArgument = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="A page with plots, in itself.")] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Everything: d3bed.history/1.")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="A line per frame.")] = None,
    server: ServerOption = "http://127.0.0.1:8333",
    data_dir: DataOption = None,
    token: TokenOption = None,
) -> None:
    """Tell a run: latency, tiers, links, predictions, decisions, exactness, what was emulated."""
    from d3bed.lab.report import fetch, stored, write

    if not any((html, json, csv)):
        raise ConfigError("report", "", "nothing to write", "give --html, --json or --csv")

    history = asyncio.run(fetch(server, run, token)) if data_dir is None else stored(data_dir, run)
    write(history, html, json, csv)
    frames = history.run.frames
    told = f"run {history.run.id}: {frames.answered} of {frames.sent} frames answered, {frames.lost} lost"
    console.print(told, highlight=False)


@reporting.command()
def trace(
    run: RunArgument = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Compressed where its name ends in .gz.")
    ] = Path("trace.json"),
    server: ServerOption = "http://127.0.0.1:8333",
    data_dir: DataOption = None,
    token: TokenOption = None,
) -> None:
    """Write the latest frames of a run as a trace across agents, for ui.perfetto.dev or chrome://tracing."""
    from d3bed.lab.report import fetch_spans, put, stored_spans
    from d3bed.server.trace import trace as make

    name, frames = (
        asyncio.run(fetch_spans(server, run, token)) if data_dir is None else stored_spans(data_dir, run)
    )
    put(output, msgspec.json.encode(make(name, frames)))
    console.print(f"run {name}: {len(frames)} frames in {output}", highlight=False)
