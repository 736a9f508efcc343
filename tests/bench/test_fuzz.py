"""A short fuzz of every door; `d3bed bench fuzz` is the long one."""

from __future__ import annotations

import random

from d3bed.bench.fuzz import Stop, fuzz_control, fuzz_wire
from d3bed.bench.fuzz_server import fuzz_api, fuzz_document, fuzz_server
from d3bed.bench.nonsense import Nonsense
from d3bed.core.messages import SpansRecorded
from d3bed.server.api import ROUTES


def test_bent_bytes_are_refused_or_taken() -> None:
    found = fuzz_wire(11, 3000)
    assert found["failures"] == []
    assert found["outcomes"]["taken"] > 100, "some must get through to the end"
    assert len([what for what in found["outcomes"] if what.startswith("refused")]) >= 6


def test_what_is_stopped_tells_what_came_until_then() -> None:
    said: list[str] = []

    def tell(text: str) -> None:
        said.append(text)
        stop.asked = True

    stop = Stop(tell=tell)
    found = fuzz_wire(11, 50_000, stop)
    assert said == ["data port: 1,000 of 50,000"]
    assert (found["inputs"], found["wanted"]) == (1000, 50_000) and found["failures"] == []
    assert sum(found["outcomes"].values()) == 1000
    assert fuzz_control(11, 50_000, Stop(minutes=0))["inputs"] == 0


def test_what_the_decoder_lets_through_the_coordinator_handles() -> None:
    found = fuzz_control(11, 3000)
    assert found["failures"] == []
    assert found["outcomes"]["handled"] > 1000 and found["plans"] >= 2 and found["epochs"] > 1


def test_no_request_makes_the_server_fail() -> None:
    found = fuzz_api(11, 500)
    assert found["failures"] == []
    assert found["outcomes"]["HTTP 202"] > 5 and found["outcomes"]["HTTP 400"] > 20


def test_no_agent_makes_the_server_fail() -> None:
    found = fuzz_server(11, 1500)
    assert found["failures"] == []
    assert found["outcomes"]["closed 1002"] > 10 and found["outcomes"]["asked for its health"] > 20


def test_the_server_answers_as_its_document_says() -> None:
    found = fuzz_document(11, 100)
    assert found["failures"] == []
    assert found["inputs"] > 100 and found["outcomes"]["operations"] == len(ROUTES) - 1  # but for itself


def test_nonsense_follows_from_the_seed_and_is_of_its_type_as_a_rule() -> None:
    one, other = (Nonsense(random.Random(3), wrong=0.0) for _ in range(2))
    said = [one.of(SpansRecorded) for _ in range(20)]
    assert said == [other.of(SpansRecorded) for _ in range(20)]
    assert {each["type"] for each in said} == {"SpansRecorded"}
