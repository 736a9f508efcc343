"""A camera that outruns every single plan, on real processes: several plans in turn, every answer exact."""

from __future__ import annotations

import pytest

from d3bed.config import data_dir, override, read_config
from d3bed.lab.testbed import open_testbed

pytestmark = [pytest.mark.processes, pytest.mark.timeout(480)]


async def test_an_overrun_stream_takes_several_plans_and_every_answer_is_exact() -> None:
    # In tiles, one plan may sustain more than a mix, which has one edge agent for each.
    config = override(
        read_config(data_dir("configs") / "unpinned.toml"), network="lan", tiling="none", port=0
    )
    async with open_testbed(
        config, ["--network", "lan", "--tiling", "none", "--port", "0", "--fixed"]
    ) as bed:
        view = await bed.set_rate(300.0)
        shares = {each["epoch"]: each["share"] for each in view["mix"]}
        assert len(shares) > 1 and abs(sum(shares.values()) - 1) < 1e-6
        report = await bed.run(1200)
        frames, exact = report["frames"], report["exact"]
        assert frames["answered"] == frames["sent"] > 0 and frames["lost"] == 0
        assert frames["sent"] + frames["dropped"] >= 1200 and frames["dropped"] > 0
        assert exact["checked"] == exact["identical"] == frames["answered"]
        assert {epoch["epoch"] for epoch in report["epochs"]} >= shares.keys()
        calm = await bed.set_rate(1.0)
        assert not calm["mix"] and calm["sustains_per_s"] >= 1.0
        report = await bed.run(3)
        assert report["frames"] == {"sent": 3, "answered": 3, "lost": 0, "dropped": 0}
