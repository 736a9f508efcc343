"""The store: what survives, what is kept, what it refuses."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from d3bed.core.errors import ConfigError
from d3bed.core.ids import Epoch
from d3bed.server import schema
from d3bed.server import store as store_module
from d3bed.server.events import StoreFailed, StoreRecovered
from d3bed.server.schema import Retention
from d3bed.server.store import Store, read_rows

News = StoreFailed | StoreRecovered

#: A disk that is full, for this process alone: its files may not grow past a limit, which is then lifted.
FULL_DISK = """
import resource, signal, sys, time
from pathlib import Path
from d3bed.server import store as module
from d3bed.server.store import Store
module.RETRY_S = 0.05
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = Store(Path(sys.argv[1]))
store.watch(lambda news: print(type(news).__name__, getattr(news, "lost", ""), flush=True))
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
for number in range(3000):
    store.put("spans", {"frame": number, "at_s": time.time(), "data": b"x" * 1000})
print("put", flush=True)  # although nothing can be written
sys.stdin.readline()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
sys.stdin.readline()
store.close()
"""

WRITER = """
import sys, time
from pathlib import Path
from d3bed.server.store import Store
store = Store(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    store.put("events", {"at_s": time.time(), "cause_id": "c", "kind": "note", "data": {"n": number}})
    if number % 50 == 0:
        store.put("epochs", {"epoch": number, "pipeline": "demo"}, urgent=number % 100 == 0)
        print(number, flush=True)
        time.sleep(0.005)
"""


def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s
        os.sched_yield()


def count(store: Store, table: str) -> int:
    return int(store.read(f"SELECT count(*) AS n FROM {table}")[0]["n"])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that tries again, and looks at its file, without waiting long."""
    for name in ("COMMIT_S", "RETRY_S", "_CHECK_S"):
        monkeypatch.setattr(store_module, name, 0.02)


def test_rows_are_there_again_after_closing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("plans", {"at_s": time.time(), "pipeline": "demo", "route": {"device": "pi-1"}})
    store.put("epochs", {"epoch": 7, "pipeline": "demo"})
    store.close()
    store = Store(tmp_path)
    assert (store.boot, store.last_epoch) == (2, Epoch(7))
    (row,) = store.read("SELECT * FROM plans")
    assert (row["pipeline"], row["route"]) == ("demo", '{"device":"pi-1"}')
    store.close()


def test_a_run_that_a_killed_server_left_open_ends_with_the_last_sign_of_life(tmp_path: Path) -> None:
    store = Store(tmp_path)
    start_s = round(time.time())
    for number, ended_s in ((1, start_s + 2.0), (2, None)):
        view = {"id": f"r{number}", "ended_s": ended_s}
        store.put("runs", {"id": f"r{number}", "started_s": start_s, "ended_s": ended_s, "view": view})
    store.put("events", {"at_s": start_s + 24.5, "cause_id": "c", "kind": "note", "data": {}})
    store.close()
    store = Store(tmp_path)
    rows = store.read("SELECT ended_s, view FROM runs ORDER BY id")
    assert [row["ended_s"] - start_s for row in rows] == [2.0, 24.5]
    assert [json.loads(row["view"]) for row in rows] == [
        {"id": "r1", "ended_s": start_s + 2.0},
        {"id": "r2", "ended_s": start_s + 24.5, "cut": True},
    ]
    store.close()


def test_row_of_equal_key_is_replaced_and_the_last_epoch_only_grows(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for epoch, state in ((5, "active"), (4, "active"), (5, "draining")):
        store.put("epochs", {"epoch": epoch, "state": state})
    store.close()
    store = Store(tmp_path)
    assert store.last_epoch == Epoch(5)
    assert [row["state"] for row in store.read("SELECT state FROM epochs ORDER BY epoch")] == [
        "active",
        "draining",
    ]
    store.close()


def test_kill_loses_only_what_was_not_yet_written_and_corrupts_nothing(tmp_path: Path) -> None:
    """Rows are on the disk without any closing (`COMMIT_S` later at most, where the machine is not busy)."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    path = tmp_path / "d3bed.sqlite3"
    number = [int(process.stdout.readline()) for _ in range(100)][-1]
    until(lambda: read_rows(path, "SELECT ifnull(max(epoch), 0) AS n FROM epochs")[0]["n"] >= number)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    database = sqlite3.connect(path)
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    store = Store(tmp_path)
    assert store.read("SELECT count(*) AS n FROM events")[0]["n"] >= number
    assert store.last_epoch >= number
    store.close()


def test_urgent_row_is_committed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "COMMIT_S", 3600.0)
    store = Store(tmp_path)
    store.put("events", {"at_s": time.time()})
    store.put("epochs", {"epoch": 3}, urgent=True)
    deadline = time.monotonic() + 60
    while not store.read("SELECT epoch FROM epochs") and time.monotonic() < deadline:
        os.sched_yield()
    assert store.read("SELECT epoch FROM epochs") == [{"epoch": 3}]
    assert len(store.read("SELECT id FROM events")) == 1
    store.close()


def test_rows_over_the_limit_go_while_the_store_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(schema.KEPT, "events", 10)
    store = Store(tmp_path)
    now_s = time.time()
    for number in range(2500):
        store.put("events", {"at_s": now_s + number})
    until(lambda: 0 < count(store, "events") <= 10)
    rows = store.read("SELECT at_s FROM events ORDER BY id")
    assert [row["at_s"] for row in rows] == [now_s + number for number in range(2490, 2500)]
    store.close()


def test_old_rows_go_and_runs_stay(tmp_path: Path) -> None:
    store = Store(tmp_path)
    now_s = time.time()
    for age_days in (9.0, 8.0, 6.0, 0.0):
        store.put("frames", {"run": "r", "started_s": now_s - age_days * 86_400, "frame": age_days})
    store.put("runs", {"id": "r", "started_s": now_s - 9 * 86_400, "ended_s": now_s, "view": {}})
    store.close()
    store = Store(tmp_path, Retention(days=7.0))
    assert [row["frame"] for row in store.read("SELECT frame FROM frames ORDER BY id")] == [6, 0]
    assert count(store, "runs") == 1
    store.close()


def test_database_over_its_size_loses_the_oldest_bulk_and_its_file_stops_growing(tmp_path: Path) -> None:
    limit = 1_000_000
    store = Store(tmp_path, Retention(bytes=limit))
    now_s, sizes = time.time(), []
    store.put("runs", {"id": "r", "started_s": now_s, "ended_s": None, "view": {}})
    for number in range(6_000):
        store.put("spans", {"run": "r", "frame": number, "at_s": now_s, "data": b"x" * 1000})
        if number % 1000 == 999:
            wanted = [{"n": number}]
            until(lambda: store.read("SELECT max(frame) AS n FROM spans") == wanted)  # noqa: B023
            sizes.append(store.path.stat().st_size)
    (row,) = store.read("SELECT min(frame) AS first, max(frame) AS last, count(*) AS n FROM spans")
    assert row["last"] == 5999 and row["first"] == 6000 - row["n"] > 0
    assert count(store, "runs") == 1
    assert max(sizes) < 3.5 * limit
    store.close()
    store = Store(tmp_path, Retention(bytes=limit))
    assert 100 < count(store, "spans") < 1000
    store.close()


def test_row_that_does_not_fit_is_logged_and_the_next_is_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path)
    store.put("events", {"no_such_column": 1})
    store.put("events", {"at_s": time.time()})
    store.close()
    assert "a row of events is lost" in caplog.text
    store = Store(tmp_path)
    assert len(store.read("SELECT id FROM events")) == 1
    store.close()


def test_one_row_that_does_not_fit_takes_none_of_those_written_with_it_along(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path)
    for boot in (*range(100, 200), "no number", *range(200, 300)):
        store.put("servers", {"boot": boot, "at_s": 1.0})
    store.close()
    assert [row["boot"] for row in store.read("SELECT boot FROM servers ORDER BY boot")] == [*range(100, 300)]
    assert caplog.text.count("a row of servers is lost") == 1


def test_rows_with_keys_of_their_own_are_counted_not_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(schema.KEPT, "epochs", 3)
    store = Store(tmp_path)
    for epoch in (10, 20, 30, 40):
        store.put("epochs", {"epoch": epoch})
    store.close()
    store = Store(tmp_path)  # limits hold from the start
    assert [row["epoch"] for row in store.read("SELECT epoch FROM epochs ORDER BY epoch")] == [20, 30, 40]
    for table in schema.KEPT:
        columns = store.read(f"PRAGMA table_info({table})")
        numbered = any((c["name"], c["type"], c["pk"]) == ("id", "INTEGER", 1) for c in columns)
        assert numbered == (table not in schema._REPLACED), table
    store.close()


def test_second_server_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(ConfigError, match="another server uses it"):
        Store(tmp_path)
    store.close()
    Store(tmp_path).close()


def test_broken_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "d3bed.sqlite3").write_bytes(b"this is no database, and long enough to be seen as such" * 20)
    with pytest.raises(ConfigError, match=r"d3bed\.sqlite3: cannot be used"):
        Store(tmp_path)


def test_database_of_another_version_is_refused(tmp_path: Path) -> None:
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / "d3bed.sqlite3") as database:
        database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(ConfigError, match="version 99"):
        Store(tmp_path)


def test_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="data_dir"):
        Store(tmp_path / "file" / "data")


# ── what may become of a disk ─────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_deleted_database_is_made_again_and_numbers_go_on(tmp_path: Path, what: str) -> None:
    store = Store(tmp_path / "data")
    news: list[News] = []
    store.watch(news.append)
    store.put("epochs", {"epoch": 7}, urgent=True)
    until(lambda: count(store, "epochs") == 1)
    if what == "folder":
        shutil.rmtree(tmp_path / "data")
    else:
        store.path.unlink()
    store.put("frames", {"run": "r", "frame": 1, "started_s": time.time()})
    until(lambda: news[-1:] == [StoreRecovered(0, True)])
    assert [type(one) for one in news] == [StoreFailed, StoreRecovered]
    assert isinstance(news[0], StoreFailed) and "deleted" in news[0].problem
    assert count(store, "frames") == 1
    with pytest.raises(ConfigError, match="another server uses it"):
        Store(tmp_path / "data")
    store.close()
    store = Store(tmp_path / "data")
    assert (store.boot, store.last_epoch) == (2, Epoch(7))
    store.close()


@pytest.mark.usefixtures("quick")
def test_deleted_database_is_noticed_though_nothing_is_written(tmp_path: Path) -> None:
    store = Store(tmp_path)
    news: list[News] = []
    store.watch(news.append)
    store.path.unlink()
    until(lambda: len(news) == 2)
    assert store.path.exists()
    store.close()


@pytest.mark.usefixtures("quick")
def test_trouble_is_told_once_a_minute_and_the_newest_rows_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "QUEUED", 100)
    store = Store(tmp_path)
    news: list[News] = []
    store.watch(news.append)
    store.path.unlink()
    store.path.mkdir()  # nothing can be opened there
    for number in range(150):
        store.put("frames", {"run": "r", "frame": number, "started_s": time.time()})
    tried: list[int] = []
    real = store._open

    def open_again() -> sqlite3.Connection:
        tried.append(1)
        return real()

    monkeypatch.setattr(store, "_open", open_again)
    until(lambda: store._lost == 50 and len(tried) >= 3)
    assert len(news) == 1
    monkeypatch.setattr(store_module, "TELL_S", 0.0)
    until(lambda: len(news) >= 3)
    assert {type(one) for one in news} == {StoreFailed}
    store.path.rmdir()
    until(lambda: isinstance(news[-1], StoreRecovered))
    assert news[-1] == StoreRecovered(50, True)
    rows = store.read("SELECT frame FROM frames ORDER BY id")
    assert [row["frame"] for row in rows] == list(range(50, 150))
    store.close()


def test_full_disk_holds_nobody_up_and_nothing_is_lost_once_there_is_room(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    said = [process.stdout.readline().split() for _ in range(2)]
    assert sorted(line[0] for line in said) == ["StoreFailed", "put"]
    process.stdin.write("room\n")
    process.stdin.flush()
    assert process.stdout.readline().split() == ["StoreRecovered", "0"]
    process.communicate("end\n", timeout=30)
    store = Store(tmp_path)
    assert count(store, "spans") == schema.KEPT["spans"] == 3000
    store.close()


def test_database_of_an_earlier_version_gets_the_columns_that_it_lacks(tmp_path: Path) -> None:
    Store(tmp_path).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "d3bed.sqlite3")) as database:
        database.execute("ALTER TABLE frames DROP COLUMN waited_s")
        database.execute("INSERT INTO frames (run, frame, started_s) VALUES ('r', 1, ?)", (time.time(),))
        database.commit()
    store = Store(tmp_path)
    store.put("frames", {"run": "r", "frame": 2, "started_s": time.time(), "waited_s": 0.5})
    store.close()
    store = Store(tmp_path)
    assert [row["waited_s"] for row in store.read("SELECT waited_s FROM frames ORDER BY id")] == [None, 0.5]
    store.close()


def test_folder_may_have_any_name(tmp_path: Path) -> None:
    store = Store(tmp_path / "a b#c?d%20e")
    store.put("frames", {"run": "r", "frame": 1, "started_s": time.time()}, urgent=True)
    until(lambda: count(store, "frames") == 1)
    store.close()
