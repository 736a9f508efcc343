"""A server that announces itself is found on its network, and joined by its fingerprint alone."""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import sys
from pathlib import Path

import pytest
from zeroconf.asyncio import AsyncServiceInfo

from d3bed.core.errors import ConfigError
from d3bed.lab.trust_commands import _found_by
from d3bed.net import discovery
from d3bed.net.discovery import SERVICE, Found, _found
from d3bed.server.authority import Authority

PIN = "ab" * 32


def info(**given: object) -> AsyncServiceInfo:
    told = {
        "type_": SERVICE,
        "name": f"vm-8333.{SERVICE}",
        "port": 8333,
        "parsed_addresses": ["192.0.2.7", "fe80::1"],
        "properties": {"pin": PIN, "version": "0.1.0"},
        "server": "vm.local.",
    }
    return AsyncServiceInfo(**(told | given))  # type: ignore[arg-type]


def test_what_is_heard_becomes_addresses() -> None:
    addresses = ("https://192.0.2.7:8333", "https://[fe80::1]:8333")
    assert _found(info()) == Found("vm-8333", addresses, PIN, "0.1.0")
    plain = _found(info(properties={"version": "0.1.0"}))
    assert plain is not None and plain.addresses[0] == "http://192.0.2.7:8333"


@pytest.mark.parametrize(
    "given",
    [
        {"properties": {"pin": "ab", "version": "0.1.0"}},
        {"properties": {"pin": PIN, "version": "\x1b[31m"}},
        {"properties": {"pin": b"\xff\xfe", "version": "1"}},
        {"properties": {}},
        {"parsed_addresses": []},
        {"port": 0},
    ],
)
def test_what_has_another_form_is_not_heard(given: dict[str, object]) -> None:
    assert _found(info(**given)) is None


async def d3bed(folder: Path, *arguments: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "d3bed", *arguments),
        cwd=folder,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


def hears_itself() -> bool:
    """Whether multicast works on loopback here."""
    group = ("224.0.0.251", 53530)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.settimeout(5)
        own = socket.inet_aton("127.0.0.1")
        try:
            one.bind(("", group[1]))
            one.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group[0]) + own)
            one.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, own)
            one.sendto(b"here", group)
            return one.recv(16) == b"here"
        except OSError:
            return False


@pytest.mark.sockets
@pytest.mark.skipif(not hears_itself(), reason="no multicast on loopback here")
async def test_a_server_that_announces_itself_is_found_and_known_by_its_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "d3bed", "server", "--announce", "--tls", "--port", "0"),
        *("--data-dir", str(tmp_path / "data")),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert server.stderr is not None
        while b"dashboard: " not in (line := await server.stderr.readline()):
            assert line, "the server ended"
        address = line.decode().split()[-1].rstrip("/")
        pin = Authority(tmp_path / "data" / "tls").fingerprint
        async with asyncio.timeout(60):
            while (
                pin not in (said := await d3bed(tmp_path, "discover", "--for", "1", "--host", "127.0.0.1"))[1]
            ):
                pass
        assert said[0] == 0 and address in said[1] and f"d3bed join --ca {pin}" in said[1]
        monkeypatch.setattr(discovery, "look", functools.partial(discovery.look, host="127.0.0.1"))
        assert await asyncio.to_thread(_found_by, pin.upper()) == address
        with pytest.raises(ConfigError, match="no server of this authority"):
            await asyncio.to_thread(_found_by, "0" * 64)
    finally:
        server.terminate()
        await server.communicate()
    code, told = await d3bed(tmp_path, "discover", "--for", "0.5", "--host", "127.0.0.1")
    assert code == 1 and "no server announces itself here" in told


@pytest.mark.sockets
async def test_a_board_is_told_what_is_missing(tmp_path: Path) -> None:
    code, told = await d3bed(tmp_path, "join", "--token", "d3j_x")
    assert code == 2 and "by which a server on this network is found" in told
