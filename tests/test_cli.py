"""The command line: help that teaches, one-line errors, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from d3bed import __version__
from d3bed.plan import STRATEGIES
from tests import forked

PROBLEM = {
    "format": "d3bed.problem/1",
    "vertices": [
        {"name": "input", "time_s": {"device": 0, "edge": 0, "cloud": 0}, "output_bytes": 150528},
        {"name": "conv1", "time_s": {"device": 0.3, "edge": 0.02, "cloud": 0.001}, "output_bytes": 80000},
        {"name": "fc", "time_s": {"device": 0.3, "edge": 0.02, "cloud": 0.001}, "output_bytes": 4000},
    ],
    "edges": [[0, 1], [1, 2]],
    "links": {
        "device-edge": {"bytes_per_s": 1e7, "latency_s": 0.002},
        "edge-cloud": {"bytes_per_s": 4e5, "latency_s": 0.010},
    },
    "result_bytes": 4000,
}


def d3bed(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    needs = "d3bed.lab.plan_show d3bed.lab.client scipy.optimize"
    return forked.run(*arguments, folder=folder, columns=160, imported=needs)


def test_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "d3bed", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"d3bed {__version__}"


@pytest.mark.parametrize(
    ("command", "teaches"),
    [
        ((), ("demo", "plan", "server", "agent", "strategy", "bench")),
        (("demo",), ("--model", "--network", "--strategy", "--frames", "--headless", "--report", "--port")),
        (("plan",), ("--problem", "--save-problem", "--json", "--objective", "throughput", *STRATEGIES)),
        (("bench",), ("wire", "plan", "adapt", "predict", "predictor")),
        (("link",), ("--rate", "--delay", "--both")),
    ],
)
def test_help_names_what_there_is(command: tuple[str, ...], teaches: tuple[str, ...]) -> None:
    done = d3bed(*command, "--help")
    assert done.returncode == 0
    assert all(word in done.stdout for word in teaches)
    assert "\x1b[" not in done.stdout


def test_plan_of_a_problem_file_as_json(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps(PROBLEM))
    done = d3bed("plan", "--problem", "p.json", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert set(answer) == {"strategy", "assignment", "cost_s", "plan_time_s", "link_bytes"}
    assert answer["assignment"] == {"input": "device", "conv1": "edge", "fc": "edge"}
    photo_s, result_s = 0.002 + 150528 / 1e7, 0.002 + 4000 / 1e7
    assert answer["cost_s"] == pytest.approx(photo_s + 0.04 + result_s)
    assert answer["link_bytes"]["device-edge"] == 154528


def test_a_saved_problem_gives_the_same_plan(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps(PROBLEM))
    first = d3bed("plan", "--problem", "p.json", "--json", "--save-problem", "q.json", folder=tmp_path)
    second = d3bed("plan", "--problem", "q.json", "--json", folder=tmp_path)
    assert json.loads(first.stdout)["cost_s"] == json.loads(second.stdout)["cost_s"]


def test_plan_prints_tiers_and_cost_in_words(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps(PROBLEM))
    done = d3bed("plan", "--problem", "p.json", "--strategy", "cloud", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "predicted cost" in done.stdout and "cloud" in done.stdout


def test_a_missing_server_is_said_in_one_line() -> None:
    done = d3bed("strategy", "edge", "--server", "http://127.0.0.1:1")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "no d3bed server answers" in done.stderr


def test_networks_lists_the_presets() -> None:
    done = d3bed("networks")
    assert done.returncode == 0
    assert "wifi" in done.stdout and "lte" in done.stdout


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("load", "edge-1", "--cpu", "2", "--for", "0s"), ("--for", "0s", "30s")),
        (("link", "a", "b", "--loss", "80%"), ("--loss", "80%", "50%")),
        (("link", "a", "b"), ("--rate", "--delay", "--loss")),
        (("frames",), ("--rate", "--free")),
    ],
)
def test_a_change_that_makes_no_sense_is_refused_before_a_server_is_asked(
    command: tuple[str, ...], says: tuple[str, ...]
) -> None:
    done = d3bed(*command, "--server", "http://127.0.0.1:1")
    assert done.returncode == 2
    assert all(word in done.stderr for word in says), done.stderr
