"""Comparisons really run: a testbed per input, rows that were there are kept, files at the end."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import psutil
import pytest
from rich.console import Console

from d3bed.bench.compare import report
from d3bed.bench.compare.grid import Asked, Results, Row, ways
from d3bed.bench.compare.run import Request, machine, measure
from d3bed.bench.compare.setting import read_setting
from d3bed.config import data_dir
from d3bed.core.errors import ConfigError
from tests.bench.compare.made import single, stream

pytestmark = [pytest.mark.sockets, pytest.mark.processes, pytest.mark.timeout(600)]


def test_what_is_missing_is_measured_and_what_is_there_is_kept(tmp_path: Path) -> None:
    setting = read_setting(data_dir("configs") / "compare.toml", 2)
    asked = Asked(
        models=("alexnet",),
        networks=("wifi", "5g"),
        strategies=("edge", "dads", "optimal"),
        edges=2,
        frames=3,
        streams=True,
        testbed="compare.toml",
    )
    # The way to the edge is the same over Wi-Fi and over 5G.
    crossed = {"device-edge": 154528.0}
    one = msgspec.structs.replace(single(0.2, 0.0, "made"), link_bytes=crossed)
    many = msgspec.structs.replace(stream(5.0), link_bytes=crossed)
    there = [
        Row(model="alexnet", network="wifi", way=way, single=one, stream=many, commit="before")
        for way in ways(asked.strategies)
    ]
    begun = Results(
        how="measured",
        asked=asked,
        machine=machine(),
        emulated=setting.emulated(asked.networks),
        rows=tuple(there),
        complete=False,
    )
    report.write(tmp_path, begun)
    request = Request(asked, setting, tmp_path, tmp_path / "cache")
    with (tmp_path / "said.txt").open("w") as said:
        found = measure(request, Console(file=said, width=200), lambda text: None)

    assert found.complete and found == report.read(tmp_path)
    assert list(found.rows[: len(there)]) == there
    rows = {row.way.name: row for row in found.rows[len(there) :]}
    assert list(rows) == ["edge", "dads", "dads*", "optimal"]
    assert rows["edge"].single == msgspec.structs.replace(one, same_as="edge over wifi")
    assert rows["edge"].stream == msgspec.structs.replace(many, same_as="edge over wifi")
    assert rows["dads"].commit != "before" and rows["dads"].at
    ours, theirs = rows["dads"].single, rows["dads*"].single
    assert ours is not None and theirs is not None
    for each in (ours, theirs):
        assert each.median_s and each.low_s and each.high_s and each.low_s <= each.median_s <= each.high_s
        assert each.frames == 3 and each.identical is True
    # The float32 tensor is four times the photo; what else crosses is the result.
    photo = 3 * 224 * 224
    assert ours.link_bytes["device-edge"] == pytest.approx(photo + 4000)
    assert theirs.link_bytes["device-edge"] == pytest.approx(4 * photo + 4000)
    assert theirs.predicted_s > ours.predicted_s
    # Where the optimal plan of a frame is that of DADS it is measured once; on a busy machine, whose agents
    # seem to get slower from run to run, it may be another one. In a stream it is a mix of plans.
    best = rows["optimal"].single
    assert best is not None
    assert (best == msgspec.structs.replace(ours, same_as="dads")) is (best.plan == ours.plan)
    fast, slow = rows["optimal"].stream, rows["dads"].stream
    assert fast is not None and slow is not None and fast.per_s and slow.per_s
    assert fast.plans >= slow.plans == 1 and fast.frames > 0 and slow.identical is True
    page = (tmp_path / "report.html").read_text()
    assert "Not complete" not in page and "every answer checked" in page
    shown = (tmp_path / "said.txt").read_text()
    assert "min left" in shown and "alexnet over 5g, optimal:" in shown

    with pytest.raises(ConfigError, match="another comparison"):
        others = msgspec.structs.replace(asked, edges=1)
        measure(Request(others, setting, tmp_path, tmp_path), Console(file=None), lambda text: None)


def test_the_quick_grid_cut_short_goes_on_where_it_was(tmp_path: Path) -> None:
    """`--quick` as its user meets it: the command, Ctrl-C in the middle, and the same command again."""
    command = [sys.executable, "-m", "d3bed", "compare", "--quick", "--out", "quick"]
    with (tmp_path / "said.txt").open("w") as said:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=said, stderr=said)
        try:
            deadline_s = time.monotonic() + 400
            while not (rows := _rows(tmp_path / "quick")):
                assert process.poll() is None, (tmp_path / "said.txt").read_text()
                assert time.monotonic() < deadline_s, "no row yet"
                time.sleep(0.1)
            children = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGINT)
            assert process.wait(100) == 130
        finally:
            process.kill()
            process.wait()
        assert psutil.wait_procs(children, 60)[1] == [], "Ctrl-C leaves no agent"
        done = subprocess.run(command, cwd=tmp_path, stdout=said, stderr=said, check=False)
    assert done.returncode == 0, (tmp_path / "said.txt").read_text()

    found = report.read(tmp_path / "quick")
    assert found is not None and found.complete and len(found.rows) == 24
    assert all(row in found.rows for row in rows) and len(rows) < 24
    measured = [row.single for row in found.rows if row.single is not None]
    assert len(measured) == 24 and all(one.identical is True and one.median_s for one in measured)
    with (tmp_path / "quick" / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 24
    assert "optimal+vsm" in (tmp_path / "quick" / "table.md").read_text()
    assert "every answer checked" in (tmp_path / "quick" / "report.html").read_text()


def _rows(out: Path) -> tuple[Row, ...]:
    found = report.read(out)
    return () if found is None else found.rows
