from __future__ import annotations

import pytest

from d3bed.core.joining import Machine, same_machine

HERE = Machine("board", "system", ("card-1", "card-2"))


@pytest.mark.parametrize(
    ("found", "same"),
    [
        (HERE, True),
        (Machine("board", "installed anew", ("another card",)), True),
        (Machine("another board", "system", ("card-1", "card-2")), False),
        (Machine("", "system", ("card-2",)), True),
        (Machine("", "system", ("another card",)), False),
        (Machine("", "another system", ("card-1", "card-2")), False),
        (Machine("", "system"), True),
        (Machine(), True),
    ],
)
def test_a_machine_is_known_again_by_its_board_else_by_system_and_a_card(found: Machine, same: bool) -> None:
    assert same_machine(HERE, found) is same
    assert same_machine(found, HERE) is same
