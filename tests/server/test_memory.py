"""The collector of a server's process: what is there once it answers is not looked at again."""

from __future__ import annotations

import subprocess
import sys

_LOOK = """
import gc
from d3bed.server.memory import settle
before, kept = gc.get_threshold(), [[] for _ in range(1000)]
settle()
assert gc.get_freeze_count() > len(kept), gc.get_freeze_count()
assert all(now > then for now, then in zip(gc.get_threshold(), before)), gc.get_threshold()
loop = []
loop.append(loop)
del loop
assert gc.collect() > 0, "what comes later is collected"
"""


def test_what_is_there_is_frozen_and_what_comes_is_collected() -> None:
    found = subprocess.run([sys.executable, "-c", _LOOK], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
