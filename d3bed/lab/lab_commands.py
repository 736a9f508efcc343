"""The `d3bed lab` commands: options into calls; each imports what it needs itself."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from d3bed.core.errors import ConfigError

if TYPE_CHECKING:
    from d3bed.lab.boards import LabState

__all__ = ["lab"]

lab = typer.Typer(
    no_args_is_help=True,
    help="Boards on one machine: network namespaces, tc, CPU control groups (Linux, as root).",
)
console = Console()
errors = Console(stderr=True)

NameOption = Annotated[
    str, typer.Option("--name", help="The lab's; two labs at once need two.", envvar="D3BED_LAB")
]
BoardArgument = Annotated[str, typer.Argument(metavar="BOARD", help="Which board: an agent's name.")]
_NAME = "d3bed"


@lab.command()
def up(
    config: Annotated[Path | None, typer.Argument(help="TOML file; default: configs/boards.toml.")] = None,
    name: NameOption = _NAME,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Another network.")] = None,
    network: Annotated[
        str | None, typer.Option("--network", "-n", help="Network preset or a .toml file.")
    ] = None,
    strategy: Annotated[str | None, typer.Option("--strategy", "-s", help="How plans are made.")] = None,
    rate: Annotated[float | None, typer.Option("--rate", "-r", help="Frames a second.")] = None,
    idle: Annotated[bool, typer.Option("--idle", help="Start no frames until asked to.")] = False,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return once it is up; end it with d3bed lab down.")
    ] = False,
) -> None:
    """Start a server and all agents of a config file, each on a board of its own.

    A board is a network namespace with a cable to a switch, and a CPU control group that has `speed` of a
    core. The kernel holds the links to the rates of the config's network. A process that fails is started
    again.

    All of it goes away with Ctrl-C, a crash, or d3bed lab down.
    """
    from d3bed.config import data_dir, override, read_config
    from d3bed.lab.boards import run_lab

    if detach:
        _detach(name)
        return
    path = config or data_dir("configs") / "boards.toml"
    settings = override(
        read_config(path), model=model, network=network, strategy=strategy, rate_per_s=rate, idle=idle
    )
    given = {"--model": model, "--network": network, "--strategy": strategy, "--rate": rate}
    overrides = [word for key, value in given.items() if value is not None for word in (key, str(value))]
    raise typer.Exit(asyncio.run(run_lab(name, settings, overrides, console)))


def _detach(name: str) -> None:
    """The same command again, on its own; what it says goes to the terminal until it is up."""
    from d3bed.lab.boards import RUN

    arguments = [word for word in sys.argv[1:] if word not in ("--detach", "-d")]
    mark = RUN / name / "up"
    process = subprocess.Popen(
        [sys.executable, "-m", "d3bed", *arguments],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None and not mark.exists():
        time.sleep(0.05)
    if process.poll() is not None:
        raise typer.Exit(process.returncode or 1)


@lab.command()
def down(
    name: NameOption = _NAME,
    after_me: Annotated[bool, typer.Option("--after-me", hidden=True, help="Once stdin is closed.")] = False,
) -> None:
    """End a lab, running or crashed, and remove all that is left of it."""
    from d3bed.lab.boards import lower, take_care

    if after_me:
        take_care(name, sys.stdin.buffer.read)
        return
    for what in lower(name):
        console.print(f"left over, removed: {what}", highlight=False)
    console.print(f"lab {name} is down", highlight=False)


@lab.command("list")
def list_labs() -> None:
    """The labs on this machine."""
    from rich.table import Table

    from d3bed.lab.boards import labs

    table = Table("lab", "state", "address", "boards")
    for found in labs():
        state = "up" if found.lives else "crashed: d3bed lab down"
        table.add_row(found.lab, state, found.url, ", ".join(found.boards))
    console.print(table)


@lab.command()
def env(name: NameOption = _NAME) -> None:
    """Print what other commands need to reach a lab: eval "$(d3bed lab env)"."""
    state = _state(name)
    sys.stdout.write(f"export D3BED_SERVER={state.url} D3BED_TOKEN={state.token} D3BED_LAB={name}\n")


@lab.command()
def cut(
    board: BoardArgument,
    lasting: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="Plugged in again after so long: 10s.")
    ] = None,
    name: NameOption = _NAME,
) -> None:
    """Pull a board's cable out of the switch: nothing reaches it, nothing leaves it."""
    from d3bed.lab.network import Network, check_root
    from d3bed.lab.units import seconds

    check_root()
    for_s = None if lasting is None else seconds(lasting, "--for")
    network = Network(name)
    network.plug(board, in_=False)
    console.print(f"{board} is cut off", highlight=False)
    if for_s is not None:
        try:
            time.sleep(for_s)
        finally:
            network.plug(board, in_=True)
        console.print(f"{board} is plugged in again", highlight=False)


@lab.command()
def mend(board: BoardArgument, name: NameOption = _NAME) -> None:
    """Plug a board's cable in again."""
    from d3bed.lab.network import Network, check_root

    check_root()
    Network(name).plug(board, in_=True)
    console.print(f"{board} is plugged in", highlight=False)


@lab.command("exec")
def execute(
    board: BoardArgument,
    command: Annotated[list[str], typer.Argument(help="What to run there, as root: ping, tc, ss …")],
    name: NameOption = _NAME,
) -> None:
    """Run a command in a board's network."""
    from d3bed.lab.network import Network, check_root, into

    check_root()
    network = Network(name)
    namespace = network.namespace(board)
    if namespace not in network.namespaces():
        raise ConfigError("lab", board, "no such board", f"known: {', '.join(_state(name).boards)}")
    raise typer.Exit(subprocess.run([*into(namespace), *command], check=False).returncode)


def _state(name: str) -> LabState:
    from d3bed.lab.boards import read_state

    state = read_state(name)
    if state is None or not state.lives:
        raise ConfigError("--name", name, "no such lab runs", "start one with: d3bed lab up")
    return state
