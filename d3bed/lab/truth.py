"""What a scenario really makes of a testbed: plans can be judged by that instead of by what monitors saw.

Pure. Rates and speeds are those that links are shaped to and boards emulate, so it holds on emulated testbeds
only, and as exactly as their links are shaped (within 2 %). Only links, loads and speeds are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

from d3bed.config import Config
from d3bed.core.errors import ConfigError
from d3bed.core.ids import AgentId
from d3bed.core.measurements import LinkShape
from d3bed.lab.scenario import Event, Link, Load, Reset, Scenario, Speed
from d3bed.server.circumstances import Circumstances
from d3bed.server.conditions import loaded_speed

__all__ = ["truth"]

_Ends = tuple[AgentId, AgentId]


def truth(scenario: Scenario, config: Config, ground: str, begun_s: float) -> list[Circumstances]:
    """From each change on, and from time zero (`begun_s`), of the config's first pipeline with one frame at a
    time. Raises `ConfigError` for a scenario of which other events change what plans are made from."""
    world, found = _World(config), []
    times_s = {0.0}
    for event, place in zip(scenario.events, scenario.places or [""] * len(scenario.events), strict=True):
        if not isinstance(event, Link | Reset | Load | Speed):
            raise ConfigError(
                scenario.where, place, "is no change of a link or a load", "use another scenario"
            )
        lasting_s = None if isinstance(event, Reset) else event.for_s
        times_s |= {event.at_s} if lasting_s is None else {event.at_s, event.at_s + lasting_s}
    for at_s in sorted(times_s):
        if at_s < scenario.duration_s:
            found.append(world.at(at_s, scenario.events, ground, begun_s))
    return found


class _World:
    def __init__(self, config: Config) -> None:
        self._pipeline = config.pipelines[0]
        self._speeds = {AgentId(agent.name): agent.speed for agent in config.agents}
        tiers = self._pipeline.tiers
        self._shapes: dict[_Ends, LinkShape] = {
            (here, there): shape
            for here in tiers
            for there in tiers
            if here != there and (shape := self._pipeline.shape(tiers[here], tiers[there])) is not None
        }

    def at(self, at_s: float, events: Sequence[Event], ground: str, begun_s: float) -> Circumstances:
        """What is in force then: of each quantity what was said last, unless its time is over."""
        rates = {ends: [shape.bytes_per_s, shape.latency_s] for ends, shape in self._shapes.items()}
        speeds, loads = dict(self._speeds), dict.fromkeys(self._speeds, 0)
        for event in events:
            if event.at_s > at_s:
                break
            match event:
                case Link(source=source, target=target):
                    over = _is_over(event, at_s)
                    for way in _ways(source, target, event.both):
                        shape, now = self._shapes[way], rates[way]
                        if event.mbit_per_s is not None:
                            now[0] = shape.bytes_per_s if over else event.mbit_per_s * 1e6 / 8
                        if event.latency_ms is not None:
                            now[1] = shape.latency_s if over else event.latency_ms / 1e3
                case Reset(source=source, target=target):
                    for way in _ways(source, target, event.both):
                        rates[way] = [self._shapes[way].bytes_per_s, self._shapes[way].latency_s]
                case Load(agent=agent, processes=processes):
                    loads[AgentId(agent)] = 0 if _is_over(event, at_s) else processes
                case Speed(agent=agent, speed=speed):
                    base = self._speeds[AgentId(agent)]
                    speeds[AgentId(agent)] = base if _is_over(event, at_s) or speed is None else speed
        threads = self._pipeline.threads
        factors = {
            a: self._speeds[a] / loaded_speed(speeds[a], loads[a], threads)[0] for a in self._pipeline.tiers
        }
        return Circumstances(
            at_s=begun_s + at_s,
            ground=ground,
            alone=True,
            factors=factors,
            rates=tuple((*ends, rate, latency_s) for ends, (rate, latency_s) in rates.items()),
        )


def _is_over(event: Link | Load | Speed, at_s: float) -> bool:
    return event.for_s is not None and event.at_s + event.for_s <= at_s


def _ways(source: str, target: str, both: bool) -> list[_Ends]:
    ends = (AgentId(source), AgentId(target))
    return [ends, ends[::-1]] if both else [ends]
