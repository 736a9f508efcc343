"""Which agents cannot be dialled, and by way of whom they are reached instead.

Pure. A link is dialled until that fails though its peer is connected here: a NAT or firewall is before it.
Then it goes over a line that the peer keeps open: to the sender itself if the peer can dial that, else to a
third agent that both can dial, the one that carries most. What cannot be dialled is known by trying; so is a
way. A direct link is tried again once in `RETRY_S`, by the doctor, and when either end comes anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from d3bed.core.checks import LinkCheck
from d3bed.core.ids import AgentId
from d3bed.core.messages import CheckLinks, KeepLines, LinkFailed, Peer
from d3bed.core.ways import Way

if TYPE_CHECKING:
    from d3bed.server.world import LinkRecord, World

__all__ = ["RETRY_S", "Ways"]

RETRY_S = 60.0
#: A way is left for another one that is known to carry so many times as much.
BETTER = 1.5
#: Answers of this number nobody waits for; see `Doctor`.
_NUMBER = 0


class Ways:
    """Of all links. They remember by themselves: `blocked` says why nobody answers at the peer's address,
    `via` who is between; `refuted` were, in vain."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._kept: dict[AgentId, tuple[Peer, ...]] = {}
        #: Those that may be `blocked`.
        self._blocked: set[tuple[AgentId, AgentId]] = set()

    def of(self, source: AgentId, target: AgentId) -> Way | None:
        """How `source` gets to `target`; None: it dials."""
        link = self._world.links.get((source, target))
        if link is None or link.via is None:
            return None
        return Way(link.via, self._world.agents[link.via].register.data_address)

    def failed(self, source: AgentId, failure: LinkFailed) -> bool:
        """A link could not be measured. Returns whether it is to be tried by another way."""
        world, target = self._world, failure.peer
        link = world.link(source, target)
        if not (world.is_connected(source) and world.is_connected(target)):
            return False
        if link.via is not None:
            link.refuted.add(link.via)
        elif failure.unreachable:
            link.blocked, link.retry_direct_s = failure.problem, world.now + RETRY_S
            self._blocked.add((source, target))
        else:
            return False
        before = link.via
        self._choose(source, target, link)
        if link.via is None:
            link.refuted.clear()  # all of them may be tried again, once it has been dialled
            self._keep_lines(target)
            return False
        tried = "over such a line" if before == source else f"by way of {before}"
        said = failure.problem if before is None else f"{tried} it does not work ({failure.problem})"
        how = f"over a line that {target} opens" if link.via == source else f"by way of {link.via}"
        world.note(f"link {source}→{target} goes {how}: {said}", "warn")
        self._keep_lines(target)
        return True

    def measured(self, agent: AgentId, peer: AgentId) -> None:
        """A direct link is known now, or anew: what goes by way of others may go better by its end."""
        if self.of(agent, peer) is not None:
            return
        for source, target in list(self._blocked):
            link = self._world.links[source, target]
            if agent not in (source, target) or link.via in (None, source, peer) or peer in link.refuted:
                continue
            if peer in self._candidates(source, target) and self._carries(source, target, peer) > (
                BETTER * self._carries(source, target, link.via)
            ):
                link.via = peer
                link.forget()
                self._world.note(f"link {source}→{target} goes by way of {peer}: that carries more")
                self._keep_lines(target)

    def checked(self, source: AgentId, checks: tuple[LinkCheck, ...]) -> None:
        """What came of dialling anew."""
        for check in checks:
            link = self._world.links.get((source, check.peer))
            if link is not None and link.blocked and not check.stopped and check.via is None:
                self._open(source, check.peer, link)

    def agent_joined(self, agent: AgentId) -> None:
        """It may listen elsewhere now; and it may be what others can be reached by."""
        for (source, target), link in list(self._world.links.items()):
            if link.via == agent:
                self._keep_lines(target)
            elif link.blocked and link.via is None and agent not in (source, target):
                link.refuted.discard(agent)

    def agent_lost(self, agent: AgentId) -> None:
        """Nothing is known of its links any more, and others need another way than by it."""
        self._kept.pop(agent, None)
        for (source, target), link in list(self._world.links.items()):
            if agent in (source, target):
                link.via, link.blocked = None, ""
                link.refuted.clear()
            elif link.via == agent:
                self._choose(source, target, link)
                link.forget()
            else:
                continue
            if target != agent:
                self._keep_lines(target)

    def tick(self) -> None:
        """Have direct links tried again."""
        world = self._world
        for source, target in list(self._blocked):
            link = world.links[source, target]
            if not link.blocked:
                self._blocked.discard((source, target))
            elif world.now >= link.retry_direct_s and world.is_connected(target):
                link.retry_direct_s = world.now + RETRY_S
                record = world.agents[target]
                peer = Peer(target, record.register.tier, record.register.data_address)
                world.send(source, CheckLinks(_NUMBER, (peer,)))

    def _open(self, source: AgentId, target: AgentId, link: LinkRecord) -> None:
        link.via, link.blocked = None, ""
        link.refuted.clear()
        link.forget()
        self._world.note(f"{source} reaches {target} directly now; links that are made anew do")
        self._keep_lines(target)

    def _choose(self, source: AgentId, target: AgentId, link: LinkRecord) -> None:
        found = [agent for agent in self._candidates(source, target) if agent not in link.refuted]
        link.via = max(found, key=lambda agent: self._fitness(source, target, agent), default=None)

    def _candidates(self, source: AgentId, target: AgentId) -> list[AgentId]:
        return [
            agent
            for agent, record in self._world.agents.items()
            if record.connected
            and agent != target
            and self._may_dial(target, agent)
            and (agent == source or self._may_dial(source, agent))
        ]

    def _may_dial(self, source: AgentId, target: AgentId) -> bool:
        link = self._world.links.get((source, target))
        return link is None or not link.blocked

    def _fitness(self, source: AgentId, target: AgentId, agent: AgentId) -> tuple[bool, float, AgentId]:
        """Nobody between is best."""
        return agent == source, self._carries(source, target, agent), agent

    def _carries(self, source: AgentId, target: AgentId, agent: AgentId) -> float:
        """Bytes/s of the slower half of a way, as far as known."""
        halves = []
        for one, other in ((source, agent), (agent, target)):
            links = (self._world.links.get(ends) for ends in ((one, other), (other, one)))
            rates = [link.measured.bytes_per_s for link in links if link is not None and link.measured]
            halves.append(max(rates, default=0.0))
        return min(halves)

    def _keep_lines(self, target: AgentId) -> None:
        """Tell an agent where it is waited for, if that has changed."""
        world = self._world
        at = {link.via for (_, to), link in world.links.items() if to == target and link.via is not None}
        records = [world.agents[agent] for agent in sorted(at)]
        peers = tuple(Peer(r.register.agent, r.register.tier, r.register.data_address) for r in records)
        if peers != self._kept.get(target, ()):
            self._kept[target] = peers
            world.send(target, KeepLines(peers))
