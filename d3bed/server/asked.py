"""What agents were asked for and have yet to answer, and when each of it counts as failed. Pure.

However many agents there are, it tells at once who is at what: each join would else look at all of them.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

from d3bed.core.ids import AgentId
from d3bed.core.messages import LinkFailed, ModelFailed, ModelSpec

__all__ = ["Asked", "Kind", "Order"]

Kind = Literal["load", "profile", "link", "look"]
#: To load or profile a model, to measure the link to a peer or to look at it.
Order = tuple[Literal["load", "profile"], ModelSpec] | tuple[Literal["link", "look"], AgentId]


class Asked:
    """Of all agents. Those of one `host` share its processor."""

    def __init__(self) -> None:
        self._due_s: dict[AgentId, dict[Order, float]] = {}
        self._hosts: dict[AgentId, str] = {}
        self._at: Counter[Kind] = Counter()
        self._profiling: Counter[str] = Counter()

    def ask(self, agent: AgentId, host: str, order: Order, until_s: float) -> bool:
        """Returns False where that was asked already: then the first time counts, but for links."""
        due_s = self._due_s.setdefault(agent, {})
        self._hosts[agent] = host
        new = order not in due_s
        if new:
            self._count(agent, order, 1)
        if new or order[0] in ("link", "look"):
            due_s[order] = until_s
        return new

    def extend(self, agent: AgentId, order: Order, until_s: float) -> None:
        """It is on its way: it may take until then, where it was asked for."""
        if order in self._due_s.get(agent, ()):
            self._due_s[agent][order] = until_s

    def done(self, agent: AgentId, *orders: Order) -> bool:
        """Returns whether any of these was asked for."""
        due_s = self._due_s.get(agent, {})
        found = [order for order in orders if order in due_s]
        for order in found:
            del due_s[order]
            self._count(agent, order, -1)
        if not due_s:
            self._due_s.pop(agent, None)
        return bool(found)

    def forget(self, agent: AgentId) -> None:
        """It is gone; whoever was asked for its links need not answer either."""
        self.done(agent, *self._due_s.get(agent, ()))
        for other in list(self._due_s):
            self.done(other, ("link", agent), ("look", agent))

    def is_asked(self, agent: AgentId, order: Order) -> bool:
        return order in self._due_s.get(agent, ())

    def at(self, order: Order) -> list[AgentId]:
        """Who was asked for this, about in the order of being asked."""
        return [agent for agent, due_s in self._due_s.items() if order in due_s]

    def is_at(self, *kinds: Kind) -> bool:
        """Whether any agent is at such a thing."""
        return any(self._at[kind] for kind in kinds)

    def is_busy(self, agent: AgentId, *kinds: Kind) -> bool:
        """Whether this agent is."""
        return any(kind in kinds for kind, _ in self._due_s.get(agent, ()))

    def is_profiled_on(self, host: str) -> bool:
        """Whether an agent of this host profiles."""
        return self._profiling[host] > 0

    def expired(self, now: float) -> list[tuple[AgentId, ModelFailed | LinkFailed]]:
        """Orders whose time is over, as the failure that the agent did not report."""
        found: list[tuple[AgentId, ModelFailed | LinkFailed]] = []
        for agent, due_s in self._due_s.items():
            for order in [order for order, until_s in due_s.items() if now >= until_s]:
                match order:
                    case (("link" | "look"), peer):
                        found.append((agent, LinkFailed(peer, "not measured in time")))
                    case (("load" | "profile") as kind, model):
                        found.append((agent, ModelFailed(model, f"did not {kind} in time")))
        return found

    def _count(self, agent: AgentId, order: Order, by: int) -> None:
        self._at[order[0]] += by
        if order[0] == "profile":
            host = self._hosts[agent]
            self._profiling[host] += by
            if not self._profiling[host]:
                del self._profiling[host]
