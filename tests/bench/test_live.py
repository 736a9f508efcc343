"""The scenarios of the live parts, and what is made of a history; playing them is the bench's business."""

from __future__ import annotations

import msgspec
import pytest
from rich.console import Console

from d3bed.bench.activations import activations_s, spread
from d3bed.bench.adapt import run
from d3bed.bench.live import _follow, _noise_scenario, _Pass, _reaction_scenario
from d3bed.config import data_dir, read_config
from d3bed.core.errors import ConfigError
from d3bed.core.graph import Edge, Graph, TensorSpec, Value, Vertex
from d3bed.core.ids import AgentId, CauseId, Epoch, PipelineId, Tier
from d3bed.lab.player import Played
from d3bed.lab.scenario import Link, Speed
from d3bed.lab.truth import truth
from d3bed.server.circumstances import Circumstances, Ground
from d3bed.server.history import RunHistory
from d3bed.server.views import (
    EpochHistory,
    ExactView,
    FrameSeries,
    FramesView,
    LatencyReport,
    RunReport,
    RunView,
)

CONFIG = read_config(data_dir("configs") / "unpinned.toml")
DEVICE, EDGE = AgentId("pi-1"), AgentId("edge-1")
MAPS = (TensorSpec((1, 8, 8, 8), "float32"),)
GRAPH = Graph(
    "one",
    (Vertex("input", "input", (TensorSpec((1, 3, 100, 100), "uint8"),)), Vertex("a", "conv2d", MAPS)),
    (Edge(0, 1),),
    (Value(1),),
)
#: The edge takes 20 ms, and 30 ms for the photo over a fast link; the device takes 200 ms.
GROUND = Ground(
    PipelineId("main"), DEVICE, GRAPH, {DEVICE: Tier.DEVICE, EDGE: Tier.EDGE},
    {DEVICE: (0.0, 0.2), EDGE: (0.0, 0.02)}, {}, (), "none",
)  # fmt: skip
ALONE, AWAY = "device [0-1]\nedge   []\ncloud  []", "device [0]\nedge   [1]\ncloud  []"


def held(at_s: float, bytes_per_s: float) -> Circumstances:
    rates = ((DEVICE, EDGE, bytes_per_s, 0.0), (EDGE, DEVICE, bytes_per_s, 0.0))
    return Circumstances(1000.0 + at_s, "g", True, {DEVICE: 1.0, EDGE: 1.0}, rates)


def played(*epochs: tuple[float, str], starts_s: tuple[float, ...]) -> _Pass:
    """From 1000 s on; the link falls at 5 s."""
    counts = FramesView(len(starts_s), len(starts_s), 0)
    columns: dict[str, object] = {name: (0,) * len(starts_s) for name in FrameSeries.__struct_fields__[1:]}
    columns["identical"] = (True,) * len(starts_s)
    columns["started_s"] = tuple(1000.0 + s for s in starts_s)
    series = msgspec.convert({"run": "r", **columns}, FrameSeries)
    report = RunReport(
        "d3bed.report/1", "one", "optimal", "wifi", counts, ExactView(), LatencyReport(None, None, None),
        {}, (), (), (), {},
    )  # fmt: skip
    history = RunHistory(
        format="d3bed.history/1",
        run=RunView("r", PipelineId("main"), 1000.0, 1010.0, "one", "optimal", "wifi", counts),
        report=report,
        server=None,
        epochs=tuple(
            EpochHistory(
                Epoch(number), "optimal", "one", "", CauseId(f"1-{number}"), 1000.0 + at_s, 0, 0.1, plan,
                {Tier.DEVICE: DEVICE} | ({Tier.EDGE: EDGE} if plan == AWAY else {}), 1, 0.1,
            )
            for number, (at_s, plan) in enumerate(epochs, 1)
        ),
        decisions=(),
        events=(),
        frames=series,
        grounds={"g": GROUND},
    )  # fmt: skip
    scenario = msgspec.structs.replace(_reaction_scenario()[0], duration_s=10)
    figures = Played("main", "optimal", 10, 9, 0.1, 0.1, 0.1, 1, 0, 0, 0, 0, 0, 1000.0, ("r",))
    return _Pass(scenario, figures, history, [held(0, 1e6), held(5, 1e4)], {})


