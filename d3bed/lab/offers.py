"""What users of the page may choose from: network presets and scenarios that are shipped.

Files are read once, when the server starts; one that cannot be read, or does not fit the testbed, is offered
with the reason instead of being left out in silence.
"""

from __future__ import annotations

from d3bed.config import Config, networks, read_network
from d3bed.core.errors import ConfigError
from d3bed.lab.scenario import in_words, read_scenario, shipped_scenarios
from d3bed.server.settings import Network, Scene, SceneEvent

__all__ = ["offered_networks", "offered_scenes"]


def offered_networks() -> dict[str, Network]:
    return {name: Network(text, read_network(name, "networks", name)) for name, text in networks().items()}


def offered_scenes(config: Config) -> tuple[Scene, ...]:
    """Shipped scenarios as requests to a server of this config."""
    found = []
    for path in shipped_scenarios():
        scenario = read_scenario(path)
        refused = ""
        try:
            scenario.check([agent.name for agent in config.agents], [p.id for p in config.pipelines])
        except ConfigError as error:
            refused = error.problem
        if scenario.restarts:
            refused = f"it has agents started: d3bed scenario play {scenario.name}"
        events = tuple(
            SceneEvent(event.at_s, path, body, in_words([event]))
            for event in scenario.events
            for path, body in event.orders([pipeline.id for pipeline in config.pipelines])
        )
        found.append(Scene(scenario.name, scenario.description, scenario.duration_s, events, refused))
    return tuple(found)
