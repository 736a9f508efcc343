"""Real labels: the digits' network, and every plan of it against the whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rich.console import Console

from d3bed.bench.digits import SPEC, WEIGHTS, images
from d3bed.bench.labels import carrier, planned, run
from d3bed.core.ids import Tier
from d3bed.core.plan import Plan
from d3bed.model import load


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_the_weights_are_small_and_read_most_digits_that_they_were_not_trained_on() -> None:
    assert WEIGHTS.stat().st_size < 200_000
    pixels, labels = images()
    assert pixels.shape == (1797, 3, 32, 32) and pixels.dtype == torch.uint8
    model = load(SPEC)
    with torch.inference_mode():
        right = [int(model.whole(pixels[n : n + 1])[0].argmax()) == labels[n] for n in range(1, 1797, 2)]
    assert sum(right) / len(right) > 0.97


def test_every_plan_reads_digits_as_the_whole_does(capsys: pytest.CaptureFixture[str]) -> None:
    found = run(None, Console(width=120), 40)
    assert found["lossless"]
    assert all(row["identical"] == 40 for row in found["rows"])
    makers = {name for row in found["rows"] for name in row["by"]}
    assert {"dads, slow links", "hpa, mixed links, pins", "tiles, vsm", "tiles, deepthings"} <= makers
    plans = [Plan.parse(row["plan"]) for row in found["rows"]]
    assert sum(len(set(plan.tiers)) == 3 for plan in plans) >= 3, "no plan uses all tiers"
    assert "predictions, identical" in capsys.readouterr().out


def test_a_carrier_takes_tiles_by_their_halos(tmp_path: Path) -> None:
    model = load(SPEC)
    text = next(text for text, names in planned(model.graph).items() if "tiles, vsm" in names)
    plan = Plan.parse(text)
    assert len(plan.tile_agents) > 1 and Tier.EDGE in plan.tiers
    carry = carrier(model, plan, tmp_path)
    photo = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(carry(photo)[0], model.whole(photo)[0])
    assert not torch.equal(carry(photo)[0], model.whole(255 - photo)[0])
