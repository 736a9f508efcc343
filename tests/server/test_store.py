"""The store: what survives, what is kept, what it refuses."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from d3bed.core.errors import ConfigError
from d3bed.core.ids import Epoch
from d3bed.server import store as store_module
from d3bed.server.store import Store

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
        sys.stdout.write(f"{number} {time.time()}\\n")
        sys.stdout.flush()
        time.sleep(0.005)
"""


def test_rows_are_there_again_after_closing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("plans", {"at_s": 1.0, "pipeline": "demo", "route": {"device": "pi-1"}})
    store.put("epochs", {"epoch": 7, "pipeline": "demo"})
    store.close()
    store = Store(tmp_path)
    assert (store.boot, store.last_epoch) == (2, Epoch(7))
    (row,) = store.read("SELECT * FROM plans")
    assert (row["pipeline"], row["route"]) == ("demo", '{"device":"pi-1"}')
    store.close()


def test_a_run_that_a_killed_server_left_open_ends_with_the_last_sign_of_life(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number, ended_s in ((1, 12.0), (2, None)):
        view = {"id": f"r{number}", "ended_s": ended_s}
        store.put("runs", {"id": f"r{number}", "started_s": 10.0, "ended_s": ended_s, "view": view})
    store.put("events", {"at_s": 34.5, "cause_id": "c", "kind": "note", "data": {}})
    store.close()
    store = Store(tmp_path)
    rows = store.read("SELECT ended_s, view FROM runs ORDER BY id")
    assert [row["ended_s"] for row in rows] == [12.0, 34.5]
    assert [json.loads(row["view"]) for row in rows] == [
        {"id": "r1", "ended_s": 12.0},
        {"id": "r2", "ended_s": 34.5, "cut": True},
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


@pytest.mark.processes
def test_kill_loses_at_most_the_last_second_and_corrupts_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    written: list[tuple[int, float]] = []
    deadline = time.monotonic() + 30
    while (not written or written[-1][1] - written[0][1] < 2.5) and time.monotonic() < deadline:
        number, at_s = process.stdout.readline().split()
        written.append((int(number), float(at_s)))
    killed_at_s = time.time()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    database = sqlite3.connect(tmp_path / "d3bed.sqlite3")
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    store = Store(tmp_path)
    (row,) = store.read("SELECT count(*) AS n, max(at_s) AS at_s FROM events")
    assert row["n"] >= 1 and killed_at_s - row["at_s"] <= 1.0
    assert store.last_epoch >= max(n for n, at_s in written if at_s < killed_at_s - 1.0) - 50
    store.close()


def test_urgent_row_is_committed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "COMMIT_S", 3600.0)
    store = Store(tmp_path)
    store.put("events", {"at_s": 1.0})
    store.put("epochs", {"epoch": 3}, urgent=True)
    deadline = time.monotonic() + 10
    while not store.read("SELECT epoch FROM epochs") and time.monotonic() < deadline:
        os.sched_yield()
    assert store.read("SELECT epoch FROM epochs") == [{"epoch": 3}]
    assert len(store.read("SELECT id FROM events")) == 1
    store.close()


def test_old_rows_are_pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(store_module.KEPT, "events", 10)
    store = Store(tmp_path)
    for number in range(2500):
        store.put("events", {"at_s": float(number)})
    store.close()
    store = Store(tmp_path)
    rows = store.read("SELECT at_s FROM events ORDER BY id")
    assert [row["at_s"] for row in rows] == [float(number) for number in range(2490, 2500)]
    store.close()


def test_row_that_does_not_fit_is_logged_and_the_next_is_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path)
    store.put("events", {"no_such_column": 1})
    store.put("events", {"at_s": 2.0})
    store.close()
    assert "a row of events is lost" in caplog.text
    store = Store(tmp_path)
    assert len(store.read("SELECT id FROM events")) == 1
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
