"""What a joined board keeps: who it is, where its server is, and its own credential. Mode 0600."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

import msgspec

from d3bed.core.errors import ConfigError
from d3bed.core.ids import AgentId, Tier
from d3bed.core.joining import Machine

__all__ = [
    "Identity",
    "change_credential",
    "find_identity",
    "key_file",
    "new_node",
    "read_identity",
    "write_identity",
    "write_secret",
]

_FORMAT = "d3bed.identity/1"


class Identity(msgspec.Struct, frozen=True):
    """`node` was made once, on the machine that `machine` marks; `server` is its address. `authority` (PEM)
    is whom the server's certificate, and those of other boards, must be signed by; the board's own key and
    certificate are in `key_file` beside the identity file. "": no TLS."""

    node: str
    machine: Machine
    agent: AgentId
    tier: Tier
    server: str
    credential: str
    authority: str = ""
    format: str = _FORMAT


def new_node() -> str:
    return secrets.token_hex(16)


def key_file(path: Path) -> Path:
    """Where the key and certificate of the identity in `path` are."""
    return path.with_suffix(".pem")


def find_identity(path: Path) -> Identity | None:
    """None where there is no file. Raises `ConfigError` as `read_identity`."""
    return read_identity(path) if path.exists() else None


def read_identity(path: Path) -> Identity:
    """Raises `ConfigError` for a file that is not one, or that others may read."""
    where = str(path)
    try:
        mode = path.stat().st_mode
        identity = msgspec.json.decode(path.read_bytes(), type=Identity)
    except FileNotFoundError:
        raise ConfigError(where, "", "no such file", "join first: d3bed join SERVER --token …") from None
    except OSError as error:
        raise ConfigError(where, "", f"cannot be read: {error.strerror}", "run as its owner") from error
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ConfigError(where, "", f"not an identity: {error}", "join again: d3bed join") from error
    if identity.format != _FORMAT:
        raise ConfigError(where, "format", f"{identity.format!r} is not {_FORMAT}", "join again: d3bed join")
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(where, "", "others may read this secret", f"chmod 600 {path}")
    return identity


def write_identity(path: Path, identity: Identity) -> None:
    """Replaces the file as a whole: a power cut leaves the old one or the new. Raises `ConfigError`."""
    write_secret(path, msgspec.json.format(msgspec.json.encode(identity)) + b"\n")


def write_secret(path: Path, content: bytes) -> None:
    """As `write_identity`, whatever it is."""
    new = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        raise ConfigError(
            str(path), "", f"cannot be written: {error.strerror}", "name another --identity"
        ) from error


def change_credential(path: Path, credential: str) -> None:
    """Keep another credential in place of the one in the file. Raises `ConfigError`."""
    write_identity(path, msgspec.structs.replace(read_identity(path), credential=credential))
