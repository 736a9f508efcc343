"""What outlives the server: an SQLite database, written by a thread of its own.

Rows are queued and committed together, at most `COMMIT_S` later (at once if urgent). WAL mode with
`synchronous=NORMAL`: killing the process loses at most what was not committed and never corrupts.
How much is kept says `schema`. One server per directory: a lock file guards it.

Whatever becomes of the disk while the server runs, nobody waits for it. A full or failing disk, or a
database that was deleted or replaced: the rows wait (the newest `QUEUED` of them), the database is
opened, or made, again every `RETRY_S`, and `watch` hears of it, of trouble at most once in `TELL_S`.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import sqlite3
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import msgspec

from d3bed.core.errors import ConfigError
from d3bed.core.ids import Epoch
from d3bed.server.events import StoreFailed, StoreRecovered
from d3bed.server.schema import Retention, create, prune

__all__ = ["COMMIT_S", "QUEUED", "RETRY_S", "TELL_S", "Store", "held", "read_rows"]

logger = logging.getLogger(__name__)

COMMIT_S = 0.5
RETRY_S = 1.0
TELL_S = 60.0
#: Rows that wait while the database cannot be written; then the oldest are lost, and counted.
QUEUED = 20_000
#: Limits are enforced, and the file is looked at, this often; limits also after so many rows.
_CHECK_S = 2.0
_PRUNE_S, _PRUNE_ROWS = 60.0, 1_000
#: So many rows are written by one statement: after each the thread waits for its turn on the interpreter, and
#: keeps the event loop from its own. With 12 columns each, any SQLite takes as many values.
_TOGETHER = 64
_PLAIN = (str, int, float, bytes, type(None))
#: Primary result codes of SQLite that tell of the database or its disk, not of the row.
_TROUBLE = frozenset(
    {
        sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOTADB,
    }
)  # fmt: skip


class _Gone(OSError):
    """The database's files are not those that were opened."""


class _Row(msgspec.Struct, frozen=True):
    table: str
    values: dict[str, object]


