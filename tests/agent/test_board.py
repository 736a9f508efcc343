"""Boards tell what they can: a folder stands for the file system of a board that is throttled."""

from __future__ import annotations

import math
import time
from pathlib import Path

import psutil
import pytest

from d3bed.agent.board import Board, facts


def write(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n")


PI = "sys/devices/platform/soc/soc:firmware/get_throttled"
CPU = "sys/devices/system/cpu/cpu0"


def test_this_machine_tells_its_load_and_what_the_agent_takes_of_it() -> None:
    board, started_s = Board(), time.monotonic()
    until_s = time.process_time() + 0.2
    while time.process_time() < until_s:
        math.sqrt(2.0)
    sample = board.sample(report_s=0.0, sending_bytes=7)
    assert 0.0 < sample.load <= 1.0 and 0.0 < sample.memory < 1.0
    least = 0.2 / (time.monotonic() - started_s)  # of a core, however busy the others keep it
    assert 0.9 * least < sample.own_cores <= (psutil.cpu_count() or 1) + 0.5
    assert sample.sending_bytes == 7
    assert sample.temperature_c is None or 0 < sample.temperature_c < 150


def test_reporting_is_told_as_a_share_of_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    board = Board()
    now_s[0] = 102.0
    assert board.sample(0.01, 0).report_cores == pytest.approx(0.005)
    now_s[0] = 103.0
    assert board.sample(0.03, 0).report_cores == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("0", ""),
        ("50000", ""),  # it was, but is not now
        ("50005", "its voltage is too low, throttled"),
        ("8", "near its temperature limit"),
        ("", ""),
    ],
)
def test_raspberry_pi_says_so_itself(tmp_path: Path, flags: str, words: str) -> None:
    write(tmp_path, PI, flags)
    assert Board(tmp_path).sample(0.0, 0).throttled == words


def test_processor_that_was_too_hot_since_the_last_sample_is_throttled(tmp_path: Path) -> None:
    write(tmp_path, f"{CPU}/thermal_throttle/core_throttle_count", "4")
    board = Board(tmp_path)
    assert board.sample(0.0, 0).throttled == ""
    write(tmp_path, f"{CPU}/thermal_throttle/core_throttle_count", "6")
    assert board.sample(0.0, 0).throttled == "its processor was too hot"
    assert board.sample(0.0, 0).throttled == ""


@pytest.mark.parametrize(("load", "throttled"), [(95.0, True), (20.0, False)])
def test_busy_board_below_its_base_frequency_is_throttled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: float, throttled: bool
) -> None:
    monkeypatch.setattr(psutil, "cpu_percent", lambda: load)
    write(tmp_path, f"{CPU}/cpufreq/base_frequency", "2400000")
    write(tmp_path, f"{CPU}/cpufreq/scaling_cur_freq", "1200000")
    sample = Board(tmp_path).sample(0.0, 0)
    assert sample.frequency_hz == 1.2e9
    assert sample.throttled == ("runs at 1.2 of 2.4 GHz though it is busy" if throttled else "")


def test_board_tells_what_it_is(tmp_path: Path) -> None:
    write(tmp_path, "proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0")
    write(tmp_path, "proc/cpuinfo", "processor\t: 0\nmodel name\t: ARMv8 Processor rev 3 (v8l)")
    found = facts(tmp_path)
    assert (found.name, found.processor) == ("Raspberry Pi 4 Model B Rev 1.4", "ARMv8 Processor rev 3 (v8l)")
    assert found.cores >= 1
    assert found.memory_bytes == psutil.virtual_memory().total
    assert facts(tmp_path / "nothing").name  # the host's name has to do
