"""What a plan must know of the agents of a pipeline, and the orders that fetch what is not known.

Pure. Models are loaded, their graphs agree, times are profiled (or predicted), links are measured: each
step says what it waits for, or None. Called again after every event, it orders nothing twice. It must
not know what is wanted, or what the plan will be.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from d3bed.core.ids import AgentId, Tier
from d3bed.core.messages import ModelSpec, Peer
from d3bed.plan import Choice
from d3bed.server.events import Subject
from d3bed.server.settings import PipelineSettings
from d3bed.server.views import Phase
from d3bed.server.world import LinkRecord, World

__all__ = ["Groundwork", "Stage"]

#: A link or an agent that a frame keeps busy for less than this share of its latency hardly matters.
_MATTERS = 0.02
#: From the change on; what does not answer by then is planned with as it is known.
VERIFY_S = 3.0

#: What a pipeline is at, and of whom or what it waits.
Stage = tuple[Phase, str]


class Groundwork:
    """Of one pipeline. `members` are always those of its agents that are to be planned with."""

    def __init__(self, settings: PipelineSettings, world: World) -> None:
        self.settings = settings
        self._world = world

    def load(self, model: ModelSpec, members: dict[AgentId, Tier]) -> Stage | None:
        waiting = [agent for agent in members if model not in self._world.agents[agent].loaded]
        for agent in waiting:
            self._world.order_load(agent, model, self.settings.threads)
        return ("loading", f"{', '.join(map(self._loading, waiting))} load {model.name}") if waiting else None

    def _loading(self, agent: AgentId) -> str:
        """An agent, with how much of the model's files it has, where they are on their way."""
        done, of = self._world.agents[agent].fetched
        return f"{agent} ({done / 1e6:.0f} of {of / 1e6:.0f} MB)" if done < of else agent

    def disagreement(self, model: ModelSpec, members: dict[AgentId, Tier]) -> str | None:
        """Vertex numbers mean the same everywhere only if all exported equal graphs."""
        holders: dict[str, list[AgentId]] = {}
        for agent in members:
            holders.setdefault(self._world.agents[agent].loaded[model].graph.digest, []).append(agent)
        if len(holders) == 1:
            return None
        parts = [f"{', '.join(agents)} have {digest}" for digest, agents in holders.items()]
        return f"the graphs of {model.name} differ: {'; '.join(parts)}; install equal versions"

    def profile(self, model: ModelSpec, members: dict[AgentId, Tier]) -> Stage | None:
        """Where an agent has profiled other networks, their prediction will do until no frames flow."""
        records = {agent: self._world.agents[agent] for agent in members}
        waiting = [a for a, r in records.items() if model not in r.profiles and not r.predict(model)]
        for agent in waiting:
            self._world.order_profile(agent, model)
        return ("profiling", f"{', '.join(waiting)} measure {model.name}") if waiting else None

    def measure(self, members: dict[AgentId, Tier], *, busy: bool) -> Stage | None:
        """Links that are not known; unless `busy` with frames, also those of which nothing was heard for
        long. While frames flow a quick look has to do: somebody waits for the agent that came back."""
        waiting = []
        for agent in members:
            peers = []
            for peer in self._peers(agent, members):
                link = self._world.links.setdefault((agent, peer.agent), LinkRecord())
                stale = link.measured is not None and link.estimator.probe_due(self._world.now)
                if not link.known or (stale and not busy):
                    peers.append(peer)
            if peers:
                waiting.append(agent)
                self._world.order_links(agent, tuple(peers), quick=busy)
        return ("measuring", f"{', '.join(waiting)} measure links") if waiting else None

    def measure_out_of_sight(self, model: ModelSpec, members: dict[AgentId, Tier]) -> None:
        """While frames flow: links that nothing has crossed, and nobody has measured, for a while; agents
        that had nothing to do for a while."""
        for agent in members:
            if self._world.agents[agent].correction.sample_due(self._world.now):
                self._world.order_sample(agent, model)
            peers = [p for p in self._peers(agent, members) if self._is_out_of_sight(agent, p.agent)]
            if peers:
                self._world.order_links(agent, tuple(peers), quick=True)

    def unheard(self, choice: Choice, since_s: float) -> tuple[Subject, ...]:
        """Links and agents that matter to a plan, and that nobody has heard of since then: what happened to
        one may have happened to the next one, too. None once the time for looking is over: a plan would be
        made again and again."""
        if self._world.now >= since_s + VERIFY_S:
            return ()
        least_s = _MATTERS * choice.latency_s
        agents = sorted(choice.participants)
        subjects = (*((agent,) for agent in agents), *itertools.permutations(agents, 2))
        busy = (subject for subject in subjects if choice.busy_s.get("→".join(subject), 0.0) >= least_s)
        return tuple(subject for subject in busy if self._is_unheard(subject, since_s))

    def verify(
        self, subjects: Iterable[Subject], model: ModelSpec, members: dict[AgentId, Tier], since_s: float
    ) -> Stage | None:
        """Those of these that nobody has heard of since then are looked at, for `VERIFY_S` at most."""
        waiting = []
        for subject in subjects if self._world.now < since_s + VERIFY_S else ():
            if not set(subject) <= members.keys() or not self._is_unheard(subject, since_s):
                continue
            match subject:
                case (agent,):
                    self._world.order_sample(agent, model)
                case (source, target):
                    peer = self.peer(source, members[source], target, members[target])
                    self._world.order_links(source, (peer,), quick=True)
            waiting.append("→".join(subject))
        return ("measuring", f"{', '.join(waiting)} looked at before they are used") if waiting else None

    def _is_unheard(self, subject: Subject, since_s: float) -> bool:
        if len(subject) == 1:
            return not self._world.agents[subject[0]].correction.is_known_since(since_s)
        link = self._world.links.get((subject[0], subject[1]))
        return link is not None and not link.is_known_since(since_s, self._world.now)

    def _is_out_of_sight(self, source: AgentId, target: AgentId) -> bool:
        link = self._world.links.get((source, target))
        return link is None or link.is_out_of_sight(self._world.now)

    def _peers(self, agent: AgentId, members: dict[AgentId, Tier]) -> tuple[Peer, ...]:
        """Whom `agent` may have to send to."""
        others = self.settings.neighbours(agent, members)
        return tuple(self.peer(agent, members[agent], other, members[other]) for other in others)

    def peer(self, agent: AgentId, tier: Tier, other: AgentId, there: Tier) -> Peer:
        """The link from `agent` to `other`, as `agent` is told of it."""
        shape = self.settings.shape(tier, there)
        return Peer(other, there, self._world.agents[other].register.data_address, shape)
