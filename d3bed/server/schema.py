"""The store's tables, and how much of them is kept. Synchronous SQLite; only `store` calls it.

Rows come in the order of time, so that the oldest are those with the least rowid. Three limits hold,
whichever is met first: rows per table, age, and bytes of the whole database (pages that are free again
do not count: they are reused, so that the file grows no more). Of the limits on age and bytes, runs,
epochs and the audit log are spared: they are small, and without them the rest means nothing.
"""

from __future__ import annotations

import contextlib
import sqlite3

import msgspec

__all__ = ["KEPT", "Retention", "create", "prune"]

_VERSION = 1
#: How many rows each table keeps. Frames: 14 hours at 10 a second; spans: five minutes; tape: 11
#: days of runs.
KEPT = {
    "servers": 500,
    "runs": 500,
    "epochs": 5_000,
    "plans": 5_000,
    "decisions": 5_000,
    "measurements": 20_000,
    "events": 20_000,
    "grounds": 100,
    "circumstances": 50_000,
    "boards": 100_000,
    "frames": 500_000,
    "spans": 3_000,
    "audit": 20_000,
    "knocks": 5_000,
    "tape": 100_000,
}
#: Tables with keys of their own: a row of an equal one is replaced, and numbers may be left out.
_REPLACED = {"servers", "runs", "epochs", "decisions", "grounds"}
#: What goes when the database is too old or too large, and the column that says when.
_BULK = {
    "spans": "at_s",
    "tape": "at_s",
    "frames": "started_s",
    "boards": "at_s",
    "circumstances": "at_s",
    "measurements": "at_s",
    "events": "at_s",
    "plans": "at_s",
    "decisions": "at_s",
}
#: `PRAGMA journal_size_limit`: a write-ahead log that grew larger is cut back to this.
_LOG_BYTES = 4 * 2**20
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS servers (boot INTEGER PRIMARY KEY, at_s REAL, data TEXT);
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY, pipeline TEXT, started_s REAL, ended_s REAL, view TEXT, report TEXT);
CREATE TABLE IF NOT EXISTS epochs (
    epoch INTEGER PRIMARY KEY, pipeline TEXT, strategy TEXT, model TEXT, cause TEXT, cause_id TEXT,
    state TEXT, activated_at REAL, moved INTEGER, predicted_s REAL, measured_s REAL, plan TEXT);
CREATE TABLE IF NOT EXISTS plans (
    id INTEGER PRIMARY KEY, at_s REAL, cause_id TEXT, pipeline TEXT, model TEXT, strategy TEXT,
    cost_s REAL, plan_time_s REAL, latency_s REAL, route TEXT, tiers TEXT);
CREATE TABLE IF NOT EXISTS decisions (
    cause_id TEXT PRIMARY KEY, pipeline TEXT, at_s REAL, choice TEXT, view TEXT);
CREATE TABLE IF NOT EXISTS measurements (
    id INTEGER PRIMARY KEY, at_s REAL, cause_id TEXT, kind TEXT, subject TEXT, data TEXT);
CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY, at_s REAL, cause_id TEXT, kind TEXT, data TEXT);
CREATE TABLE IF NOT EXISTS frames (
    id INTEGER PRIMARY KEY, run TEXT, frame INTEGER, epoch INTEGER, started_s REAL, latency_s REAL,
    device_s REAL, edge_s REAL, cloud_s REAL, waited_s REAL, attempts INTEGER, identical INTEGER);
CREATE INDEX IF NOT EXISTS frames_of_run ON frames (run);
CREATE TABLE IF NOT EXISTS grounds (id TEXT PRIMARY KEY, at_s REAL, data TEXT);
CREATE TABLE IF NOT EXISTS circumstances (
    id INTEGER PRIMARY KEY, at_s REAL, pipeline TEXT, ground TEXT, data TEXT);
CREATE TABLE IF NOT EXISTS boards (
    id INTEGER PRIMARY KEY, agent TEXT, at_s REAL, load REAL, own_cores REAL, report_cores REAL, memory REAL,
    sending_bytes INTEGER, temperature_c REAL, frequency_hz REAL, throttled TEXT);
