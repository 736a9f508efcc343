"""What agents measured of themselves and of links: kept, shown, and told to the pipelines that it concerns.

Pure. What is to be measured, and when, `groundwork` and `world` decide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from d3bed.core.messages import LinkFailed, LinkMeasured, Profiled, SpeedSampled
from d3bed.server.pipeline import Pipeline
from d3bed.server.world import AgentRecord, World

__all__ = ["Readings"]


class Readings:
    """`pipelines_of` are those that an agent has a part in."""

    def __init__(self, world: World, pipelines_of: Callable[[AgentRecord], Iterable[Pipeline]]) -> None:
        self._world, self._pipelines_of = world, pipelines_of

    def profiled(self, record: AgentRecord, message: Profiled) -> str | None:
        """Returns what is wrong with the profile, if anything is."""
        agent, model = record.register.agent, message.model
        loaded = record.loaded.get(model)
        if loaded is None:
            return (
                None  # a server before this one asked for it; it is asked for again when the model is loaded
            )
        if len(loaded.graph.vertices) != len(message.times_s):
            return "its profile does not fit its graph"
        if sum(message.times_s) <= 0:
            return "its profile says that nothing takes any time"
        before, guessed = record.times_s(model), record.is_guessed(model)
        record.profiles[model] = message.times_s
        if before is not None and (guessed or before != message.times_s):
            record.correction.forget(loaded.graph.digest)  # it was about what was thought before
            for pipe in self._pipelines_of(record):
                pipe.profiled(agent, model, sum(before) / sum(message.times_s) - 1)
        if len(message.fixed_s) == len(message.times_s):
            record.fixed[model] = message.fixed_s
        self._keep(record, "profile", f"{agent} {model.key}", message)
        return None

    def speed_sampled(self, record: AgentRecord, message: SpeedSampled) -> None:
        record.asked_s = float("-inf")
        times_s, loaded = record.times_s(message.model), record.loaded.get(message.model)
        known = times_s is not None and message.vertex < len(times_s)
        expected_s = times_s[message.vertex] if times_s is not None and known else 0.0
        if loaded is not None and expected_s > 0:
            ratio = message.taken_s / expected_s
            record.correction.sampled(loaded.graph.digest, ratio, self._world.now)
            self._looked(record, again=record.correction.is_doubtful)

    def link_measured(self, record: AgentRecord, message: LinkMeasured) -> None:
        world, agent, peer = self._world, record.register.agent, message.peer
        world.asked.done(agent, ("link", peer), ("look", peer))
        link = world.link(agent, peer)
        (_, others), (leant, leaning) = world.links_changed(agent, peer), world.leaning_near(agent, peer)
        link.probed(message, world.now, others, leaning)
        if link.estimator.has_changed(world.now):
            if leant != (agent, peer) and world.links[leant].estimator.confirm(leaning, world.now):
                world.link_changed(*leant)
            world.link_changed(agent, peer)
        world.publish("link", link.view(agent, peer, world.now))
        if message.quick:
            if link.estimator.has_changed(world.now):
                self._looked(record, again=link.estimator.is_doubtful)
        else:
            self._keep(record, "link", f"{agent}→{peer}", message)
            world.ways.measured(agent, peer)

    def link_failed(self, record: AgentRecord, message: LinkFailed) -> None:
        world, agent, peer = self._world, record.register.agent, message.peer
        if not world.asked.done(agent, ("link", peer), ("look", peer)):
            return  # of a process that is gone by now: it says nothing of the next one
        link = world.link(agent, peer)
        if world.ways.failed(agent, message):
            link.forget()  # measured anew, by that way
            world.publish("link", link.view(agent, peer, world.now))
            return
        link.failed(message.problem, world.now)
        world.publish("link", link.view(agent, peer, world.now))
        world.note(f"link {agent}→{peer} cannot be used: {message.problem}", "warn")

    def _looked(self, record: AgentRecord, *, again: bool) -> None:
        """What a look told need not wait for the next tick; but a second one does, or the same hiccup would
        spoil both."""
        for pipe in () if again else self._pipelines_of(record):
            pipe.watch()

    def _keep(self, record: AgentRecord, kind: str, subject: str, message: object) -> None:
        wishes = [pipe.wish for pipe in self._pipelines_of(record) if pipe.wish is not None]
        self._world.record(
            "measurements",
            at_s=self._world.now,
            cause_id=wishes[0].cause_id if wishes else None,
            kind=kind,
            subject=subject,
            data=msgspec.to_builtins(message),
        )
