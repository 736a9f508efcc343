"""What a server keeps, in one file and back: whole while it runs, and nothing else from the file."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import tarfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from cryptography import x509

from d3bed.core.errors import ConfigError
from d3bed.server.authority import Authority
from d3bed.server.backup import Manifest, back_up, restore
from d3bed.server.store import Store, read_rows


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A data folder with a run in it, and secrets."""
    found = tmp_path / "data"
    store = Store(found)
    store.put("runs", {"id": "main-1-1", "started_s": 1.0, "ended_s": 2.0, "view": "{}"})
    store.put("epochs", {"epoch": 7, "pipeline": "main"})
    store.close()
    for name in ("token", "link-secret", "credentials.json"):
        (found / name).write_text(f"the {name}")
    return found


def test_a_server_comes_back_as_it_was(directory: Path, tmp_path: Path) -> None:
    file = tmp_path / "b.tar.gz"
    made = back_up(directory, file)
    assert made.files == ("d3bed.sqlite3", "token", "link-secret", "credentials.json")
    assert file.stat().st_mode & 0o777 == 0o600
    other = tmp_path / "other"
    assert restore(file, other) == made
    assert (other / "token").read_text() == "the token"
    assert (other / "token").stat().st_mode & 0o777 == 0o600
    assert [row["id"] for row in read_rows(other / "d3bed.sqlite3", "SELECT id FROM runs")] == ["main-1-1"]
    store = Store(other)
    assert store.last_epoch == 7  # epochs go on from there
    store.close()
    assert sorted(path.name for path in other.iterdir() if path.name.startswith(".")) == []


def test_boards_find_the_authority_that_they_trust_again(directory: Path, tmp_path: Path) -> None:
    trusted = Authority(directory / "tls")
    file, other = tmp_path / "b.tar.gz", tmp_path / "other"
    back_up(directory, file)
    strange = Authority(other / "tls")  # a server was started here before
    strange.serve_as(frozenset({"localhost"}))
    restore(file, other)
    assert Authority(other / "tls").fingerprint == trusted.fingerprint
    assert (other / "tls" / "ca-key.pem").stat().st_mode & 0o777 == 0o600
    assert (other / "tls" / "ca.pem.before").read_text() == strange.pem
    served = x509.load_pem_x509_certificate(
        Authority(other / "tls").serve_as(frozenset({"localhost"})).read_bytes()
    )
    served.verify_directly_issued_by(x509.load_pem_x509_certificate(trusted.pem.encode()))


def test_a_backup_of_a_running_server_is_whole(directory: Path, tmp_path: Path) -> None:
    store = Store(directory)
    try:
        for number in range(2000):
            store.put("frames", {"run": "main-1-1", "frame": number, "epoch": 7, "started_s": 1e10})
        while not read_rows(store.path, "SELECT 1 FROM frames LIMIT 1"):
            pass
        back_up(directory, tmp_path / "b.tar.gz")
        with pytest.raises(ConfigError, match="another server uses it"):
            restore(tmp_path / "b.tar.gz", directory, force=True)
    finally:
        store.close()
    restore(tmp_path / "b.tar.gz", tmp_path / "other")
    with sqlite3.connect(tmp_path / "other" / "d3bed.sqlite3") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert 0 < database.execute("SELECT count(*) FROM frames").fetchone()[0] <= 2000
    database.close()


def test_a_database_is_replaced_only_by_force_and_kept(directory: Path, tmp_path: Path) -> None:
    back_up(directory, tmp_path / "b.tar.gz")
    store = Store(directory)
    store.put("runs", {"id": "later", "started_s": 3.0})
    store.close()
    with pytest.raises(ConfigError, match="--force"):
        restore(tmp_path / "b.tar.gz", directory)
    restore(tmp_path / "b.tar.gz", directory, force=True)
    ids = "SELECT id FROM runs ORDER BY id"
    assert [row["id"] for row in read_rows(directory / "d3bed.sqlite3", ids)] == ["main-1-1"]
    before = read_rows(directory / "d3bed.sqlite3.before", ids)
    assert [row["id"] for row in before] == ["later", "main-1-1"]


def test_a_folder_without_a_database_has_no_backup(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no server has kept anything"):
        back_up(tmp_path, tmp_path / "b.tar.gz")
    assert list(tmp_path.iterdir()) == []


def test_a_backup_that_cannot_be_written_leaves_nothing(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        back_up(directory, tmp_path / "nowhere" / "b.tar.gz")


# ── files that are no backups ─────────────────────────────────────────────────────────────────────


def tampered(good: Path, change: Callable[[tarfile.TarFile, dict[str, bytes]], None]) -> Path:
    """A tar made anew of a backup's files."""
    with tarfile.open(good) as tar:
        files = {m.name: opened.read() for m in tar if (opened := tar.extractfile(m)) is not None}
    bad = good.with_name("bad.tar.gz")
    with tarfile.open(bad, "w:gz") as tar:
        change(tar, files)
    return bad


def add(tar: tarfile.TarFile, name: str, data: bytes, kind: bytes = tarfile.REGTYPE) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = len(data), kind, "/etc/passwd"
    tar.addfile(member, io.BytesIO(data))


def outside(tar: tarfile.TarFile, files: dict[str, bytes]) -> None:
    manifest = json.loads(files["manifest.json"]) | {"files": ["d3bed.sqlite3", "../evil"]}
    add(tar, "manifest.json", json.dumps(manifest).encode())
    add(tar, "../evil", b"x")


def link(tar: tarfile.TarFile, files: dict[str, bytes]) -> None:
    add(tar, "manifest.json", files["manifest.json"])
    add(tar, "token", b"", tarfile.SYMTYPE)


def incomplete(tar: tarfile.TarFile, files: dict[str, bytes]) -> None:
    add(tar, "manifest.json", files["manifest.json"])


def broken(tar: tarfile.TarFile, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        add(tar, name, b"\0" * len(data) if name == "d3bed.sqlite3" else data)


def newer(tar: tarfile.TarFile, files: dict[str, bytes]) -> None:
    manifest = Manifest("d3bed.backup/9", "9.0", 0.0, ("d3bed.sqlite3",))
    add(tar, "manifest.json", msgspec.json.encode(manifest))


@pytest.mark.parametrize("change", [outside, link, incomplete, broken, newer])
def test_a_file_that_is_no_sound_backup_changes_nothing(
    directory: Path, tmp_path: Path, change: Callable[[tarfile.TarFile, dict[str, bytes]], None]
) -> None:
    back_up(directory, tmp_path / "good.tar.gz")
    bad = tampered(tmp_path / "good.tar.gz", change)
    with pytest.raises(ConfigError, match="no sound backup"):
        restore(bad, directory, force=True)
    assert (directory / "token").read_text() == "the token"
    assert not list(directory.glob("*.before")) and not list(directory.glob(".restore-*"))
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("data", [b"", b"not a tar", os.urandom(1000)])
def test_what_is_no_tar_is_said_to_be_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ConfigError, match="no sound backup"):
        restore(tmp_path / "x", tmp_path / "data")
