"""What agents were asked for: who is at what, and when it counts as failed."""

from __future__ import annotations

from d3bed.core.ids import AgentId
from d3bed.core.messages import LinkFailed, ModelFailed, ModelSpec
from d3bed.server.asked import Asked, Order

A, B, C = map(AgentId, "abc")
MODEL = ModelSpec("alexnet")
PROFILE: Order = ("profile", MODEL)
LOAD: Order = ("load", MODEL)


def test_who_is_at_what_is_known_until_it_is_done() -> None:
    asked = Asked()
    assert asked.ask(A, "pc", PROFILE, 10.0)
    assert not asked.ask(A, "pc", PROFILE, 20.0), "asked already"
    assert asked.is_at("profile") and not asked.is_at("link", "look")
    assert asked.is_busy(A, "load", "profile") and not asked.is_busy(B, "profile")
    assert asked.is_profiled_on("pc") and not asked.is_profiled_on("board")
    assert asked.done(A, PROFILE) and not asked.done(A, PROFILE)
    assert not asked.is_at("profile") and not asked.is_profiled_on("pc")


def test_what_is_not_answered_in_time_failed() -> None:
    asked = Asked()
    asked.ask(A, "pc", LOAD, 10.0)
    asked.ask(A, "pc", LOAD, 99.0)
    asked.ask(B, "pc", ("link", A), 11.0)
    assert asked.expired(9.9) == []
    assert asked.expired(10.0) == [(A, ModelFailed(MODEL, "did not load in time"))]
    asked.extend(A, LOAD, 30.0)
    asked.extend(C, LOAD, 30.0)
    assert asked.expired(11.0) == [(B, LinkFailed(A, "not measured in time"))]


def test_a_look_that_is_asked_for_again_has_time_anew() -> None:
    asked = Asked()
    asked.ask(A, "pc", ("look", B), 5.0)
    asked.ask(A, "pc", ("look", B), 8.0)
    assert asked.expired(7.0) == []


def test_of_an_agent_that_is_gone_nothing_is_open() -> None:
    asked = Asked()
    asked.ask(A, "pc", PROFILE, 5.0)
    asked.ask(B, "pc", ("link", A), 5.0)
    asked.ask(B, "pc", ("look", C), 5.0)
    asked.forget(A)
    assert not asked.is_at("profile", "link") and asked.is_at("look")
    assert asked.expired(9.0) == [(B, LinkFailed(C, "not measured in time"))]
