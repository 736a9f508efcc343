"""Secrets on disk, and requests that a foreign web page made.

A token is required of agents and of requests that change something, whenever the server has one; it
always has one where it listens beyond loopback. On loopback the danger is a web page in the user's
own browser: its `Origin` is not ours, and after DNS rebinding its `Host` is not a loopback name.
Pure but for `kept_secret`.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
from pathlib import Path
from urllib.parse import urlsplit

from d3bed.core.errors import ConfigError

__all__ = ["is_foreign_host", "is_foreign_origin", "is_loopback", "kept_secret"]


def is_loopback(host: str) -> bool:
    """Whether `host` (a name or an address, without port) means this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def kept_secret(path: Path) -> tuple[str, bool]:
    """Read the secret in `path`, or make one there with mode 0600. Returns it, and whether it is new."""
    try:
        found = path.read_text().strip()
    except FileNotFoundError:
        made = secrets.token_hex(24)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(made + "\n")
        return made, True
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            str(path), "", f"cannot be read ({error})", "delete it: a new one is made"
        ) from error
    if len(found) < 16:
        raise ConfigError(str(path), "", "the secret is too short", "delete it: a new one is made")
    return found, False


def is_foreign_origin(origin: str | None, host: str | None) -> bool:
    """Whether a browser says that the page which asks is not one that `host` served."""
    return origin is not None and urlsplit(origin).netloc != host


def is_foreign_host(host: str | None) -> bool:
    """For a server on loopback: whether the `Host` header names anything else than this machine."""
    return not is_loopback(urlsplit(f"//{host or ''}").hostname or "")
