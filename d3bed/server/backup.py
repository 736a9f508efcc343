"""A server's data folder in one file, and back: the database, and who is let in.

The database is copied by SQLite itself, page by page, so that a server may run meanwhile; what it had not
committed by then (half a second) is not in it. The file is a gzipped tar of mode 0600: it holds secrets.
Restoring takes nothing from it but the files named here, and no longer than they may be.
"""

from __future__ import annotations

import contextlib
import io
import os
import sqlite3
import tarfile
import tempfile
import time
from pathlib import Path

import msgspec

import d3bed
from d3bed.core.errors import ConfigError
from d3bed.server.schema import create
from d3bed.server.store import held

__all__ = ["FORMAT", "Manifest", "back_up", "restore"]

FORMAT = "d3bed.backup/1"
_MANIFEST, _DATABASE = "manifest.json", "d3bed.sqlite3"
#: Beside the database: what lets boards and users in, without which all would have to join again.
_SECRETS = ("token", "link-secret", "credentials.json", "tls/ca.pem", "tls/ca-key.pem")
_MOST_SECRET_BYTES = 16 * 2**20
_MOST_BYTES = 64 * 2**30
_PAGES = 4096


class Manifest(msgspec.Struct, frozen=True):
    """`made_s`: seconds since 1970."""

    format: str
    version: str
    made_s: float
    files: tuple[str, ...]


def back_up(directory: Path, file: Path) -> Manifest:
    """Write a backup of a server's data folder. Raises `ConfigError`."""
    database = directory / _DATABASE
    if not database.is_file():
        raise ConfigError(
            "--data-dir", str(directory), "no server has kept anything here", "name its data folder"
        )
    secrets = [name for name in _SECRETS if (directory / name).is_file()]
    manifest = Manifest(FORMAT, d3bed.__version__, time.time(), (_DATABASE, *secrets))
    whole = file.with_name(file.name + ".new")
    try:
        with tempfile.TemporaryDirectory(prefix=".d3bed-backup-", dir=file.resolve().parent) as folder:
            copy = Path(folder) / _DATABASE
            _copy(database, copy)
            whole.unlink(missing_ok=True)
            descriptor = os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with (
                os.fdopen(descriptor, "wb") as raw,
                tarfile.open(fileobj=raw, mode="w:gz", compresslevel=1) as tar,
            ):
                _add(tar, _MANIFEST, msgspec.json.encode(manifest))
                tar.add(copy, _DATABASE, filter=_plain)
                for name in secrets:
                    _add(tar, name, (directory / name).read_bytes())
            whole.replace(file)
    except (OSError, sqlite3.Error) as error:
        with contextlib.suppress(OSError):
            whole.unlink(missing_ok=True)
        raise ConfigError(
            str(file), "", f"cannot be written ({error})", "make room, or name another file"
        ) from error
    return manifest


def restore(file: Path, directory: Path, *, force: bool = False) -> Manifest:
    """Put a backup in place of what is in a data folder; with `force` even where there is a database.

    What was there is kept beside it, with `.before` at the end. Raises `ConfigError`: no backup, a broken
    one, one of a newer d3bed, or a server that runs.
    """
    with held(directory):
        if (directory / _DATABASE).exists() and not force:
            remedy = "--force puts the backup in its place, and keeps it as d3bed.sqlite3.before"
            raise ConfigError("--data-dir", str(directory), "holds a database already", remedy)
        with tempfile.TemporaryDirectory(prefix=".restore-", dir=directory) as folder:
            try:
                manifest = _unpack(file, Path(folder))
                _check(Path(folder) / _DATABASE)
            except (OSError, EOFError, tarfile.TarError, msgspec.DecodeError, sqlite3.Error) as error:
                raise ConfigError(
                    str(file), "", f"is no sound backup ({error})", "try an earlier one"
                ) from error
            for end in ("-wal", "-shm"):
                (directory / (_DATABASE + end)).unlink(missing_ok=True)
            for name in manifest.files:
                place = directory / name
                place.parent.mkdir(mode=0o700, exist_ok=True)
                if place.exists():
                    place.replace(place.with_name(place.name + ".before"))
                (Path(folder) / name).replace(place)
    return manifest


def _copy(database: Path, copy: Path) -> None:
    source = sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)
    with contextlib.closing(source), contextlib.closing(sqlite3.connect(copy)) as target:
        source.backup(target, pages=_PAGES)
        target.execute("PRAGMA journal_mode=DELETE")


def _check(database: Path) -> None:
    """Raise `sqlite3.Error` for one that is broken, or that this d3bed does not know."""
    with contextlib.closing(sqlite3.connect(database)) as opened:
        if (found := opened.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(str(found))
        create(opened)


def _unpack(file: Path, folder: Path) -> Manifest:
    with tarfile.open(file, "r:gz") as tar:
        members = iter(tar)
        first = next(members, None)
        if first is None or first.name != _MANIFEST:
            raise tarfile.TarError("it does not begin with a manifest")
        manifest = msgspec.json.decode(_read(tar, first, _MOST_SECRET_BYTES), type=Manifest)
        if manifest.format != FORMAT:
            raise tarfile.TarError(f"it is a {manifest.format}, this d3bed knows {FORMAT}")
        known = {_DATABASE, *_SECRETS}
        for member in members:
            if member.name not in known or member.name not in manifest.files:
                raise tarfile.TarError(f"it holds {member.name!r}, which no backup does")
            most = _MOST_BYTES if member.name == _DATABASE else _MOST_SECRET_BYTES
            _check_member(member, most)
            source = tar.extractfile(member)
            assert source is not None
            (folder / member.name).parent.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(folder / member.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with source, os.fdopen(descriptor, "wb") as target:
                while data := source.read(2**20):
                    target.write(data)
    if missing := [name for name in manifest.files if not (folder / name).exists()]:
        raise tarfile.TarError(f"{missing[0]} is missing")
    return manifest


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo, most: int) -> bytes:
    _check_member(member, most)
    source = tar.extractfile(member)
    assert source is not None
    return source.read(most)


def _check_member(member: tarfile.TarInfo, most: int) -> None:
    if not member.isreg():
        raise tarfile.TarError(f"{member.name!r} is no plain file")
    if member.size > most:
        raise tarfile.TarError(f"{member.name} has {member.size} bytes, the limit is {most}")


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(data), 0o600, int(time.time())
    tar.addfile(member, io.BytesIO(data))


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the names of whoever made it."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o600
    return member
