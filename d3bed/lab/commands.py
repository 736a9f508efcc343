"""The commands that steer a running testbed: options into requests to the server's JSON API."""

from __future__ import annotations

import asyncio
import getpass
import socket
from typing import Annotated, Any

import typer
from rich.console import Console

from d3bed.core.errors import ConfigError

__all__ = ["LOCAL", "ServerOption", "TokenOption", "steer"]

steer = typer.Typer()
console = Console()

ServerOption = Annotated[str, typer.Option(envvar="D3BED_SERVER", help="Address of the server.")]
TokenOption = Annotated[
    str | None, typer.Option(envvar="D3BED_TOKEN", help="Token of a server that is not local.")
]
PipelineArgument = Annotated[str, typer.Argument(help="Which pipeline.")]
AgentArgument = Annotated[str, typer.Argument(metavar="AGENT", help="Which agent.")]
ForOption = Annotated[
    str | None,
    typer.Option("--for", metavar="TIME", help="Undone after so long: 30s, 2m. Else: until undone."),
]
LOCAL = "http://127.0.0.1:8333"
_MOST_LOST_PERCENT = 50


@steer.command()
def strategy(
    name: Annotated[str, typer.Argument(help="The strategy to plan with from now on.")],
    tiling: Annotated[
        str | None,
        typer.Option("--tiling", help="How edge agents share layers: vsm, aofl, deepthings, modnn or none."),
    ] = None,
    pipeline: Annotated[str, typer.Option(help="Which pipeline.")] = "main",
    server: ServerOption = LOCAL,
    token: TokenOption = None,
) -> None:
    """Switch a running pipeline to another strategy while frames flow."""
    _post(server, f"pipelines/{pipeline}/strategy", {"strategy": name, "tiling": tiling, "by": _who()}, token)


@steer.command()
def frames(
    rate: Annotated[
        float | None, typer.Option("--rate", "-r", help="Frames a second; 0 pauses.", min=0, max=1000)
    ] = None,
    free: Annotated[bool, typer.Option("--free", help="One frame as soon as another is answered.")] = False,
    pipeline: Annotated[str, typer.Option(help="Which pipeline.")] = "main",
    server: ServerOption = LOCAL,
    token: TokenOption = None,
) -> None:
    """Change how many frames a second a running pipeline's camera takes, and watch the plan follow."""
    if free == (rate is not None):
        raise ConfigError("--rate", "", "give either a rate or --free", "as in: d3bed frames --rate 15")
    _post(server, f"pipelines/{pipeline}/rate", {"rate_per_s": rate, "by": _who()}, token)


@steer.command()
def link(
    source: Annotated[str, typer.Argument(help="Agent at the sending end.")],
    target: Annotated[str, typer.Argument(help="Agent at the receiving end.")],
    rate: Annotated[str | None, typer.Option(metavar="RATE", help="10Mbit, 500kbit …")] = None,
    delay: Annotated[str | None, typer.Option(metavar="TIME", help="One-way latency: 20ms.")] = None,
    loss: Annotated[
        str | None, typer.Option(metavar="SHARE", help="Of segments, as a TCP stream feels it: 1%.")
    ] = None,
    both: Annotated[bool, typer.Option("--both", help="The other direction too.")] = False,
    lasting: ForOption = None,
    reset: Annotated[bool, typer.Option("--reset", help="As configured again.")] = False,
    server: ServerOption = LOCAL,
    token: TokenOption = None,
) -> None:
    """Change an emulated link while frames flow, and watch the plan follow.

    What is not given stays as it is.
    """
    from d3bed.lab.units import bytes_per_s, duration, seconds, share

    body: dict[str, Any] = {"by": _who()}
    if rate is not None:
        body["mbit_per_s"] = bytes_per_s(rate, "--rate") * 8e-6
    if delay is not None:
        body["latency_ms"] = seconds(delay, "--delay") * 1e3
    if loss is not None:
        body["loss_percent"] = share(loss, "--loss") * 100
        if body["loss_percent"] > _MOST_LOST_PERCENT:
            raise ConfigError("--loss", loss, "is more than links lose", f"at most {_MOST_LOST_PERCENT}%")
    if reset == (len(body) > 1):
        raise ConfigError(
            "link", "", "what shall change?", "give --rate, --delay or --loss, or --reset alone"
        )
    if lasting is not None and not reset:
        body["for_s"] = duration(lasting, "--for")
    for ends in [(source, target)] + ([(target, source)] if both else []):
        _post(server, "links/reset" if reset else "links", body | {"from": ends[0], "to": ends[1]}, token)


