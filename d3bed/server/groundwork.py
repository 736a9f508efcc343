"""What a plan must know of the agents of a pipeline, and the orders that fetch what is not known.

Pure. Models are loaded, their graphs agree, times are profiled (or predicted), links are measured: each
step says what it waits for, or None. Called again after every event, it orders nothing twice. It must
not know what is wanted, or what the plan will be.
"""

from __future__ import annotations

import itertools

from d3bed.core.ids import TIERS, AgentId, Tier
from d3bed.core.messages import ModelSpec, Peer, Prepare, Route
from d3bed.plan import FAST_BYTES_PER_S, Choice
from d3bed.server.epochs import PlannedEpoch, Wish
from d3bed.server.events import Subject
from d3bed.server.settings import PipelineSettings
from d3bed.server.views import Phase
from d3bed.server.world import World

__all__ = ["LOOK_S", "VERIFY_S", "Groundwork", "Stage"]

#: A link or an agent that a frame keeps busy for less than this share of its latency hardly matters.
_MATTERS = 0.02
#: After a change what it is about to be planned with is looked at for so long, and what may be instead for
#: `LOOK_S`; what does not answer by then is planned with as it is known.
VERIFY_S, LOOK_S = 2.0, 0.5
#: What was heard of longer ago than this may have changed together with what has.
FRESH_S = 1.0

#: What a pipeline is at, and of whom or what it waits.
Stage = tuple[Phase, str]


