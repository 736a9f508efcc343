"""On which testbed the grid is run: a config file, of it so many edge agents, and what it emulates.

`configs/compare.toml` unless the user names another. The file as it is run is written anew for each network,
with the edge agents that take part; where agents are on other machines they are the user's to start.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from d3bed.bench.compare.grid import Asked, Way, ways
from d3bed.bench.compare.predict import Case
from d3bed.config import Config, override, read_config, read_network
from d3bed.core.errors import ConfigError
from d3bed.core.ids import AgentId, Tier
from d3bed.core.measurements import LinkRate, LinkShape
from d3bed.lab.planning import UNSHAPED, Say, profiled
from d3bed.server.settings import PipelineSettings

__all__ = ["AS_THEY_ARE", "Setting", "read_setting"]

#: The name of the network whose links are left as they are.
AS_THEY_ARE = "unshaped"

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Setting:
    """A config whose first pipeline has the edge agents that take part, and no pins."""

    config: Config

    @property
    def pipeline(self) -> PipelineSettings:
        return self.config.pipelines[0]

    @property
    def speeds(self) -> dict[AgentId, float]:
        return {agent: self.config.agent(agent).speed for agent in self.pipeline.tiers}

    @property
    def remote(self) -> list[AgentId]:
        """Agents that are on other machines."""
        return [agent.name for agent in self.config.agents if agent.host not in _LOOPBACK]

    @property
    def digest(self) -> str:
        """What results have to agree in to be of one grid, in words."""
        found = ", ".join(f"{agent} {speed:g}" for agent, speed in self.speeds.items())
        return f"speeds {found}; weights {self.pipeline.model.weights}; threads {self.pipeline.threads}"

    def emulated(self, networks: Sequence[str]) -> tuple[str, ...]:
        """What does not happen as on real boards and links, a sentence each."""
        slow = [(agent, speed) for agent, speed in self.speeds.items() if speed != 1]
        found = []
        if slow:
            alike = [
                (speed, [agent for agent, _ in group])
                for speed, group in itertools.groupby(slow, key=lambda each: each[1])
            ]
            each = ", ".join(
                f"{agents[0]}{f' to {agents[-1]}' if len(agents) > 1 else ''} {speed:g}"
                for speed, agents in alike
            )
            found.append(
                "Boards: agents really compute, and are then held to the time of a board 1/speed times"
                f" slower than a core of this machine ({each})."
            )
        shaped = [network for network in networks if network != AS_THEY_ARE]
        if shaped:
            found.append(
                "Links really carry their bytes, paced in user space by the presets in configs/networks"
                f" ({', '.join(shaped)}), which are ours."
            )
        if not self.remote:
            found.append("All agents are processes on one machine.")
        return tuple(found)

    def shapes(self, network: str) -> dict[str, LinkShape]:
        return {} if network == AS_THEY_ARE else read_network(network, "--networks", "")

    def cases(self, asked: Asked, cache_dir: Path, say: Say) -> list[Case]:
        """A case per cell, with profiles of this machine: kept ones, or measured now."""
        wanted = ways(asked.strategies)
        found = []
        for model in asked.models:
            settings = override(self.config, model=model).pipelines[0]
            graph, profile = profiled(settings, cache_dir, say)
            for network in asked.networks:
                found.append(
                    Case(
                        model=model,
                        network=network,
                        graph=graph,
                        times_s=profile.times_s,
                        fixed_s=profile.fixed_s,
                        agents=self.pipeline.tiers,
                        speeds=self.speeds,
                        device=self.pipeline.device,
                        rates=_rates(self.shapes(network)),
                        ways=wanted,
                        singles=asked.frames is not None,
                        streams=asked.streams,
                        rate_per_s=asked.rate_per_s,
                    )
                )
        return found

    def started(self, config: Config) -> tuple[Config, list[str], str | None]:
        """What `open_testbed` is to start of a file written by `write`. Raises `ConfigError`."""
        if not self.remote:
            return config, ["--port", "0", "--fixed"], None
        token = os.environ.get("D3BED_TOKEN")
        if not token:
            remedy = "set it to one of your own, and start the boards' agents with the same"
            raise ConfigError("D3BED_TOKEN", "", "agents on other machines need a token", remedy)
        local = tuple(agent for agent in config.agents if agent.name not in self.remote)
        options = ["--host", "0.0.0.0", "--port", str(self.config.port), "--fixed"]
        return msgspec.structs.replace(config, agents=local), options, token

    def write(self, folder: Path, network: str, model: str, way: Way) -> Config:
        """The config file of a testbed for this network, and for the input that the way ships."""
        shapes = self.shapes(network)
        path = folder / "testbed.toml"
        preset = folder / "network.toml"
        pipeline = self.pipeline
        table: dict[str, object] = {
            "device": pipeline.device,
            "edges": list(pipeline.edges),
            "model": model,
            "weights": pipeline.model.weights,
            "threads": pipeline.threads,
            "floats": way.published,
            "adapt": False,
            "autostart": False,
        }
        if pipeline.cloud is not None:
            table["cloud"] = pipeline.cloud
        if shapes:
            preset.write_text(_network_toml(network, shapes), encoding="utf-8")
            table["network"] = str(preset)
        text = ["[pipelines.main]", *(_line(key, value) for key, value in table.items())]
        for agent in self.config.agents:
            fields = {k: v for k, v in msgspec.structs.asdict(agent).items() if v is not None}
            if photos := fields.get("photos"):
                fields["photos"] = str((Path(self.config.path).parent / photos).resolve())
            text += ["", "[[agents]]", *(_line(key, value) for key, value in fields.items())]
        path.write_text("\n".join(text) + "\n", encoding="utf-8")
        return read_config(path)


def read_setting(path: Path, edges: int) -> Setting:
    """Of the file's edge agents the first `edges`. Raises `ConfigError`."""
    config = read_config(path)
    if not config.pipelines:
        raise ConfigError(config.path, "pipelines", "there is none", "add a [pipelines.NAME] table")
    pipeline = config.pipelines[0]
    if not 1 <= edges <= max(1, len(pipeline.edges)):
        have = len(pipeline.edges)
        raise ConfigError("--edges", "", f"{edges} is out of range", f"{path} has 1 to {have} edge agents")
    kept = msgspec.structs.replace(pipeline, edges=pipeline.edges[:edges], pins={})
    agents = tuple(agent for agent in config.agents if agent.name in kept.tiers)
    return Setting(msgspec.structs.replace(config, agents=agents, pipelines=(kept,)))


def _rates(shapes: dict[str, LinkShape]) -> dict[str, LinkRate]:
    """By pair of tiers; a fast local network where nothing is said, no way past the edge."""
    found = {}
    for here in Tier:
        for there in Tier:
            pair = f"{here}-{there}"
            shape = shapes.get(pair)
            if shape is not None:
                found[pair] = LinkRate(shape.bytes_per_s, shape.latency_s)
            elif abs(here.rank - there.rank) == 1 or here is there is Tier.EDGE:
                found[pair] = UNSHAPED
    return found


def _network_toml(network: str, shapes: dict[str, LinkShape]) -> str:
    lines = [_line("description", network), "[links]"]
    for pair, shape in shapes.items():
        rate, latency = shape.bytes_per_s * 8e-6, shape.latency_s * 1e3
        lines.append(f"{pair} = {{ mbit_per_s = {rate!r}, latency_ms = {latency!r} }}")
    return "\n".join(lines) + "\n"


def _line(key: str, value: object) -> str:
    """TOML takes JSON's strings, numbers, booleans and lists."""
    return f"{key} = {json.dumps(value)}"