@steer.command()
def load(
    name: AgentArgument,
    cpu: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Busy processes on its board; emulated where its speed is.", min=0, max=64
        ),
    ] = None,
    lasting: ForOption = None,
    off: Annotated[bool, typer.Option("--off", help="End the load.")] = False,
    server: ServerOption = LOCAL,
    token: TokenOption = None,
) -> None:
    """Put other work on an agent's board while frames flow."""
    from d3bed.lab.units import duration

    if off == (cpu is not None):
        raise ConfigError("load", "", "how much load?", "give --cpu 2, or --off")
    body: dict[str, Any] = {"processes": cpu or 0, "by": _who()}
    if lasting is not None:
        body["for_s"] = duration(lasting, "--for")
    _post(server, f"agents/{name}/load", body, token)


@steer.command()
def speed(
    name: AgentArgument,
    value: Annotated[
        float | None,
        typer.Argument(metavar="SPEED", help="0.2 is five times slower than its machine."),
    ] = None,
    lasting: ForOption = None,
    reset: Annotated[bool, typer.Option("--reset", help="As configured again.")] = False,
    server: ServerOption = LOCAL,
    token: TokenOption = None,
) -> None:
    """Have an agent emulate another board's speed."""
    from d3bed.lab.units import duration

    if reset == (value is not None):
        raise ConfigError("speed", "", "which speed?", "give one, as 0.2, or --reset")
    body: dict[str, Any] = {"speed": value, "by": _who()}
    if lasting is not None:
        body["for_s"] = duration(lasting, "--for")
    _post(server, f"agents/{name}/speed", body, token)


@steer.command()
def networks() -> None:
    """List the network presets."""
    from rich.table import Table

    from d3bed.config import networks as presets

    table = Table("name", "what it is")
    for name, text in presets().items():
        table.add_row(name, text)
    console.print(table)


@steer.command()
def test(
    arguments: Annotated[list[str] | None, typer.Argument(help="Passed to pytest.")] = None,
) -> None:
    """Run every check: formatting, types, and all tests (browser included)."""
    from d3bed.lab.checks import run_checks

    raise typer.Exit(run_checks(arguments or [], Console(stderr=True)))


@steer.command()
def stop(name: AgentArgument, server: ServerOption = LOCAL, token: TokenOption = None) -> None:
    """End an agent's process in an orderly way."""
    _post(server, f"agents/{name}/stop", {"by": _who()}, token)


@steer.command()
def kill(name: AgentArgument, server: ServerOption = LOCAL, token: TokenOption = None) -> None:
    """Have an agent's process end at once, without a goodbye, and watch what follows."""
    _post(server, f"agents/{name}/kill", {"by": _who()}, token)


@steer.command()
def pause(
    pipeline: PipelineArgument = "main", server: ServerOption = LOCAL, token: TokenOption = None
) -> None:
    """End a pipeline's run: no new frames; those under way are answered."""
    _post(server, f"pipelines/{pipeline}/stop", {"by": _who()}, token)


@steer.command()
def resume(
    pipeline: PipelineArgument = "main", server: ServerOption = LOCAL, token: TokenOption = None
) -> None:
    """Start frames again, as a new run."""
    _post(server, f"pipelines/{pipeline}/start", {"by": _who()}, token)


def _post(server: str, path: str, body: dict[str, Any], token: str | None) -> None:
    from d3bed.lab.client import post

    answer = asyncio.run(post(server, f"/api/{path}", body, token))
    console.print(answer["message"], highlight=False, soft_wrap=True)


def _who() -> str:
    """Whom others are told that a change is from."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a uid without a name
        user = "someone"
    return f"{user}@{socket.gethostname()}"[:60]