CREATE TABLE IF NOT EXISTS spans (
    id INTEGER PRIMARY KEY, run TEXT, frame INTEGER, epoch INTEGER, at_s REAL, data BLOB);
CREATE TABLE IF NOT EXISTS audit (
    id INTEGER PRIMARY KEY, at_s REAL, who TEXT, host TEXT, what TEXT, detail TEXT, status INTEGER);
CREATE TABLE IF NOT EXISTS knocks (
    id INTEGER PRIMARY KEY, at_s REAL, who TEXT, host TEXT, what TEXT, detail TEXT, status INTEGER);
CREATE TABLE IF NOT EXISTS tape (id INTEGER PRIMARY KEY, at_s REAL, until_s REAL, whole INTEGER, data BLOB);
CREATE INDEX IF NOT EXISTS tape_by_time ON tape (at_s);
"""


class Retention(msgspec.Struct, frozen=True):
    """`days` and `bytes` hold for the whole database, rows per table by `KEPT`."""

    days: float = 30.0
    bytes: int = 512 * 2**20


def create(database: sqlite3.Connection) -> None:
    """Make what is missing. Raises `sqlite3.DatabaseError` for what is no database of ours."""
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=NORMAL")
    database.execute(f"PRAGMA journal_size_limit={_LOG_BYTES}")
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version not in (0, _VERSION):
        raise sqlite3.DatabaseError(f"it has version {version}, this d3bed knows {_VERSION}")
    database.executescript(_SCHEMA)
    _add_columns(database)
    database.execute(f"PRAGMA user_version={_VERSION}")


def _add_columns(database: sqlite3.Connection) -> None:
    """Tables that an earlier d3bed made get the columns that they lack; their rows have NULL there."""
    with contextlib.closing(sqlite3.connect(":memory:")) as fresh:
        fresh.executescript(_SCHEMA)
        wanted = {table: _columns(fresh, table) for table in KEPT}
    for table, columns in wanted.items():
        for name in columns.keys() - _columns(database, table).keys():
            database.execute(f"ALTER TABLE {table} ADD COLUMN {name} {columns[name]}")


def _columns(database: sqlite3.Connection, table: str) -> dict[str, str]:
    return {name: kind for _, name, kind, *_ in database.execute(f"PRAGMA table_info({table})")}


def prune(database: sqlite3.Connection, retention: Retention, now_s: float) -> None:
    """Delete what is over the limits. `now_s`: seconds since 1970."""
    for table, kept in KEPT.items():
        # Where rows are not replaced there is none missing between two: nobody has to count half a million.
        last = (
            f"SELECT rowid FROM {table} ORDER BY rowid DESC LIMIT 1 OFFSET {kept}"
            if table in _REPLACED
            else f"SELECT max(rowid) - {kept} FROM {table}"
        )
        database.execute(f"DELETE FROM {table} WHERE rowid <= ({last})")
    oldest_s = now_s - retention.days * 86_400
    for table, column in _BULK.items():
        # The first row that is young enough ends the search: most often the first one looked at.
        database.execute(
            f"DELETE FROM {table} WHERE rowid < coalesce((SELECT rowid FROM {table}"
            f" WHERE {column} >= ? ORDER BY rowid LIMIT 1), (SELECT max(rowid) + 1 FROM {table}))",
            (oldest_s,),
        )
    while _used_bytes(database) > retention.bytes and _thin(database):
        pass


def _used_bytes(database: sqlite3.Connection) -> int:
    size, pages, free = (
        int(database.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_size", "page_count", "freelist_count")
    )
    return size * (pages - free)


def _thin(database: sqlite3.Connection) -> bool:
    """Delete the oldest tenth of all bulk; whether there was any."""
    deleted = 0
    for table in _BULK:
        deleted += database.execute(
            f"DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {table} ORDER BY rowid"
            f" LIMIT (SELECT (count(*) + 9) / 10 FROM {table}))"
        ).rowcount
    return deleted > 0
