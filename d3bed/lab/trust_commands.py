"""The commands about who is let in: `join` on a board, `agents` and `audit` for who runs the server."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.console import Console

from d3bed.core.errors import ConfigError
from d3bed.core.ids import Tier
from d3bed.lab.commands import LOCAL, ServerOption, TokenOption

__all__ = ["IDENTITY", "IdentityOption", "agents", "trust"]

trust = typer.Typer()
agents = typer.Typer(no_args_is_help=True, help="Who may come as which agent: invite, list, rotate, revoke.")
console = Console()

IDENTITY = Path(".d3bed/identity.json")
IdentityOption = Annotated[
    Path, typer.Option(envvar="D3BED_IDENTITY", help="The board's own file, made by d3bed join.")
]
#: How long a board looks for its server.
_LOOK_S = 3.0
_NameArgument = Annotated[str, typer.Argument(metavar="AGENT", help="Which agent.")]


@trust.command()
def join(
    server: Annotated[
        str | None,
        typer.Argument(help="The server's address, as http://192.168.0.2:8333; with --ca it may be found."),
    ] = None,
    *,
    token: Annotated[
        str, typer.Option(envvar="D3BED_TOKEN", help="Join token: d3bed agents invite makes one.")
    ],
    name: Annotated[
        str | None, typer.Option(help="Be called so; else as the token says, or as this host.")
    ] = None,
    tier: Annotated[
        str | None, typer.Option(help="device, edge or cloud, where the server's config does not say.")
    ] = None,
    ca: Annotated[
        str | None, typer.Option(help="Fingerprint of the server's authority, where it speaks TLS.")
    ] = None,
    identity: IdentityOption = IDENTITY,
) -> None:
    """Make this board an agent of a server: a join token becomes a credential of its own.

    The credential is kept in the identity file (mode 0600), bound to this machine: a copy of it on another
    one is refused. Then start the agent: d3bed agent.
    """
    from d3bed.agent.join import join as ask

    if server is None:
        server = _found_by(ca)
    if not server.startswith(("http://", "https://")):
        raise ConfigError("SERVER", "", f"{server!r} is not an address", "write it as http://host:port")
    if tier is not None and tier not in set(Tier):
        raise ConfigError("--tier", "", f"no tier named {tier!r}", "use device, edge or cloud")
    wanted = None if tier is None else Tier(tier)
    made, told = ask(server, token, identity, name=name, tier=wanted, pin=ca)
    if told:
        console.print(told, style="yellow", highlight=False, soft_wrap=True)
    where = "" if identity == IDENTITY else f" --identity {identity}"
    text = (
        f"joined as {made.agent} ({made.tier}); its credential is in {identity}. Start it: d3bed agent{where}"
    )
    console.print(text, highlight=False, soft_wrap=True)


@trust.command()
def discover(
    lasting: Annotated[float, typer.Option("--for", help="Seconds to listen.", min=0.1, max=60)] = 3.0,
    host: Annotated[str, typer.Option(help="Only on the network of this own address.")] = "0.0.0.0",
) -> None:
    """Show servers on this network that were started with --announce, and how to join them.

    Anybody can announce anything: join one whose fingerprint you know (d3bed ca on the server shows it).
    """
    from d3bed.net.discovery import look

    found = asyncio.run(look(lasting, host))
    if not found:
        text = "no server announces itself here: start it with --announce, or give d3bed join its address"
        console.print(text, highlight=False, soft_wrap=True)
        raise typer.Exit(1)
    for one in found:
        text = f"{one.name}: {', '.join(one.addresses)}, d3bed {one.version}"
        console.print(text, highlight=False, soft_wrap=True)
        known_by = f"--ca {one.pin}" if one.pin else one.addresses[0]
        text = f"  d3bed join {known_by} --token …"
        console.print(text, style="bold", highlight=False, soft_wrap=True)


def _found_by(pin: str | None) -> str:
    """The address of the server of this authority that announces itself here. Raises `ConfigError`."""
    from d3bed.net.discovery import look

    if pin is None:
        remedy = "give the address; or --ca FINGERPRINT, by which a server on this network is found"
        raise ConfigError("SERVER", "", "is missing", remedy)
    wanted = pin.lower().replace(":", "").removeprefix("sha256")
    found = asyncio.run(look(_LOOK_S))
    addresses = [address for one in found if one.pin == wanted for address in one.addresses]
    for address in addresses:
        if _answers(address):
            console.print(f"found {address}", style="dim", highlight=False)
            return address
    problem = (
        "announces itself here, but does not answer" if addresses else "announces itself on this network"
    )
    problem = (
        f"a server of this authority {problem}" if addresses else f"no server of this authority {problem}"
    )
    raise ConfigError("--ca", "", problem, "give its address; or start it with --announce")


def _answers(address: str) -> bool:
    place = urlsplit(address)
    try:
        with socket.create_connection((place.hostname or "", place.port or 0), timeout=2):
            return True
    except OSError:
        return False


@agents.command()
def invite(
    name: Annotated[
        str | None, typer.Argument(metavar="[AGENT]", help="Only for a board of this name.")
    ] = None,
    uses: Annotated[int, typer.Option(help="So many boards may join by it; 0: any number.", min=0)] = 1,
    lasting: Annotated[
        str, typer.Option("--for", metavar="TIME", help="30m, 24h …; 'ever': until revoked.")
    ] = "1h",
    server: ServerOption = LOCAL,
    token: TokenOption = None,
) -> None:
    """Make a join token, and print the line to run on the board. It is told this once."""
    from d3bed.lab.units import seconds

    body: dict[str, Any] = {"agent": name, "uses": uses or None}
    body["for_s"] = None if lasting == "ever" else seconds(lasting, "--for")
    made = _post(server, "invitations", body, token)
    left = "until it is revoked" if made["expires_s"] is None else f"for {lasting}"
    pin = made["command"].partition(" --ca ")[2]
    known_by = f" --ca {pin}" if pin else ""
    named = f" --name {name}" if name else ""
    console.print(f"join token {made['id']}, good {left}.", highlight=False)
    text = (
        "On a bare board, from a checkout there (on others than a Pi: edge-box/, cloud-vm/install-agent.sh):"
    )
    console.print(text, highlight=False, soft_wrap=True)
    line = f"sudo D3BED_TOKEN={made['token']} devices/raspberry-pi/install.sh --server {server.rstrip('/')}"
    console.print(line + known_by + named, style="bold", highlight=False, soft_wrap=True)
    console.print("Where d3bed[agent] is installed:", markup=False, highlight=False)
    line = f"d3bed join {server.rstrip('/')} --token {made['token']}{known_by}"
    console.print(line, style="bold", highlight=False, soft_wrap=True)


@trust.command()
def ca(
    data_dir: Annotated[Path, typer.Option(help="The server's data folder.")] = Path(".d3bed"),
) -> None:
    """Show the server's own certificate authority, and make it if there is none yet.

    Boards trust it for the fingerprint on their join line, browsers and commands for its file.
    """
    from d3bed.server.authority import Authority

    made = Authority(data_dir / "tls")
    console.print(f"fingerprint  {made.fingerprint}", highlight=False, soft_wrap=True)
    console.print(f"file         {made.certificate_file}", highlight=False, soft_wrap=True)
    console.print(
        f"commands: export D3BED_CA={made.certificate_file.absolute()}; browsers: import the file",
        highlight=False,
        soft_wrap=True,
    )


@agents.command("list")
def list_agents(server: ServerOption = LOCAL, token: TokenOption = None) -> None:
    """Show the agents that joined, and join tokens that are still good."""
    from rich.table import Table

    table = Table("agent", "tier", "credential", "state", "joined", "from", "by", "last came")
    for row in _get(server, "credentials", token):
        cells = row["agent"], row["tier"], row["id"], row["state"], _when(row["made_s"]), row["host"]
        table.add_row(*cells, row["by"], _when(row["used_s"]))
    console.print(table)
    tokens = Table("join token", "for", "uses left", "until", "by")
    for row in _get(server, "invitations", token):
        uses = "any" if row["uses"] is None else str(row["uses"])
        until = "revoked" if row["expires_s"] is None else _when(row["expires_s"])
        tokens.add_row(row["id"], row["agent"] or "any", uses, until, row["by"])
    if tokens.row_count:
        console.print(tokens)


@agents.command()
def revoke(name: _NameArgument, server: ServerOption = LOCAL, token: TokenOption = None) -> None:
    """Cut an agent off at once: its connections are closed, its credential is good no more.

    An open join token is revoked by its id.
    """
    if any(row["id"] == name for row in _get(server, "invitations", token)):
        _say(_post(server, f"invitations/{name}/revoke", {}, token))
    else:
        _say(_post(server, f"credentials/{name}/revoke", {}, token))


@agents.command()
def rotate(name: _NameArgument, server: ServerOption = LOCAL, token: TokenOption = None) -> None:
    """Give a connected agent another credential; the old one ends when it has kept the new one."""
    _say(_post(server, f"credentials/{name}/rotate", {}, token))


@trust.command()
def audit(
    data_dir: Annotated[
        Path | None, typer.Option(help="Read a server's data folder instead of asking it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    server: ServerOption = LOCAL,
    token: TokenOption = None,
) -> None:
    """Print the audit log: who changed what and when, and who was refused, newest last."""
    import json
    import sys

    from rich.text import Text

    if data_dir is not None:
        from d3bed.server.audit import AUDIT
        from d3bed.server.store import read_rows

        rows = read_rows(data_dir / "d3bed.sqlite3", AUDIT, 1_000_000)
    else:
        rows = _get(server, "audit", token)
    rows.reverse()
    if as_json:
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
        return
    for row in rows:
        refused = row["status"] >= 400
        line = Text(f"{_when(row['at_s'])}  {row['who']} ({row['host']})  {row['what']}")
        line.append(f"  {row['detail']}" if row["detail"] else "")
        line.append(f"  {row['status']}" if refused else "", style="red")
        console.print(line, highlight=False, soft_wrap=True)


@trust.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print all that was found out, as JSON.")] = False,
    server: ServerOption = LOCAL,
    token: TokenOption = None,
) -> None:
    """Examine a running testbed: every agent, and every link that a plan may use, both ways.

    Connection, firewall, packet size, rate and round trip of links; version, clock, model and time of agents.
    What is wrong is named with the thing to change. Exit code 1 if something does not work.

    Links are measured: for half a second each they are busy.
    """
    import json
    import sys

    from rich.text import Text

    from d3bed.lab import client

    found = asyncio.run(client.post(server, "/api/doctor", {}, token, timeout_s=600.0))
    if as_json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
    else:
        for finding in found["findings"]:
            mark, style = _MARKS[finding["level"]]
            line = Text(f"{mark} ", style=style)
            line.append(finding["subject"], style="bold").append(f"  {finding['text']}", style="default")
            console.print(line, highlight=False, soft_wrap=True)
            if finding["remedy"]:
                console.print(Text(f"    → {finding['remedy']}", style=style), soft_wrap=True)
    raise typer.Exit(any(finding["level"] == "error" for finding in found["findings"]))


_MARKS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "error": ("✗", "red")}


def _when(at_s: float | None) -> str:
    return "–" if at_s is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_s))


def _say(answer: Any) -> None:
    console.print(answer["message"], highlight=False, soft_wrap=True)


def _get(server: str, path: str, token: str | None) -> Any:
    from d3bed.lab import client

    return asyncio.run(client.get(server, f"/api/{path}", token))


def _post(server: str, path: str, body: dict[str, Any], token: str | None) -> Any:
    from d3bed.lab import client

    return asyncio.run(client.post(server, f"/api/{path}", body, token))
