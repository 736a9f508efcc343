"""The commands that keep what a server knows: options into calls of `server.backup`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

__all__ = ["keeping"]

keeping = typer.Typer()
console = Console()

DataOption = Annotated[Path, typer.Option("--data-dir", help="The server's data folder.")]
_DATA = Path(".d3bed")


@keeping.command()
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where it goes, as d3bed.tar.gz.")],
    data_dir: DataOption = _DATA,
) -> None:
    """Write all that a server keeps to one file; it may go on meanwhile.

    Runs, decisions and measurements, and who is let in: keep the file as safe as the server.
    """
    from d3bed.server.backup import back_up

    made = back_up(data_dir, file)
    size = file.stat().st_size * 1e-6
    console.print(
        f"{file}: {', '.join(made.files)}; {size:.1f} MB, readable by you alone",
        highlight=False,
        soft_wrap=True,
    )


@keeping.command()
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What d3bed backup wrote.")],
    data_dir: DataOption = _DATA,
    force: Annotated[
        bool, typer.Option("--force", help="Even where there is a database; it is kept beside it.")
    ] = False,
) -> None:
    """Put a backup in place of what a server keeps, while that is stopped. Boards need not join again."""
    from datetime import datetime

    from d3bed.server.backup import restore as put_back

    found = put_back(file, data_dir, force=force)
    made = datetime.fromtimestamp(found.made_s).isoformat(" ", "seconds")
    console.print(
        f"{data_dir}: as it was at {made}, under d3bed {found.version}. Start the server: d3bed server",
        highlight=False,
        soft_wrap=True,
    )
