"""One frame through one agent's program: which step may run, what must be sent, what may be freed.

Pure: values come in as names, orders come out. It must not know tensors, threads, sockets or clocks;
`executor` performs the orders and reports back. A value is freed when its last step has run and its
last send has ended, so that an agent holds no more than what is still needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from d3bed.core.errors import RemoteProtocolError
from d3bed.core.graph import Value
from d3bed.core.ids import AgentId
from d3bed.core.program import Program

__all__ = ["FrameSchedule", "Run", "Send"]


@dataclass(frozen=True)
class Run:
    """Run step number `step` of the program now: its inputs are here."""

    step: int


@dataclass(frozen=True)
class Send:
    """Send `value` to the agent `to`."""

    value: Value
    to: AgentId


class FrameSchedule:
    """Progress of one frame under one program.

    `keep` are the values wanted here at the end (the results, on the device); they are never freed. What
    tiles are made from is kept until they are joined, so that `rescue` can always do without them.
    """

    def __init__(self, program: Program, keep: frozenset[Value] = frozenset()) -> None:
        self._program = program
        self._keep = keep
        self._have: set[Value] = set()
        #: Of every step: how many values it still needs.
        self._missing = [len(set(step.takes)) for step in program.steps]
        self._waiting = set(range(len(program.steps)))
        self._unfinished = set(self._waiting)
        self._given_up: set[Value] = set()
        self._uses = program.uses.copy()
        self._open_uses = self._uses.total()
        #: Values whose use count changed to, or was, 0 since `freed` was asked.
        self._loose: list[Value] = []

    def arrived(self, value: Value) -> list[Run | Send]:
        """A value came over a link. Raises `RemoteProtocolError` if it was not expected or came twice."""
        if value not in self._program.expected:
            raise RemoteProtocolError(f"value {value} is not expected here")
        if value in self._have:
            raise RemoteProtocolError(f"value {value} came twice")
        if value in self._given_up:
            self._have.add(value)
            self._loose.append(value)
            return []
        return self._add((value,))

    def begin(self, value: Value) -> list[Run | Send]:
        """The input value exists (on the device)."""
        return self._add((value,))

    def ran(self, step: int) -> list[Run | Send]:
        """A step has run and made its values."""
        if step not in self._unfinished:
            self._loose += self._program.steps[step].makes
            return []  # what it was for has been rescued since
        self._unfinished.discard(step)
        for value in self._program.steps[step].takes:
            self._use(value)
        return self._add(self._program.steps[step].makes)

    def rescue(self, number: int) -> bool:
        """Whether to run rescue number `number` now; its tiles are then given up, and may come too late."""
        rescue = self._program.rescues[number]
        if not self._have.issuperset(rescue.step.takes) or self._have.issuperset(rescue.step.makes):
            return False
        if not self._unfinished.issuperset(rescue.instead[-1:]):
            return False  # under way already
        for step in self._unfinished.intersection(rescue.instead):
            for value in self._program.steps[step].takes:
                self._use(value)
        self._unfinished.difference_update(rescue.instead)
        self._waiting.difference_update(rescue.instead)
        self._given_up |= rescue.pieces
        for value in rescue.pieces:
            self._open_uses -= self._uses.pop(value, 0)
        self._loose += rescue.pieces
        return True

    def rescued(self, number: int) -> list[Run | Send]:
        """A rescue has run."""
        return self._add(self._program.rescues[number].step.makes)

    def sent(self, value: Value) -> None:
        """One send of a value has ended."""
        self._use(value)

    def has(self, value: Value) -> bool:
        return value in self._have

    def freed(self) -> list[Value]:
        """Values, since this was asked last, that nobody here needs any more (some never came)."""
        loose, self._loose = self._loose, []
        return [value for value in loose if self._uses.get(value, 0) == 0 and value not in self._keep]

    @property
    def complete(self) -> bool:
        """All values that are wanted here at the end are here."""
        return self._keep <= self._have

    @property
    def over(self) -> bool:
        """Nothing is left to run, to send or to wait for."""
        return self.complete and not self._unfinished and self._open_uses == 0

    def _use(self, value: Value) -> None:
        if value not in self._given_up:
            self._uses[value] -= 1
            self._open_uses -= 1
            if not self._uses[value]:
                self._loose.append(value)

    def _add(self, values: Iterable[Value]) -> list[Run | Send]:
        orders: list[Run | Send] = []
        ready: list[int] = []
        for value in values:
            if value in self._have:
                continue
            self._have.add(value)
            if value not in self._uses:
                self._loose.append(value)
            # Sends first: a tensor leaves as soon as it exists.
            orders += [Send(value, agent) for agent in self._program.forward.get(value, ())]
            for rescue in self._program.rescues:
                if value in rescue.step.makes:
                    for kept in rescue.step.takes:
                        self._use(kept)
            for number in self._program.readers.get(value, ()):
                self._missing[number] -= 1
                if not self._missing[number] and number in self._waiting:
                    ready.append(number)
        self._waiting.difference_update(ready)
        return orders + [Run(number) for number in sorted(ready)]
