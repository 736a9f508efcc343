"""Several pipelines on the same edge and cloud: what one uses, the other plans without."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from d3bed.core.ids import AgentId, PipelineId, Tier
from d3bed.server.events import ChangeRate, StopRun
from d3bed.server.settings import ServerSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.server.conftest import Stage

DEMO, OTHER = PipelineId("demo"), PipelineId("other")
DEVICE, DEVICE_2, EDGE_1, EDGE_2 = (AgentId(n) for n in ("pi-1", "pi-2", "edge-1", "edge-2"))


@pytest.fixture
def both(make_settings: Callable[..., ServerSettings]) -> Stage:
    """Two devices whose networks run on an edge agent; frames of the first come without end."""
    from tests.server.conftest import Stage

    settings = make_settings(strategy="edge", frames=None, adapt=True, in_flight=2)
    second = msgspec.structs.replace(settings.pipelines[0], id=OTHER, device=DEVICE_2, autostart=False)
    stage = Stage(msgspec.structs.replace(settings, pipelines=(*settings.pipelines, second)))
    stage.join_all()
    stage.tick(0.2)
    return stage


def edge(stage: Stage, pipeline: PipelineId) -> AgentId:
    return stage.coordinator.view(pipeline).route[Tier.EDGE]


def test_a_pipeline_takes_the_edge_agent_that_others_leave_free(both: Stage) -> None:
    assert edge(both, DEMO) == EDGE_1
    both.submit(ChangeRate(OTHER, 5.0))
    assert edge(both, OTHER) == EDGE_2
    assert edge(both, DEMO) == EDGE_1


def test_what_is_not_used_any_more_is_free_again(both: Stage) -> None:
    both.submit(StopRun(DEMO))
    both.end_source(3, 3)
    both.tick(0.2)
    both.submit(ChangeRate(OTHER, 5.0))
    assert edge(both, OTHER) == EDGE_1


def test_a_slow_stream_leaves_room_for_others(both: Stage) -> None:
    both.submit(ChangeRate(DEMO, 0.1))
    both.tick(0.2)
    demand = both.coordinator.pipelines[DEMO].demand
    assert demand[EDGE_1] == pytest.approx(0.1 * 0.06)
    both.submit(ChangeRate(OTHER, 5.0))
    assert edge(both, OTHER) == EDGE_1
