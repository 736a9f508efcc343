"""The one door through which users change conditions: what is in force, by whom, until when.

Decides what each agent is told: every change lies over what is configured (a link's rate and latency,
an agent's speed, no load), and ends when its time is over, when somebody undoes it, or with what it is
about. Of two changes of the same thing the later one holds, and a note says who replaced whom.

A load and a speed belong to the process: they end when the agent is lost, and a new process starts without
them. A changed link is nobody's process: an agent that registers gets those that begin at it again. With the
server all of them end, since agents forget them when they register or hear nothing for some seconds.

Where an agent's speed is emulated, boards share this machine's cores and busy processes would slow them
all, so the speed drops instead. An emulated board has as many cores as it has compute threads (one, as a
rule), and a fair scheduler shares them among those threads and N busy processes:

    speed / (1 + N / cores)

It must not know how agents do what they are told, nor sockets or clocks other than `world.now`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from d3bed.core.ids import AgentId, CauseId, PipelineId
from d3bed.core.measurements import LinkShape
from d3bed.core.messages import SetLoad, SetSpeed, ShapeLink
from d3bed.server.events import Change, Quantity, Subject, Undo
from d3bed.server.pipeline import Pipeline
from d3bed.server.settings import Network
from d3bed.server.views import ConditionView
from d3bed.server.world import World

__all__ = ["Condition", "Conditions", "in_words", "loaded_speed"]


class Condition(msgspec.Struct, frozen=True):
    """One changed quantity. Those that one order changed share `cause_id`; `until_s` None: until undone."""

    subject: Subject
    quantity: Quantity
    value: float
    by: str
    since_s: float
    until_s: float | None
    cause_id: CauseId


class Conditions:
    """All changes in force, and what follows from each coming and going. `pipelines` know links' base."""

    def __init__(self, world: World, pipelines: Mapping[PipelineId, Pipeline]) -> None:
        self._world = world
        self._pipelines = pipelines
        self._in_force: dict[tuple[Subject, Quantity], Condition] = {}
        #: Pipelines on another network than agents that were here before were told of.
        self._rebased: set[PipelineId] = set()

    # ── coming and going ──────────────────────────────────────────────────────────────────────────

    def change(self, order: Change) -> None:
        """The subject must be a connected agent, or a link that is emulated (see `base`)."""
        now, cause_id = self._world.now, self._world.new_cause()
        until_s = None if order.for_s is None else now + order.for_s
        replaced = [
            old
            for quantity in order.values
            if (old := self._in_force.pop((order.subject, quantity), None)) is not None
        ]
        made = [
            Condition(order.subject, quantity, value, order.by, now, until_s, cause_id)
            for quantity, value in order.values.items()
        ]
        self._in_force |= {(order.subject, condition.quantity): condition for condition in made}
        text = f"{_name(order.subject)}: {in_words(made)}"
        if self._is_emulated(order.subject) and "load" in order.values:
            text += " (emulated: its speed drops)"
        text += f", by {order.by}" + (f" for {order.for_s:g} s" if order.for_s is not None else "")
        if replaced:
            text += f", in place of {in_words(replaced)} by {' and '.join(sorted({c.by for c in replaced}))}"
        self._world.note(text, cause_id=cause_id)
        self._log("begun", made)
        what = f"{_name(order.subject)}: {in_words(made)}"
        self._world.orders.begin(what, order.by, _action(order), id=cause_id)
        self._apply(order.subject, cause_id)

    def undo(self, order: Undo) -> None:
        orders, subject = self._world.orders, order.subject
        number = orders.begin(f"{_name(subject)}: {_undone(order)}", order.by, _action(order))
        ended = [c for q in order.quantities if (c := self._in_force.get((subject, q))) is not None]
        if not ended:
            orders.done(number, "nothing of it was changed")
        self._end(ended, f"undone by {order.by}", number)

    def end_due(self) -> None:
        """Call it now and then: ends those whose time is over."""
        now = self._world.now
        self._end(
            (c for c in self._in_force.values() if c.until_s is not None and c.until_s <= now),
            "its time is over",
        )

    def agent_lost(self, agent: AgentId) -> None:
        self._end((c for c in self._in_force.values() if c.subject == (agent,)), "the agent is gone")

    def agent_joined(self, agent: AgentId) -> None:
        """To be called after it was welcomed: that makes it forget what it was told before."""
        again = [c for c in self._in_force.values() if len(c.subject) == 2 and c.subject[0] == agent]
        for ends in {c.subject: None for c in again}:
            self._apply(ends)
            text = in_words(c for c in again if c.subject == ends)
            self._world.note(f"{_name(ends)} is changed still: {text}")
        for pipeline in self._rebased:
            if agent in self._pipelines[pipeline].settings.tiers:
                self._reapply(self._pipelines[pipeline], agent)

    def _end(self, which: Iterable[Condition], reason: str, order: CauseId | None = None) -> None:
        ended = list(which)
        for condition in ended:
            del self._in_force[condition.subject, condition.quantity]
        for subject in {c.subject: None for c in ended}:
            of_it = [c for c in ended if c.subject == subject]
            text = f"{_name(subject)}: {in_words(of_it)} over, {reason}"
            self._world.note(text, cause_id=of_it[0].cause_id)
            self._log("ended", of_it, reason)
            self._apply(subject, order)

    def change_network(self, pipe: Pipeline, name: str, networks: Mapping[str, Network], by: str) -> None:
        """Links of the pipeline are held to the rates of another preset; what users changed lies over it."""
        orders, what = self._world.orders, f"network {name}"
        pipe.reshape(name, networks[name].shapes)
        self._rebased.add(pipe.settings.id)
        order = orders.begin(what, by, {})
        self._world.note(f"{pipe.settings.id}: {what}, by {by}", pipeline=pipe.settings.id, cause_id=order)
        members = [agent for agent in pipe.settings.tiers if self._world.is_connected(agent)]
        for source in members:
            self._reapply(pipe, source)
        for source in members:
            orders.confirm(order, source)
        if not members:
            orders.done(order, "it holds for agents that join")

    def _reapply(self, pipe: Pipeline, source: AgentId) -> None:
        for target in pipe.settings.neighbours(source, pipe.members):
            if target != source and pipe.settings.is_shaped(source, target):
                self._apply((source, target))

    # ── what agents are told ──────────────────────────────────────────────────────────────────────

    def base(self, ends: Subject) -> LinkShape | None:
        """What a link is held to as configured; None where it is not emulated, and cannot be changed."""
        source, target = ends
        for pipe in self._pipelines.values():
            tiers = pipe.settings.tiers
            if source in tiers and target in tiers:
                shape = pipe.settings.shape(tiers[source], tiers[target])
                if shape is not None:
                    return shape
        return None

    def _apply(self, subject: Subject, order: CauseId | None = None) -> None:
        """With `order` the agent that is told has to confirm it."""
        values = {c.quantity: c.value for c in self._in_force.values() if c.subject == subject}
        match subject:
            case (agent,):
                self._apply_agent(agent, values)
            case (source, target):
                self._apply_link(source, target, values)
        self._world.publish("conditions", self.views)
        if order is not None:
            self._world.orders.confirm(order, subject[0])

    def _apply_agent(self, agent: AgentId, values: Mapping[Quantity, float]) -> None:
        world, record = self._world, self._world.agents[agent]
        base = values.get("speed", record.register.speed)
        speed, processes = loaded_speed(base, int(values.get("load", 0)), record.threads)
        if speed != record.emulated_speed:
            world.send(agent, SetSpeed(speed))
        if processes != record.processes:
            world.send(agent, SetLoad(processes))
        record.speed, record.processes = speed, processes
        world.publish("agent", record.view(world.now))

    def _apply_link(self, source: AgentId, target: AgentId, values: Mapping[Quantity, float]) -> None:
        """What follows is for the monitors to notice; a link that carries nothing is measured again."""
        world, base = self._world, self.base((source, target))
        if base is None:
            return
        changes = {str(quantity): value for quantity, value in values.items()}
        rebased = any(self._pipelines[p].settings.is_shaped(source, target) for p in self._rebased)
        shape = msgspec.structs.replace(base, **changes) if changes or rebased else None
        world.send(source, ShapeLink(target, shape))
        active = [p.active for p in self._pipelines.values() if p.active]
        if not any({source, target} <= epoch.agents.keys() for epoch in active):
            world.link(source, target).forget()

    # ── what is shown ─────────────────────────────────────────────────────────────────────────────

    @property
    def views(self) -> tuple[ConditionView, ...]:
        """What one order changed of a subject is shown as one, oldest first."""
        groups: dict[tuple[Subject, CauseId], list[Condition]] = {}
        for condition in self._in_force.values():
            groups.setdefault((condition.subject, condition.cause_id), []).append(condition)
        return tuple(self._view(group) for group in groups.values())

    def _view(self, group: list[Condition]) -> ConditionView:
        first = group[0]
        return ConditionView(
            subject=_name(first.subject),
            agents=first.subject,
            what=in_words(group),
            values={c.quantity: c.value for c in group},
            by=first.by,
            since_s=first.since_s,
            until_s=first.until_s,
            emulated=self._is_emulated(first.subject) or first.quantity != "load",
        )

    def _is_emulated(self, subject: Subject) -> bool:
        if len(subject) == 2:
            return True
        speed = self._in_force.get((subject, "speed"))
        return (speed.value if speed else self._world.agents[subject[0]].register.speed) < 1

    def _log(self, event: str, conditions: list[Condition], reason: str = "") -> None:
        for condition in conditions:
            self._world.record(
                "events",
                at_s=self._world.now,
                cause_id=condition.cause_id,
                kind="condition",
                data=msgspec.to_builtins(condition) | {"event": event, "reason": reason},
            )


