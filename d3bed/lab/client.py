"""A small client of the server's JSON API, for commands."""

from __future__ import annotations

import os
import ssl
from typing import Any

import aiohttp

from d3bed.core.errors import ConfigError, D3Error

__all__ = ["RequestFailed", "get", "post"]

_TIMEOUT_S = 30.0


class RequestFailed(D3Error):
    """The server answered with an error; the message is the server's."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


async def get(server: str, path: str, token: str | None = None) -> Any:
    """GET, decoded. Raises `RequestFailed` or, if nobody answers, `ConfigError`."""
    return await _ask("GET", server, path, None, token)


async def post(
    server: str, path: str, body: dict[str, Any], token: str | None = None, *, timeout_s: float = _TIMEOUT_S
) -> Any:
    """POST a JSON body, decoded answer. Raises `RequestFailed` or, if nobody answers, `ConfigError`."""
    return await _ask("POST", server, path, body, token, timeout_s)


def _context(server: str) -> ssl.SSLContext | bool:
    """For https: trust whom `D3BED_CA` names, else whom the system trusts."""
    file = os.environ.get("D3BED_CA")
    if not server.startswith("https:") or file is None:
        return True
    try:
        return ssl.create_default_context(cafile=file)
    except OSError as error:
        raise ConfigError("D3BED_CA", file, f"no certificate: {error}", "d3bed ca shows the file") from error


async def _ask(
    method: str,
    server: str,
    path: str,
    body: dict[str, Any] | None,
    token: str | None,
    timeout_s: float = _TIMEOUT_S,
) -> Any:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s)) as session,
            session.request(
                method, server.rstrip("/") + path, json=body, headers=headers, ssl=_context(server)
            ) as response,
        ):
            answer = await response.json()
    except aiohttp.ClientConnectorCertificateError as error:
        remedy = "export D3BED_CA=FILE with its authority; on its machine d3bed ca shows it"
        raise ConfigError(server, "TLS", "its certificate is not trusted", remedy) from error
    except (aiohttp.ClientConnectionError, TimeoutError) as error:
        raise ConfigError(
            server, "", "no d3bed server answers here", "start one, or give --server"
        ) from error
    except aiohttp.ClientError as error:
        raise ConfigError(server, "", f"not a d3bed server: {error}", "check --server") from error
    if response.status >= 400:
        raise RequestFailed(response.status, str(answer.get("error", f"HTTP {response.status}")))
    return answer
