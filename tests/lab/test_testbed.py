"""A session on a real testbed, of a network from a file: ready, run, switch, report; refusals and deaths."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from d3bed.config import read_config
from d3bed.core.errors import ConfigError
from d3bed.core.messages import ModelSpec
from d3bed.lab.client import RequestFailed
from d3bed.lab.processes import ChildDied
from d3bed.lab.testbed import check_cores, open_testbed
from d3bed.model import write_file

pytestmark = [pytest.mark.processes, pytest.mark.timeout(480)]

TWO_TIERS = """
[[agents]]
name = "pi-1"
tier = "device"

[[agents]]
name = "edge-1"
tier = "edge"

[pipelines.main]
device = "pi-1"
edges = ["edge-1"]
strategy = "device"
model = "mine.safetensors"
"""


async def test_a_session_runs_switches_and_notices_a_death(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "two.toml"
    path.write_text(TWO_TIERS)
    (tmp_path / "mine.safetensors").write_bytes(write_file(ModelSpec("alexnet"))[0])
    async with open_testbed(read_config(path), ["--port", "0"]) as bed:
        report = await bed.run(2)
        assert report["frames"] == {"sent": 2, "answered": 2, "lost": 0, "dropped": 0}
        assert set(report["plan"].values()) == {"device"}
        view = await bed.switch(strategy="edge")
        assert view["strategy"] == "edge" and set(view["plan"][1:]) == {"edge"}
        report = await bed.run(3)
        assert report["exact"] == {"checked": 3, "identical": 3, "max_rel_err": 0.0}
        assert set(report["plan"].values()) == {"device", "edge"}
        with pytest.raises(RequestFailed, match="fastest"):
            await bed.switch(strategy="fastest")
        victim = next(a["pid"] for a in report["agents"] if a["tier"] == "edge")
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(ChildDied, match="edge-1 .*SIGKILL"):
            await bed.run(100_000)


def test_speeds_that_exceed_the_cores_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "many.toml"
    agents = "".join(
        f'[[agents]]\nname = "edge-{n}"\ntier = "edge"\nspeed = 0.9\n'
        for n in range(2 * (os.cpu_count() or 1))
    )
    path.write_text(agents)
    with pytest.raises(ConfigError, match=r"many\.toml: agents\.speed: .*lower the speeds"):
        check_cores(read_config(path))