def loaded_speed(base: float, processes: int, cores: int) -> tuple[float, int]:
    """The speed that an agent of speed `base` is to emulate under a load, and the busy processes that its
    board is really to carry: where `base` is below 1 a load only lowers the speed, see above."""
    if base < 1:
        return base / (1 + processes / cores), 0
    return base, processes


def in_words(conditions: Iterable[Condition]) -> str:
    return ", ".join(_WORDS[c.quantity](c.value) for c in conditions)


_WORDS = {
    "bytes_per_s": lambda value: f"{value * 8e-6:g} Mbit/s",
    "latency_s": lambda value: f"{value * 1e3:g} ms",
    "loss": lambda value: f"{value * 100:g} % loss",
    "load": lambda value: f"{value:g} busy process" + ("" if value == 1 else "es"),
    "speed": lambda value: f"speed {value:g}",
}


def _undone(order: Undo) -> str:
    return "as configured" if len(order.subject) == 2 else f"{' and '.join(order.quantities)} as configured"


def _action(order: Change | Undo) -> dict[str, str | float | None]:
    """In the words of scenario files."""
    if isinstance(order, Undo):
        match order.subject, order.quantities:
            case (source, target), _:
                return {"action": "reset", "from": source, "to": target}
            case (agent, *_), ("load", *_):
                return {"action": "load", "agent": agent, "processes": 0}
        return {"action": "speed", "agent": order.subject[0]}
    values = order.values
    match order.subject:
        case (source, target):
            rate, latency, loss = (values.get(q) for q in ("bytes_per_s", "latency_s", "loss"))
            return {
                "action": "link",
                "from": source,
                "to": target,
                "mbit_per_s": None if rate is None else round(rate * 8e-6, 6),
                "latency_ms": None if latency is None else round(latency * 1e3, 6),
                "loss_percent": None if loss is None else round(loss * 100, 6),
                "for_s": order.for_s,
            }
        case (agent, *_) if "load" in values:
            return {
                "action": "load",
                "agent": agent,
                "processes": int(values["load"]),
                "for_s": order.for_s,
            }
    return {"action": "speed", "agent": order.subject[0], "speed": values["speed"], "for_s": order.for_s}


def _name(subject: Subject) -> str:
    return "→".join(subject)
