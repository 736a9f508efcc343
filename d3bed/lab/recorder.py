"""What users do on a running testbed, as a scenario: from the feed's events, whoever made the changes.

Pure: `Recorder.saw` takes events as `server/feed.py` describes them. An agent that is lost was killed, one
that comes back was started; a change that ends by itself is written with its end, one that a user undid with
the undoing.
"""

from __future__ import annotations

from typing import Any

from d3bed.lab.scenario import (
    Event,
    Kill,
    Link,
    Load,
    Model,
    Pause,
    Rate,
    Reset,
    Resume,
    Scenario,
    Speed,
    Start,
    Strategy,
)

__all__ = ["Recorder"]

#: A change that ends so close to its time was not undone by anybody.
_IN_TIME_S = 0.5


class Recorder:
    """`begun_s`: time zero, on the server's clock."""

    def __init__(self, state: dict[str, Any], begun_s: float) -> None:
        self._begun_s = self._now_s = begun_s
        self._conditions: list[dict[str, Any]] = list(state.get("conditions", []))
        self._connected = {a["agent"] for a in state.get("agents", []) if a["state"] == "connected"}
        self._wishes = {p["id"]: _wish(p, {}) for p in state.get("pipelines", [])}
        self.events: list[Event] = []

    def saw(self, event: dict[str, Any]) -> None:
        """An event of the feed."""
        self._now_s = event["time_s"]
        data = event["data"]
        match event["kind"]:
            case "conditions":
                self._changed(data)
            case "agent":
                self._agent(data["agent"], data.get("state") == "connected")
            case "pipeline":
                self._wished(data)

    def tick(self, now_s: float) -> None:
        """The recording lasts until here."""
        self._now_s = now_s

    def scenario(self, name: str) -> Scenario:
        return Scenario(
            name=name,
            where=f"{name}.toml",
            description=f"recorded: {len(self.events)} events",
            duration_s=max(self._at_s, 0.1),
            events=tuple(self.events),
        )

    @property
    def _at_s(self) -> float:
        return round(max(0.0, self._now_s - self._begun_s), 2)

    def _changed(self, now: list[dict[str, Any]]) -> None:
        before, self._conditions = self._conditions, now
        for condition in now:
            if not any(_is_same(condition, old) for old in before):
                self.events.append(self._begun(condition))
        for old in before:
            if any(_is_same(old, condition) for condition in now):
                continue
            over = old["until_s"] is not None and old["until_s"] <= self._now_s + _IN_TIME_S
            replaced = any(
                c["agents"] == old["agents"] and c["values"].keys() & old["values"].keys() for c in now
            )
            if not over and not replaced and set(old["agents"]) <= self._connected:
                self.events.append(self._undone(old))

    def _begun(self, condition: dict[str, Any]) -> Event:
        values, agents = condition["values"], condition["agents"]
        until_s = condition["until_s"]
        for_s = None if until_s is None else round(until_s - condition["since_s"], 3)
        if len(agents) == 2:
            rate, latency, loss = (values.get(key) for key in ("bytes_per_s", "latency_s", "loss"))
            return Link(
                at_s=self._at_s,
                source=agents[0],
                target=agents[1],
                mbit_per_s=None if rate is None else round(rate * 8e-6, 6),
                latency_ms=None if latency is None else round(latency * 1e3, 6),
                loss_percent=None if loss is None else round(loss * 100, 6),
                for_s=for_s,
            )
        if "load" in values:
            return Load(at_s=self._at_s, agent=agents[0], processes=int(values["load"]), for_s=for_s)
        return Speed(at_s=self._at_s, agent=agents[0], speed=values["speed"], for_s=for_s)

    def _undone(self, condition: dict[str, Any]) -> Event:
        agents = condition["agents"]
        if len(agents) == 2:
            return Reset(at_s=self._at_s, source=agents[0], target=agents[1])
        if "load" in condition["values"]:
            return Load(at_s=self._at_s, agent=agents[0], processes=0)
        return Speed(at_s=self._at_s, agent=agents[0])

    def _agent(self, agent: str, connected: bool) -> None:
        if connected and agent not in self._connected:
            self._connected.add(agent)
            self.events.append(Start(at_s=self._at_s, agent=agent))
        elif not connected and agent in self._connected:
            self._connected.discard(agent)
            self.events.append(Kill(at_s=self._at_s, agent=agent))

    def _wished(self, changed: dict[str, Any]) -> None:
        """Of a pipeline only what changed is told; one that is new is no wish."""
        name = changed["id"]
        old = self._wishes.get(name)
        new = self._wishes[name] = _wish(changed, old or {})
        if old is None:
            return
        if new["model"] != old["model"]:
            self.events.append(Model(at_s=self._at_s, model=new["model"], pipeline=name))
        if new["strategy"] != old["strategy"]:
            self.events.append(Strategy(at_s=self._at_s, strategy=new["strategy"], pipeline=name))
        if new["rate_per_s"] != old["rate_per_s"]:
            self.events.append(Rate(at_s=self._at_s, rate_per_s=new["rate_per_s"], pipeline=name))
        if new["counting"] != old["counting"]:
            kind = Resume if new["counting"] else Pause
            self.events.append(kind(at_s=self._at_s, pipeline=name))


def _wish(changed: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """What users ask of a pipeline, from its view, or from what changed of it."""
    keys = ("strategy", "model", "rate_per_s", "counting")
    return {key: changed.get(key, before.get(key)) for key in keys}


def _is_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether they come from one order; what others replaced of it may be missing in one."""
    keys = ("agents", "by", "since_s", "until_s")
    return all(one[key] == other[key] for key in keys)