class Groundwork:
    """Of one pipeline. `members` are always those of its agents that are to be planned with."""

    def __init__(self, settings: PipelineSettings, world: World) -> None:
        self.settings = settings
        self._world = world
        #: Since when something seems to change; None while nothing does.
        self._suspected_s: float | None = None

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
                link = self._world.link(agent, peer.agent)
                stale = link.measured is not None and link.estimator.probe_due(self._world.now)
                if not link.known or (stale and not busy):
                    peers.append(peer)
            if peers:
                waiting.append(agent)
                self._world.order_links(agent, tuple(peers), quick=busy)
        return ("measuring", f"{', '.join(waiting)} measure links") if waiting else None

    def measure_out_of_sight(self, model: ModelSpec, members: dict[AgentId, Tier]) -> None:
        """While frames flow: links that nothing has crossed, and nobody has measured, for a while; agents
        that had nothing to do for a while. Where something may be about to change all of them: what would be
        used instead is known once it has."""
        self._suspect(members)
        suspected_s = self._suspected_s
        stale = set(self.stale(members, suspected_s)) if suspected_s is not None else set()
        for agent in members:
            if (agent,) in stale or self._world.agents[agent].correction.sample_due(self._world.now):
                self._world.order_sample(agent, model)
            peers = [
                peer
                for peer in self._peers(agent, members)
                if (agent, peer.agent) in stale or self._is_out_of_sight(agent, peer.agent)
            ]
            if peers:
                self._world.order_links(agent, tuple(peers), quick=True)

    def _suspect(self, members: dict[AgentId, Tier]) -> None:
        agents, links = self._world.agents, self._world.links
        suspicious = any(agents[agent].correction.is_suspicious for agent in members) or any(
            links[ends].estimator.is_suspicious
            for ends in itertools.permutations(members, 2)
            if ends in links
        )
        if not suspicious:
            self._suspected_s = None
        elif self._suspected_s is None:
            self._suspected_s = self._world.now

    @property
    def changed_since_s(self) -> float:
        """What was known earlier may have changed together with what has changed now."""
        return self._world.now - FRESH_S if self._suspected_s is None else self._suspected_s

    def to_verify(self, members: dict[AgentId, Tier]) -> tuple[Subject, ...]:
        """What is to be heard of before a plan is made for what has changed: agents without work, and links,
        those in use among them that no frame has crossed since."""
        agents, since_s = self._world.agents, self.changed_since_s
        idle = [(agent,) for agent in members if agents[agent].correction.is_idle(self._world.now)]
        return tuple(s for s in (*idle, *self._verifiable(members)) if self._is_unheard(s, since_s))

    def stale(self, members: dict[AgentId, Tier], since_s: float) -> tuple[Subject, ...]:
        """Agents without work and links without frames, of which nobody has heard since then."""
        now, agents, links = self._world.now, self._world.agents, self._world.links
        idle = [
            ends
            for ends in self._verifiable(members)
            if links[ends].estimator.is_idle(now) or links[ends].estimator.is_refuted
        ]
        found = [*((a,) for a in members if agents[a].correction.is_idle(now)), *idle]
        return tuple(subject for subject in found if self._is_unheard(subject, since_s))

    def _verifiable(self, members: dict[AgentId, Tier]) -> list[tuple[AgentId, AgentId]]:
        """Measured links toward the cloud or between edge boxes, and back where others of their medium just
        changed; but for those that hardly matter."""
        links, now, changed = self._world.links, self._world.now, self._world.links_changed
        return [
            ends
            for ends in itertools.permutations(members, 2)
            if (TIERS.index(members[ends[0]]) <= TIERS.index(members[ends[1]]) or changed(*ends)[1])
            and (link := links.get(ends)) is not None
            and link.measured is not None
            and (known := link.estimator.estimate(now)) is not None
            and known.bytes_per_s < FAST_BYTES_PER_S
        ]

    def unheard(self, choice: Choice, since_s: float) -> tuple[Subject, ...]:
        """Links and agents that matter to a plan, and that nobody has heard of since then: what happened to
        one may have happened to the next one, too."""
        least_s = _MATTERS * choice.latency_s
        agents = sorted(choice.participants)
        subjects = (*((agent,) for agent in agents), *itertools.permutations(agents, 2))
        busy = (subject for subject in subjects if choice.busy_s.get("→".join(subject), 0.0) >= least_s)
        return tuple(subject for subject in busy if self._is_unheard(subject, since_s))

    def verify(self, wish: Wish, members: dict[AgentId, Tier]) -> Stage | None:
        """What the wish wants to be heard of is looked at, as long as there is time."""
        waiting: list[Subject] = []
        if self._world.now < wish.until_s:
            known = (subject for subject in wish.verify if set(subject) <= members.keys())
            waiting = [subject for subject in known if self._is_unheard(subject, wish.since_s)]
        for agent in members:
            if (agent,) in waiting:
                self._world.order_sample(agent, wish.model)
            peers = [p for p in self._peers(agent, members) if (agent, p.agent) in waiting]
            if peers:
                self._world.order_links(agent, tuple(peers), quick=True)
        names = ", ".join(map("→".join, waiting))
        return ("measuring", f"{names} looked at before they are used") if waiting else None

    def _is_unheard(self, subject: Subject, since_s: float) -> bool:
        """Of a link whose medium has just changed for another: since that did."""
        if len(subject) == 1:
            return not self._world.agents[subject[0]].correction.is_known_since(since_s)
        ends = subject[0], subject[1]
        link, others = self._world.links.get(ends), self._world.links_changed(*ends)
        return link is not None and not link.is_known_since(since_s, self._world.now, others)

    def _is_out_of_sight(self, source: AgentId, target: AgentId) -> bool:
        link = self._world.links.get((source, target))
        return link is None or link.is_out_of_sight(self._world.now)

    def _peers(self, agent: AgentId, members: dict[AgentId, Tier]) -> tuple[Peer, ...]:
        """Whom `agent` may have to send to."""
        others = self.settings.neighbours(agent, members)
        return tuple(self.peer(agent, members[agent], other, members[other]) for other in others)

    def prepare(self, epoch: PlannedEpoch) -> None:
        """Order its agents to get ready for it."""
        for agent, tier in epoch.agents.items():
            peers = tuple(self.peer(agent, tier, to, epoch.agents[to]) for to in epoch.receivers(agent))
            epoch.detours |= {(agent, peer.agent) for peer in peers if peer.way is not None}
            self._world.send(
                agent,
                Prepare(
                    self.settings.id,
                    epoch.number,
                    epoch.wish.model,
                    epoch.plan,
                    Route(epoch.route),
                    peers,
                    self.settings.tolerance,
                ),
            )

    def opened(self, epoch: PlannedEpoch) -> str | None:
        """Of links that its agents made by way of others one that could be made directly now, in words."""
        for source, target in sorted(link for each in epoch.group for link in each.detours):
            link = self._world.links.get((source, target))
            if link is not None and not link.blocked and link.measured is not None:
                return f"{source} reaches {target} directly now"
        return None

    def peer(self, agent: AgentId, tier: Tier, other: AgentId, there: Tier) -> Peer:
        """The link from `agent` to `other`, as `agent` is told of it."""
        shape = self.settings.shape(tier, there)
        address = self._world.agents[other].register.data_address
        return Peer(other, there, address, shape, self._world.ways.of(agent, other))