def test_a_change_that_is_followed_is_timed_to_the_first_frame_under_the_better_plan() -> None:
    one = played((0, AWAY), (6.0, ALONE), starts_s=(4.9, 5.0, 5.4, 5.8, 6.2, 6.4))
    row = _follow(one, "it falls", 5.0, 10.0)
    assert row["called_for"] and row["followed"] and row["in_time"]
    assert (row["lag_s"], row["lag_frames"], row["switches"]) == (pytest.approx(1.2), 3, 1)
    assert row["regret_before"] > 2 and row["regret_after"] == pytest.approx(1.0)


def test_a_change_that_is_not_followed_or_too_late_is_told() -> None:
    late = _follow(
        played((0, AWAY), (8.0, ALONE), starts_s=(5.0, 5.4, 5.8, 6.2, 6.6, 7.0, 8.1)), "it falls", 5, 10
    )
    assert late["followed"] and not late["in_time"] and late["lag_frames"] == 6
    never = _follow(played((0, AWAY), starts_s=(5.0, 5.4)), "it falls", 5, 10)
    assert never["called_for"] and not never["followed"] and never["regret_after"] > 2
    needless = _follow(played((0, AWAY), starts_s=(1.0, 2.0)), "nothing", 1, 5)
    assert not needless["called_for"]


def test_scenarios_fit_the_testbed_and_noise_stays_within_its_share() -> None:
    scenario, changes = _reaction_scenario()
    scenario.check([agent.name for agent in CONFIG.agents], ["main"])
    assert len({event.at_s for event in scenario.events}) == len(changes) == 16
    noise = _noise_scenario(CONFIG)
    noise.check([agent.name for agent in CONFIG.agents], ["main"])
    still = {
        rate[:2]: rate[2] * 8e-6
        for rate in truth(msgspec.structs.replace(noise, events=(), places=()), CONFIG, "", 0.0)[0].rates
    }
    for event in noise.events:
        if isinstance(event, Link):
            base = still[AgentId(event.source), AgentId(event.target)]
            assert event.mbit_per_s == pytest.approx(base, rel=0.1)
        if isinstance(event, Speed):
            assert event.speed == pytest.approx(CONFIG.agent(event.agent).speed, rel=0.1)
    assert noise.duration_s >= 300


def test_an_unknown_part_is_refused_before_anything_is_measured() -> None:
    with pytest.raises(ConfigError, match=r"--parts.*did you mean noise"):
        run(None, Console(quiet=True), ["noize"])


def test_plans_that_something_is_made_ready_for_first_are_told_apart() -> None:
    def epoch(number: int, tiles: str, activated_at: float | None, edge: str = "edge-1") -> EpochHistory:
        plan = "device [0]\nedge   [1-2]\ncloud  []" + (f"\n{tiles}" if tiles else "")
        cause, route = CauseId(f"1-{number}"), {Tier.DEVICE: AgentId("pi-1"), Tier.EDGE: AgentId(edge)}
        return EpochHistory(
            Epoch(number), "optimal", "one", "", cause, activated_at, 0, 0.1, plan, route, 1, None
        )

    grid = "tiles  0.0 [1-2] rows 0,4,8 columns 0,8 on edge-1,edge-2"
    other = "tiles  0.0 [1-2] rows 0,8 columns 0,4,8 on edge-1,edge-2"
    epochs = [
        epoch(8, "", 106.0, "edge-3"),
        epoch(7, "", 103.0, "edge-2"),
        epoch(6, other, 100.0),
        epoch(5, grid, None),
        epoch(4, grid, 60.0),
        epoch(3, "", 50.0),
        epoch(2, grid, 40.5),
        epoch(1, "", 5.0),
    ]
    decided = {
        f"1-{number}": at_s
        for number, at_s in ((1, 4.0), (2, 40.0), (3, 49.9), (4, 59.8), (6, 99.0), (7, 102.9), (8, 105.6))
    }
    resident, first = activations_s(epochs, decided, 10.0, 110.0)
    assert resident == pytest.approx([0.1, 0.2, 0.1])
    assert first == pytest.approx([0.5, 1.0, 0.4]), "tiles, and weights that edge-3 never had"
    assert spread(resident) == {"median": pytest.approx(0.1), "max": pytest.approx(0.2), "count": 3}
    assert spread([]) is None
