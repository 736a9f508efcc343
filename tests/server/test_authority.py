"""The server's own authority, and boards that join over TLS."""

from __future__ import annotations

import asyncio
import ssl
import stat
from collections.abc import Callable
from pathlib import Path

import aiohttp
import msgspec
import pytest
from cryptography import x509

from d3bed.agent.certificate import new_key, signing_request
from d3bed.agent.identity import key_file, read_identity
from d3bed.agent.join import join
from d3bed.core.errors import ConfigError
from d3bed.core.ids import Tier
from d3bed.net import LinkTls
from d3bed.server import ServerSettings
from d3bed.server import authority as authority_module
from d3bed.server.authority import Authority, own_names
from d3bed.server.credentials import Denied
from tests.server.lab import Lab, StartLab

TOKEN = "sesame-open-sesame"


def test_it_is_made_once_and_its_keys_are_for_the_owner_alone(tmp_path: Path) -> None:
    first, again = Authority(tmp_path / "tls"), Authority(tmp_path / "tls")
    assert first.fingerprint == again.fingerprint and len(first.fingerprint) == 64
    served = first.serve_as(frozenset({"localhost"}))
    for file in (tmp_path / "tls" / "ca-key.pem", served):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "tls").stat().st_mode) == 0o700


def test_a_server_certificate_is_kept_until_a_name_is_missing(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    first = authority.serve_as(frozenset({"localhost", "192.0.2.1"})).read_bytes()
    assert authority.serve_as(frozenset({"192.0.2.1"})).read_bytes() == first
    second = authority.serve_as(frozenset({"bed.example"})).read_bytes()
    assert second != first
    names = x509.load_pem_x509_certificate(second).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.DNSName) == ["bed.example"]
    assert {"localhost", "127.0.0.1", "bed.example"} <= own_names("bed.example", "0.0.0.0")


def test_an_agents_certificate_names_the_agent_and_no_host(tmp_path: Path) -> None:
    made = Authority(tmp_path).sign_agent("edge-1", signing_request(new_key()))
    found = x509.load_pem_x509_certificate(made.encode())
    assert found.subject.rfc4514_string() == "CN=edge-1"
    with pytest.raises(x509.ExtensionNotFound):
        found.extensions.get_extension_for_class(x509.SubjectAlternativeName)


@pytest.mark.parametrize("request_", ["", "nonsense", "-----BEGIN CERTIFICATE REQUEST-----\nAA==\n"])
def test_what_is_no_request_is_not_signed(tmp_path: Path, request_: str) -> None:
    with pytest.raises(Denied, match="signing request"):
        Authority(tmp_path).sign_agent("edge-1", request_)


def test_a_key_that_does_not_fit_is_named(tmp_path: Path) -> None:
    Authority(tmp_path / "a"), Authority(tmp_path / "b")
    (tmp_path / "a" / "ca-key.pem").write_bytes((tmp_path / "b" / "ca-key.pem").read_bytes())
    with pytest.raises(ConfigError, match="is not the key of ca.pem"):
        Authority(tmp_path / "a")


# ── over HTTPS ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def lab(start_lab: StartLab, make_settings: Callable[..., ServerSettings]) -> Lab:
    return await start_lab(msgspec.structs.replace(make_settings(token=TOKEN), tls=True))


async def invited(lab: Lab, tmp_path: Path) -> tuple[str, str, str]:
    """Address, join token and fingerprint, as on the line for a board."""
    trusted = ssl.create_default_context(cafile=tmp_path / "data" / "tls" / "ca.pem")
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with (
        aiohttp.ClientSession() as http,
        http.post(lab.address + "api/invitations", json={}, headers=headers, ssl=trusted) as answer,
    ):
        words = (await answer.json())["command"].split()
    assert words[:2] == ["d3bed", "join"] and words[3] == "--token" and words[5] == "--ca"
    return words[2], words[4], words[6]


@pytest.mark.sockets
async def test_a_board_joins_by_the_fingerprint_on_its_line(lab: Lab, tmp_path: Path) -> None:
    assert lab.address.startswith("https://")
    server, token, pin = await invited(lab, tmp_path)
    path = tmp_path / "board" / "identity.json"
    with pytest.raises(ConfigError, match="--ca"):
        await asyncio.to_thread(join, server, token, path, name="edge-1", tier=None)
    with pytest.raises(ConfigError, match="another authority"):
        await asyncio.to_thread(join, server, token, path, name="edge-1", tier=None, pin="0" * 64)
    made, _ = await asyncio.to_thread(join, server, token, path, name="edge-1", tier=Tier.EDGE, pin=pin)
    assert read_identity(path) == made and made.authority
    assert stat.S_IMODE(key_file(path).stat().st_mode) == 0o600
    LinkTls(key_file(path), made.authority)


@pytest.mark.sockets
async def test_a_certificate_for_other_names_is_told_of(
    start_lab: StartLab,
    make_settings: Callable[..., ServerSettings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(authority_module, "own_names", lambda *_: frozenset({"bed.example"}))
    lab = await start_lab(msgspec.structs.replace(make_settings(token=TOKEN), tls=True))
    pin = Authority(tmp_path / "data" / "tls").fingerprint
    server, path = lab.address.rstrip("/"), tmp_path / "i.json"
    with pytest.raises(ConfigError, match="not for this address.*--tls-name"):
        await asyncio.to_thread(join, server, "t", path, name="edge-1", tier=None, pin=pin)


@pytest.mark.sockets
async def test_without_tls_there_is_nothing_to_pin(
    start_lab: StartLab, make_settings: Callable[..., ServerSettings], tmp_path: Path
) -> None:
    lab = await start_lab(make_settings())
    server = lab.address.rstrip("/").replace("http", "https")
    with pytest.raises(ConfigError, match="no d3bed server with TLS"):
        await asyncio.to_thread(join, server, "t", tmp_path / "i.json", name="e", tier=None, pin="0" * 64)
