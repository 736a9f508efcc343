from __future__ import annotations

import pytest

from d3bed.core.epochs import EPOCH_TRANSITIONS, EpochLife, EpochState
from d3bed.core.errors import IllegalTransition
from d3bed.core.ids import Epoch

EVENTS = sorted({event for _, event in EPOCH_TRANSITIONS})


def test_a_life_goes_from_proposed_to_retired() -> None:
    life = EpochLife(Epoch(3))
    for event in ("prepare", "activate", "drain", "retire"):
        life.move(event)
    assert life.state is EpochState.RETIRED
    assert life.history[0] == "proposed"
    assert len(life.history) == 5


@pytest.mark.parametrize("state", EpochState)
@pytest.mark.parametrize("event", EVENTS)
def test_only_the_table_moves_an_epoch(state: EpochState, event: str) -> None:
    life = EpochLife(Epoch(7))
    life.state = state
    after = EPOCH_TRANSITIONS.get((state, event))
    if after is not None:
        assert life.move(event) is after
        return
    with pytest.raises(IllegalTransition, match="epoch 7") as caught:
        life.move(event)
    assert life.state is state
    assert life.history == ("proposed",)
    assert (caught.value.state, caught.value.event) == (state.value, event)


def test_an_ended_epoch_cannot_move_and_every_state_can_be_reached() -> None:
    starts = {state for state, _ in EPOCH_TRANSITIONS}
    assert {EpochState.RETIRED, EpochState.FAILED}.isdisjoint(starts)
    assert {EpochState.PROPOSED, *EPOCH_TRANSITIONS.values()} == set(EpochState)
