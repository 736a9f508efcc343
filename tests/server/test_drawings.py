"""Graphs as they are drawn: laid out once, encoded once, and told the same."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import msgspec

from d3bed.server.drawings import Drawings
from d3bed.server.views import StateView
from tests.server.conftest import make_graph

if TYPE_CHECKING:
    from tests.server.conftest import Stage
    from tests.server.lab import Lab, MakeSettings, StartLab


def test_equal_graphs_have_the_same_drawing() -> None:
    drawings = Drawings()
    assert drawings.of(make_graph()) is drawings.of(make_graph())
    assert drawings.of(make_graph(layers=4)) is not drawings.of(make_graph())


def test_what_is_spliced_is_told_as_if_it_were_not(stage: Stage) -> None:
    stage.join_all()
    coordinator = stage.coordinator
    state = coordinator.snapshot()
    assert state.pipelines[0].graph is not None
    told = msgspec.json.encode(coordinator.drawings.spliced_state(state))
    assert told == msgspec.json.encode(state)
    assert msgspec.json.decode(told, type=StateView) == state


def test_a_drawing_that_is_no_longer_kept_is_told_all_the_same(stage: Stage) -> None:
    stage.join_all()
    state = stage.coordinator.snapshot()
    other = Drawings()
    for layers in range(1, 40):
        other.of(make_graph(layers=layers))
    assert msgspec.json.encode(other.spliced_state(state)) == msgspec.json.encode(state)


async def test_long_answers_are_compressed_for_who_takes_that(
    start_lab: StartLab, make_settings: MakeSettings
) -> None:
    lab: Lab = await start_lab(make_settings())

    async def asked(accepted: str) -> tuple[str | None, Any]:
        url, headers = f"{lab.address}api/openapi.json", {"Accept-Encoding": accepted}
        async with lab.http.get(url, headers=headers, auto_decompress=False) as answer:
            coding, body = answer.headers.get("Content-Encoding"), await answer.read()
            return coding, json.loads(gzip.decompress(body) if coding == "gzip" else body)

    packed, plain, refused = [await asked(each) for each in ("br, gzip", "identity", "gzip;q=0")]
    assert (packed[0], plain[0], refused[0]) == ("gzip", None, None)
    assert packed[1] == plain[1] == refused[1]