class Store:
    """Opens (and makes) `directory`. Raises `ConfigError` if it is in use, unreadable or broken."""

    def __init__(self, directory: Path, retention: Retention = Retention()) -> None:  # noqa: B008
        self.path = directory / "d3bed.sqlite3"
        self._retention = retention
        self._lock = _lock(directory)
        try:
            self._database = self._open()
            self.boot = self._meta("boot") + 1
            self.last_epoch = Epoch(self._meta("last_epoch"))
            self._end_open_runs()
            self._set_meta()
            prune(self._database, retention, time.time())
            self._database.commit()
        except sqlite3.DatabaseError as error:
            self._lock.close()
            raise ConfigError(str(self.path), "", f"cannot be used ({error})", "move it away") from error
        self._file = self.path.stat().st_ino
        self._changed = threading.Condition()
        self._rows: deque[_Row] = deque()
        self._urgent = self._closing = False
        self._listener: Callable[[StoreFailed | StoreRecovered], object] | None = None
        self._failed = self._told = self._remade = False
        self._told_s = -TELL_S
        self._lost = 0
        self._thread = threading.Thread(target=self._write, name="store", daemon=True)
        self._thread.start()

    def watch(self, listener: Callable[[StoreFailed | StoreRecovered], object] | None) -> None:
        """`listener` is called on the store's thread, and must neither block nor raise."""
        self._listener = listener

    def put(self, table: str, row: dict[str, object], *, urgent: bool = False) -> None:
        """Queue a row; never waits for the disk. A row of equal primary key is replaced."""
        with self._changed:
            self._rows.append(_Row(table, row))
            self._bound()
            self._urgent |= urgent
            if len(self._rows) == 1 or self._urgent:
                self._changed.notify()

    @property
    def is_failing(self) -> bool:
        """Whether what is put now waits for a disk, or for a database that can be written."""
        return self._failed

    def close(self) -> None:
        """Write and commit what is queued, if that is possible."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        self._database.close()
        self._lock.close()

    def read(self, sql: str, *values: object) -> list[dict[str, Any]]:
        """Run a query on a connection of its own; call it off the event loop. JSON columns stay text."""
        return read_rows(self.path, sql, *values)

    # ── the writing thread ────────────────────────────────────────────────────────────────────────

    def _write(self) -> None:
        prune_at_s, written = time.monotonic() + _PRUNE_S, 0
        while True:
            rows, closing = self._take()
            try:
                if self._failed:
                    self._reopen()
                self._check_file()
                self._insert_all(rows)
                written += len(rows)
                if written >= _PRUNE_ROWS or time.monotonic() >= prune_at_s:
                    prune(self._database, self._retention, time.time())
                    prune_at_s, written = time.monotonic() + _PRUNE_S, 0
                self._database.commit()
            except (sqlite3.Error, OSError, ConfigError) as error:
                self._trouble(error, rows, closing)
            else:
                if self._failed or self._lost:
                    self._recovered()
            if closing:
                return

    def _take(self) -> tuple[list[_Row], bool]:
        """What is to be written now, once there is something, it had time to pile up, or time is up."""
        with self._changed:
            if self._failed:
                self._changed.wait_for(lambda: self._closing, RETRY_S)
            else:
                self._changed.wait_for(lambda: self._rows or self._closing, _CHECK_S)
                if self._rows:
                    self._changed.wait_for(lambda: self._urgent or self._closing, COMMIT_S)
            rows = list(self._rows)
            self._rows.clear()
            self._urgent = False
            return rows, self._closing

    def _insert_all(self, rows: Iterable[_Row]) -> None:
        """Table by table, each in order."""
        of_table: defaultdict[str, list[_Row]] = defaultdict(list)
        for row in rows:
            of_table[row.table].append(row)
        for mine in of_table.values():
            for _, group in itertools.groupby(mine, key=lambda row: tuple(row.values)):
                alike = list(group)
                for at in range(0, len(alike), _TOGETHER):
                    self._insert(alike[at : at + _TOGETHER])

    def _insert(self, rows: Sequence[_Row]) -> None:
        """Rows of one table, of the same columns, by one statement."""
        table, columns = rows[0].table, rows[0].values
        names, marks = ", ".join(columns), f"({', '.join('?' * len(columns))})"
        sql = f"INSERT OR REPLACE INTO {table} ({names}) VALUES {', '.join([marks] * len(rows))}"
        try:
            self._database.execute(sql, [_plain(value) for row in rows for value in row.values.values()])
            if table == "epochs":
                for row in rows:
                    epoch = row.values["epoch"]
                    assert isinstance(epoch, int)
                    self.last_epoch = Epoch(max(self.last_epoch, epoch))
                self._set_meta()
        except sqlite3.Error as error:
            if _is_trouble(error):
                raise
            if len(rows) == 1:
                logger.exception("a row of %s is lost", table)
                return
            for row in rows:
                self._insert([row])

    # ── trouble ───────────────────────────────────────────────────────────────────────────────────

    def _check_file(self) -> None:
        """Raise `_Gone` if others would not see what is written: SQLite goes on in deleted files."""
        log = self.path.with_name(f"{self.path.name}-wal")
        try:
            if self.path.stat().st_ino == self._file and log.exists():
                return
        except FileNotFoundError:
            pass
        raise _Gone(f"{self.path.name} was deleted or replaced")

    def _trouble(self, error: Exception, rows: list[_Row], closing: bool) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._database.rollback()
        with self._changed:
            self._rows.extendleft(reversed(rows))
            self._bound()
        self._failed = True
        now_s = time.monotonic()
        if now_s - self._told_s >= TELL_S:
            self._told, self._told_s = True, now_s
            logger.error("%s: %s", self.path, error)
            self._tell(StoreFailed(f"{self.path}: {error}"))
        if closing:
            logger.error("%s: %d rows are lost", self.path, self._lost + len(self._rows))

    def _bound(self) -> None:
        while len(self._rows) > QUEUED:
            self._rows.popleft()
            self._lost += 1

    def _reopen(self) -> None:
        """Another connection; what the disk lacks is made. Raises what stands in the way."""
        with contextlib.suppress(sqlite3.Error):
            self._database.close()
        lock = self.path.with_name("lock")
        if not lock.exists():
            self._lock.close()
            self._lock = _lock(self.path.parent)
        is_new = not self.path.exists()
        if is_new:  # what is left of the old one's log would be taken for the new one's
            for end in ("-wal", "-shm"):
                self.path.with_name(self.path.name + end).unlink(missing_ok=True)
        self._database = self._open()
        self._set_meta()
        self._database.commit()
        self._file = self.path.stat().st_ino
        self._remade |= is_new

    def _recovered(self) -> None:
        """The first commit after trouble, or after rows were lost, has succeeded."""
        self._failed = False
        if self._told or self._remade or self._lost:
            logger.warning("%s: written again, %d rows are lost", self.path, self._lost)
            self._tell(StoreRecovered(self._lost, self._remade))
        self._told = self._remade = False
        with self._changed:
            self._lost = 0

    def _tell(self, news: StoreFailed | StoreRecovered) -> None:
        if self._listener is not None:
            self._listener(news)

    # ── opening ───────────────────────────────────────────────────────────────────────────────────

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, check_same_thread=False)
        try:
            create(database)
        except BaseException:
            database.close()
            raise
        return database

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

    def _set_meta(self) -> None:
        for key, value in (("boot", self.boot), ("last_epoch", self.last_epoch)):
            self._database.execute(
                "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = max(value, ?2)",
                (key, value),
            )


def read_rows(path: Path, sql: str, *values: object) -> list[dict[str, Any]]:
    """Run a query on a store, of a running server or not, without changing it. Raises `sqlite3.Error`."""
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute(sql, values)]


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Keep servers from using the directory. Raises `ConfigError` if one does."""
    lock = _lock(directory)
    try:
        yield
    finally:
        lock.close()


def _plain(value: object) -> object:
    """What SQLite knows stays; all else becomes JSON."""
    return value if isinstance(value, _PLAIN) else msgspec.json.encode(value).decode()


def _is_trouble(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _TROUBLE


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
