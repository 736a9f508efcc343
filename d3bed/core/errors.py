"""Every error that d3bed raises on purpose, by who must act.

    D3Error
    ├── ConfigError           the user: a file, key or option is wrong (exit code 2)
    │   ├── ProblemError      … in a planning problem: names the vertex and the key
    │   └── ModelError        … in a model: unknown name, broken file, operator that cannot be exported
    ├── PlanInfeasible        the user or planner: limits leave no plan; names the limit that binds
    ├── LocalProtocolError    us: our own code broke the protocol (a bug)
    ├── RemoteProtocolError   the peer: it broke the protocol; its connection is closed and counted
    ├── LinkClosed            nobody: the peer said goodbye
    ├── LinkBroken            the network: the connection was lost; work on it is run again
    │   └── Unreachable       … nobody answers where the peer is said to be, or somebody else does
    ├── StaleEpoch            nobody: something arrived for an epoch that is gone
    └── IllegalTransition     us: a state machine was asked for a move that its table lacks (a bug)

Errors carry data and compose their own message, so that a log line, a JSON answer and a terminal
line are the same sentence.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import ClassVar

__all__ = [
    "ConfigError",
    "D3Error",
    "IllegalTransition",
    "LinkBroken",
    "LinkClosed",
    "LocalProtocolError",
    "ModelError",
    "PlanInfeasible",
    "ProblemError",
    "RemoteProtocolError",
    "StaleEpoch",
    "Unreachable",
    "near",
]


class D3Error(Exception):
    """Root of all errors raised on purpose by d3bed."""


class ConfigError(D3Error):
    """Something that the user wrote is wrong.

    `where` names the file or option, `key` the key in it (or ""), `problem` says what is wrong and
    `remedy` what to do about it. A process that ends because of one exits with `EXIT_CODE`.
    """

    EXIT_CODE: ClassVar[int] = 2

    def __init__(self, where: str, key: str, problem: str, remedy: str = "") -> None:
        self.where, self.key, self.problem, self.remedy = where, key, problem, remedy
        place = f"{where}: {key}" if key else where
        super().__init__(f"{place}: {problem}" + (f" — {remedy}" if remedy else ""))


class ProblemError(ConfigError):
    """A planning problem is malformed; `key` names the vertex and field."""


class ModelError(ConfigError):
    """A model cannot be found, loaded or exported."""


class PlanInfeasible(D3Error):
    """No assignment satisfies the limits; `binding` names the tier or link that binds."""

    def __init__(self, binding: str, problem: str) -> None:
        self.binding, self.problem = binding, problem
        super().__init__(f"no feasible plan: {binding}: {problem}")


class LocalProtocolError(D3Error):
    """Our own side tried to do what the protocol does not allow."""


class RemoteProtocolError(D3Error):
    """The peer broke the protocol; its connection must be closed. `reason` is safe to log."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"peer broke the protocol: {reason}")


class LinkClosed(D3Error):
    """The peer closed the link in an orderly way."""


class LinkBroken(D3Error):
    """The link was lost; what was under way on it must be run again."""


class Unreachable(LinkBroken):
    """Nobody answers at the peer's address, or somebody else does."""


class StaleEpoch(D3Error):
    """A message belongs to an epoch that this agent no longer (or does not yet) know."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        super().__init__(f"epoch {epoch} is not known here")


class IllegalTransition(D3Error):
    """A state machine has no such move; nothing was changed. `history` tells how it got here."""

    def __init__(self, thing: str, state: str, event: str, history: tuple[str, ...] = ()) -> None:
        self.thing, self.state, self.event, self.history = thing, state, event, history
        story = f" (history: {' → '.join(history)})" if history else ""
        super().__init__(f"{thing}: {event} is not allowed in state {state}{story}")


def near(word: str, known: Collection[str]) -> str:
    """A remedy: the known words nearest to `word`, or the first of all if none is near."""
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(close)}?"
    if not known:
        return "none is known"
    first, more = list(known)[:12], len(known) - 12
    return f"known: {', '.join(first)}" + (f" and {more} more" if more > 0 else "")
