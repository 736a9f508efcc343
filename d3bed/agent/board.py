"""How the board does that this agent runs on: load, memory, temperature, and whether it is throttled.

Linux tells it in files, where it tells it at all; psutil reads most of them. A board counts as throttled if
its firmware says so (Raspberry Pi), if its processor's throttle counters grew since the last sample (x86),
or if it runs below its base frequency though it is busy. A sample takes about a millisecond: call it on a
thread.
"""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

import psutil

from d3bed.core.measurements import BoardFacts, BoardSample

__all__ = ["SAMPLE_S", "Board", "facts"]

SAMPLE_S = 1.0
#: The Raspberry Pi's flags for now, by bit; higher bits tell of the past.
_PI_FLAGS = ("its voltage is too low", "its frequency is capped", "throttled", "near its temperature limit")
_PI = "sys/devices/platform/soc/soc:firmware/get_throttled"
_CPU = "sys/devices/system/cpu/cpu0"
#: Busy boards below this share of their base frequency are throttled.
_LEAST_FREQUENCY, _BUSY = 0.9, 0.8


#: Where boards tell what they are called: ARM boards, PCs and virtual machines.
_NAMES = ("proc/device-tree/model", "sys/class/dmi/id/product_name")


def facts(root: Path = Path("/")) -> BoardFacts:
    """What the board is, as far as it tells."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    named = (_text(root / name).strip("\0 \n") for name in _NAMES)
    lines = _text(root / "proc/cpuinfo").splitlines()
    processors = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return BoardFacts(
        name=next(filter(None, named), platform.node())[:80],
        processor=next(processors, platform.processor() or platform.machine())[:80],
        cores=cores,
        memory_bytes=int(psutil.virtual_memory().total),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


class Board:
    """`root`: where the file system begins."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._process = psutil.Process()
        self._last_s = time.monotonic()
        self._own_s = self._own_cpu_s()
        self._report_s = 0.0
        self._throttle_count = self._read_count()
        psutil.cpu_percent()  # loads are told since the last call

    def sample(self, report_s: float, sending_bytes: int) -> BoardSample:
        """`report_s`: CPU seconds that telling the server has taken so far."""
        now_s, own_s = time.monotonic(), self._own_cpu_s()
        since_s = max(1e-3, now_s - self._last_s)
        load = psutil.cpu_percent() / 100
        frequency_hz = self._frequency_hz()
        found = BoardSample(
            load=round(load, 3),
            own_cores=round((own_s - self._own_s) / since_s, 3),
            report_cores=round((report_s - self._report_s) / since_s, 5),
            memory=round(psutil.virtual_memory().percent / 100, 3),
            sending_bytes=sending_bytes,
            temperature_c=_temperature_c(),
            frequency_hz=frequency_hz,
            throttled=self._throttled(load, frequency_hz),
        )
        self._last_s, self._own_s, self._report_s = now_s, own_s, report_s
        return found

    def _own_cpu_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def _throttled(self, load: float, frequency_hz: float | None) -> str:
        """Why it is; empty where it is not, or does not tell."""
        flags = self._number(_PI, base=16)
        if flags:
            reasons = [reason for bit, reason in enumerate(_PI_FLAGS) if flags >> bit & 1]
            if reasons:
                return ", ".join(reasons)
        before, self._throttle_count = self._throttle_count, self._read_count()
        if self._throttle_count > before:
            return "its processor was too hot"
        base_khz = self._number(f"{_CPU}/cpufreq/base_frequency")
        if base_khz and frequency_hz is not None and load >= _BUSY:
            base_hz = 1e3 * base_khz
            if frequency_hz < _LEAST_FREQUENCY * base_hz:
                return f"runs at {frequency_hz / 1e9:.2g} of {base_hz / 1e9:.2g} GHz though it is busy"
        return ""

    def _frequency_hz(self) -> float | None:
        khz = self._number(f"{_CPU}/cpufreq/scaling_cur_freq")
        if khz is not None:
            return 1e3 * khz
        found = psutil.cpu_freq()
        return 1e6 * float(found.current) if found is not None and found.current else None

    def _read_count(self) -> int:
        names = ("core_throttle_count", "package_throttle_count")
        return sum(self._number(f"{_CPU}/thermal_throttle/{name}") or 0 for name in names)

    def _number(self, path: str, base: int = 10) -> int | None:
        try:
            return int((self._root / path).read_text().strip(), base)
        except (OSError, ValueError):
            return None


def _temperature_c() -> float | None:
    """Of the hottest sensor; None where there is none."""
    if not hasattr(psutil, "sensors_temperatures"):
        return None
    readings = [float(each.current) for sensors in psutil.sensors_temperatures().values() for each in sensors]
    return round(max(readings), 1) if readings else None
