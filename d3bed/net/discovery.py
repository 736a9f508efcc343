"""Servers on the same network, found by multicast DNS; python-zeroconf (extra `discovery`) does the talking.

Anybody on that network may announce anything. So what is heard is limited and checked, and who joins by it
must know the fingerprint of the server's authority: being found is no reason to be trusted.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import socket
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import msgspec

from d3bed.core.errors import ConfigError

if TYPE_CHECKING:
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

__all__ = ["SERVICE", "Found", "announced", "look"]

SERVICE = "_d3bed._tcp.local."

_PIN = re.compile(r"[0-9a-f]{64}")
_PLAIN = re.compile(r"[\w. +-]{1,63}")
_MOST = 64
_ASK_MS = 2000


class Found(msgspec.Struct, frozen=True, order=True):
    """A server that announces itself: its machine, addresses (`https://host:port`), the fingerprint of its
    authority ("" without TLS), and its version."""

    name: str
    addresses: tuple[str, ...]
    pin: str
    version: str


@contextlib.asynccontextmanager
async def announced(host: str, port: int, pin: str, version: str) -> AsyncIterator[None]:
    """Say on the networks that `host` listens on that a server is here. Raises `ConfigError`."""
    from zeroconf import NonUniqueNameException
    from zeroconf.asyncio import AsyncServiceInfo

    machine = socket.gethostname().partition(".")[0][:40] or "d3bed"
    info = AsyncServiceInfo(
        SERVICE,
        f"{machine}-{port}.{SERVICE}",
        port=port,
        parsed_addresses=_own_addresses(host),
        properties={"pin": pin, "version": version},
        server=f"{machine}.local.",
    )
    async with _talking(host) as zeroconf:
        try:
            await (await zeroconf.async_register_service(info, allow_name_change=True))
        except (OSError, NonUniqueNameException) as error:
            raise ConfigError("--announce", "", f"cannot be done on {host} ({error})") from error
        yield  # closing says goodbye


async def look(seconds: float, host: str = "0.0.0.0") -> tuple[Found, ...]:
    """Who announces itself within so many seconds, by name. Raises `ConfigError`."""
    names: set[str] = set()
    async with _talking(host) as zeroconf:
        from zeroconf import ServiceStateChange
        from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo

        def heard(name: str, state_change: ServiceStateChange, **_: Any) -> None:
            plain = _PLAIN.fullmatch(name.removesuffix(f".{SERVICE}"))
            if plain and state_change is not ServiceStateChange.Removed and len(names) < _MOST:
                names.add(name)

        browser = AsyncServiceBrowser(zeroconf.zeroconf, SERVICE, handlers=[heard])
        await asyncio.sleep(seconds)  # answers come from whoever is there, as they like
        await browser.async_cancel()
        infos = [AsyncServiceInfo(SERVICE, name) for name in sorted(names)]
        await asyncio.gather(*(info.async_request(zeroconf.zeroconf, _ASK_MS) for info in infos))
    return tuple(sorted(found for info in infos if (found := _found(info)) is not None))


@contextlib.asynccontextmanager
async def _talking(host: str) -> AsyncIterator[AsyncZeroconf]:
    from zeroconf import InterfaceChoice
    from zeroconf.asyncio import AsyncZeroconf

    try:
        zeroconf = AsyncZeroconf(interfaces=InterfaceChoice.All if _is_any(host) else [host])
    except OSError as error:
        raise ConfigError("discovery", "", f"no multicast on {host} ({error})", "give the address") from error
    try:
        yield zeroconf
    finally:
        await zeroconf.async_close()


def _is_any(host: str) -> bool:
    return host in ("", "0.0.0.0", "::")


def _own_addresses(host: str) -> list[str]:
    if not _is_any(host):
        return [host]
    import ifaddr

    found = [str(ip.ip) for adapter in ifaddr.get_adapters() for ip in adapter.ips if ip.is_IPv4]
    return [ip for ip in found if not ipaddress.ip_address(ip).is_loopback] or ["127.0.0.1"]


def _found(info: AsyncServiceInfo) -> Found | None:
    """None unless all that was heard is of the form that it should have."""
    told = {
        key.decode("ascii", "replace"): (value or b"").decode("ascii", "replace")
        for key, value in info.properties.items()
    }
    pin, version = told.get("pin", ""), told.get("version", "")
    if not info.port or not _PLAIN.fullmatch(version) or (pin and not _PIN.fullmatch(pin)):
        return None
    name = info.name.removesuffix(f".{SERVICE}")
    scheme = "https" if pin else "http"
    hosts = [f"[{a}]" if ":" in a else a for a in info.parsed_addresses()[:8]]
    return Found(name, tuple(f"{scheme}://{a}:{info.port}" for a in hosts), pin, version) if hosts else None
