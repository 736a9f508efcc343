"""The commands that tell what happened: options into calls of `report`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

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

    async def tell() -> str:
        if data_dir is not None:
            history = await asyncio.to_thread(stored, data_dir, run)
        else:
            history = await fetch(server, run, token)
        await write(history, html, json, csv)
        frames = history.run.frames
        return f"run {history.run.id}: {frames.answered} of {frames.sent} frames answered, {frames.lost} lost"

    console.print(asyncio.run(tell()), highlight=False)
