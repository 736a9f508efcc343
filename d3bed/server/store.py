"""What outlives the server: an SQLite database, written by a thread of its own.

Rows are queued and committed together, at most `COMMIT_S` later (at once if urgent). WAL mode with
`synchronous=NORMAL`: killing the process loses at most what was not committed and never corrupts.
Every table keeps its newest rows only (`KEPT`). One server per directory: a lock file guards it.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import queue
import sqlite3
import threading
import time
from pathlib import Path
from typing import IO, Any

import msgspec

from d3bed.core.errors import ConfigError
from d3bed.core.ids import Epoch

__all__ = ["COMMIT_S", "KEPT", "Store"]

logger = logging.getLogger(__name__)

COMMIT_S = 0.5
#: How many rows each table keeps.
KEPT = {"runs": 500, "epochs": 5_000, "plans": 5_000, "measurements": 20_000, "events": 20_000}
_PRUNE_EVERY = 1_000
_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY, pipeline TEXT, started_s REAL, ended_s REAL, view TEXT, report TEXT);
CREATE TABLE IF NOT EXISTS epochs (
    epoch INTEGER PRIMARY KEY, pipeline TEXT, strategy TEXT, model TEXT, cause TEXT, cause_id TEXT,
    state TEXT, activated_at REAL, moved INTEGER, predicted_s REAL, measured_s REAL, plan TEXT);
CREATE TABLE IF NOT EXISTS plans (
    id INTEGER PRIMARY KEY, at_s REAL, cause_id TEXT, pipeline TEXT, model TEXT, strategy TEXT,
    cost_s REAL, plan_time_s REAL, latency_s REAL, route TEXT, tiers TEXT);
CREATE TABLE IF NOT EXISTS measurements (
    id INTEGER PRIMARY KEY, at_s REAL, cause_id TEXT, kind TEXT, subject TEXT, data TEXT);
CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY, at_s REAL, cause_id TEXT, kind TEXT, data TEXT);
"""


class Store:
    """Opens (and makes) `directory`. Raises `ConfigError` if it is in use, unreadable or broken."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "d3bed.sqlite3"
        self._lock = _lock(directory)
        try:
            self._database = sqlite3.connect(self.path, check_same_thread=False)
            self._open()
        except sqlite3.DatabaseError as error:
            self._lock.close()
            raise ConfigError(str(self.path), "", f"cannot be used ({error})", "move it away") from error
        self.boot = self._raise_meta("boot", 1)
        self.last_epoch = Epoch(self._meta("last_epoch"))
        self._database.commit()
        self._queue: queue.SimpleQueue[tuple[str, dict[str, object], bool] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="store", daemon=True)
        self._thread.start()

    def put(self, table: str, row: dict[str, object], *, urgent: bool = False) -> None:
        """Queue a row; never blocks. A row of equal primary key is replaced."""
        self._queue.put((table, row, urgent))

    def close(self) -> None:
        """Write and commit what is queued."""
        self._queue.put(None)
        self._thread.join()
        self._database.close()
        self._lock.close()

    def read(self, sql: str, *values: object) -> list[dict[str, Any]]:
        """Run a query on a connection of its own; call it off the event loop. JSON columns stay text."""
        with contextlib.closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute(sql, values)]

    # ── the writing thread ────────────────────────────────────────────────────────────────────────

    def _write(self) -> None:
        written = 0
        commit_at: float | None = None
        while True:
            wait_s = None if commit_at is None else max(0.0, commit_at - time.monotonic())
            urgent = stop = False
            try:
                item = self._queue.get(timeout=wait_s)
            except queue.Empty:
                pass
            else:
                stop = item is None
                if item is not None:
                    table, row, urgent = item
                    self._insert(table, row)
                    written += 1
                    if written % _PRUNE_EVERY == 0:
                        self._prune()
                    commit_at = commit_at or time.monotonic() + COMMIT_S
            if stop or urgent or (commit_at is not None and time.monotonic() >= commit_at):
                self._commit()
                commit_at = None
            if stop:
                return

    def _insert(self, table: str, row: dict[str, object]) -> None:
        values = [v if isinstance(v, str | int | float | None) else _json(v) for v in row.values()]
        names, marks = ", ".join(row), ", ".join("?" * len(row))
        try:
            self._database.execute(f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({marks})", values)
            if table == "epochs":
                self._database.execute(
                    "INSERT INTO meta VALUES ('last_epoch', ?1)"
                    " ON CONFLICT (key) DO UPDATE SET value = max(value, ?1)",
                    (row["epoch"],),
                )
        except sqlite3.Error:
            logger.exception("a row of %s is lost", table)

    def _commit(self) -> None:
        try:
            self._database.commit()
        except sqlite3.Error:
            logger.exception("a commit failed")

    def _prune(self) -> None:
        for table, kept in KEPT.items():
            self._database.execute(
                f"DELETE FROM {table} WHERE rowid <= (SELECT rowid FROM {table}"
                f" ORDER BY rowid DESC LIMIT 1 OFFSET {kept})"
            )

    # ── opening ───────────────────────────────────────────────────────────────────────────────────

    def _open(self) -> None:
        database = self._database
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, _VERSION):
            raise sqlite3.DatabaseError(f"it has version {version}, this d3bed knows {_VERSION}")
        database.executescript(_SCHEMA)
        database.execute(f"PRAGMA user_version={_VERSION}")
        self._end_open_runs()
        self._prune()
        database.commit()

    def _end_open_runs(self) -> None:
        """Runs that a server left open when it was killed ended with the last sign of life in the store."""
        last = "(SELECT max(at_s) FROM (SELECT at_s FROM events UNION SELECT at_s FROM measurements))"
        ended = f"max(started_s, coalesce({last}, started_s))"
        self._database.execute(
            f"UPDATE runs SET ended_s = {ended},"
            f" view = json_set(view, '$.ended_s', {ended}, '$.cut', json('true')) WHERE ended_s IS NULL"
        )

    def _meta(self, key: str) -> int:
        found = self._database.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return int(found[0]) if found else 0

    def _raise_meta(self, key: str, by: int) -> int:
        value = self._meta(key) + by
        self._database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
        return value


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _lock(directory: Path) -> IO[str]:
    """Hold the directory for this process; the kernel lets go of it however the process ends."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / "lock").open("w")
    except OSError as error:
        problem = f"cannot be written ({error.strerror})"
        raise ConfigError("data_dir", str(directory), problem, "name another directory") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise ConfigError(
            "data_dir", str(directory), "another server uses it", "stop that one, or name another directory"
        ) from None
    return lock
