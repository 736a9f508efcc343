"""What plans of one pipeline leave out, though it is there: agents that failed as helpers, for a while;
vertices whose tiles were not exact, for good; decoding where it would make other pixels. And which profiles
are to be measured anew, because predictions failed. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from d3bed.core.ids import TIERS, AgentId, Epoch, Tier
from d3bed.core.measurements import TileReady
from d3bed.core.messages import ModelLoaded, ModelSpec
from d3bed.plan import Pin
from d3bed.server.epochs import PlannedEpoch

__all__ = ["RESCUES", "RESCUES_S", "SHUN_S", "Distrust"]

#: How long edge agents whose tiles did not come are planned without; so many frames of an epoch within so
#: long must have missed them: one was a hiccup, and where a load has come three show that, which is followed.
SHUN_S, RESCUES, RESCUES_S = 30.0, 4, 10.0
#: A prediction that is off by more has failed; so many in a row call for a fresh profile, of one agent at
#: most once in `RENEW_S`.
FAILED, IN_A_ROW, RENEW_S = 0.20, 3, 600.0


@dataclass
class Distrust:
    """`shunned`: until when; `untiled`: vertices by model; `said`: sentences that are no news."""

    shunned: dict[AgentId, float] = field(default_factory=dict)
    untiled: dict[ModelSpec, set[int]] = field(default_factory=dict)
    #: When frames of the latest epoch had to do without tiles.
    rescued_s: tuple[Epoch, tuple[float, ...]] = (Epoch(0), ())
    said: set[str] = field(default_factory=set)
    failures: int = 0
    #: Agents that are to profile a model anew, and when each was found to be off.
    stale: dict[AgentId, ModelSpec] = field(default_factory=dict)
    renewed: dict[AgentId, float] = field(default_factory=dict)

    def failed(self, error: float) -> bool:
        """A prediction was off by this share; whether it is the last of `IN_A_ROW` that failed."""
        self.failures = self.failures + 1 if abs(error) > FAILED else 0
        enough = self.failures >= IN_A_ROW
        self.failures %= IN_A_ROW
        return enough

    def renew(self, agent: AgentId, model: ModelSpec, now: float) -> bool:
        """Ask for a fresh profile; whether it is not too soon."""
        if now < self.renewed.get(agent, float("-inf")) + RENEW_S:
            return False
        self.renewed[agent], self.stale[agent] = now, model
        return True

    def shun_helpers(self, epoch: PlannedEpoch, now: float) -> bool:
        """Tiles of a frame did not come. Returns whether that was once too often."""
        of, times_s = self.rescued_s
        lately = tuple(s for s in times_s if of == epoch.number and now - s < RESCUES_S)
        self.rescued_s = epoch.number, (*lately, now)
        if len(lately) + 1 < RESCUES:
            return False
        for helper in set(epoch.agents) - set(epoch.route.values()):
            self.shunned[helper] = now + SHUN_S
        return True

    def lost(self, agent: AgentId) -> None:
        """It was lost, hence its tiles did not come: nobody else is to blame, a new process is trusted."""
        until_s = self.shunned.get(agent)
        self.shunned = {other: s for other, s in self.shunned.items() if s != until_s}

    def trusted(self, members: Mapping[AgentId, Tier], now: float) -> dict[AgentId, Tier]:
        return {agent: tier for agent, tier in members.items() if self.shunned.get(agent, 0.0) <= now}

    def never_tile(self, epoch: PlannedEpoch, inexact: Iterable[TileReady]) -> str:
        """Tiles of these blocks differ from the undivided network; returns the first block's name."""
        names = []
        untiled = self.untiled.setdefault(epoch.wish.model, set())
        for tile in inexact:
            first, last = tile.vertices
            blocks = (each.block.vertices for each in epoch.plan.tiles)
            untiled.update(v for mine in blocks if (mine[0], mine[-1]) == tile.vertices for v in mine)
            names.append(f"{epoch.graph.vertices[first].name} … {epoch.graph.vertices[last].name}")
        return names[0]

    def decoding(
        self, loaded: Mapping[AgentId, ModelLoaded], members: Mapping[AgentId, Tier], device: AgentId
    ) -> tuple[tuple[Pin, ...], str | None]:
        """Decoding keeps to tiers where all agents have the device's decoder; once, a sentence says so."""
        ours = loaded[device].decoder
        foreign = {agent: tier for agent, tier in members.items() if loaded[agent].decoder != ours}
        if not foreign:
            return (), None
        tiers = tuple(tier for tier in TIERS if tier not in foreign.values())
        vertices = [vertex.name for vertex in loaded[device].graph.vertices if vertex.kind == "decode"]
        others = ", ".join(f"{agent} with {loaded[agent].decoder}" for agent in foreign)
        text = f"photos are not decoded on {', '.join(foreign)}: {device} decodes with {ours}, {others}"
        news = None if text in self.said else text
        self.said.add(text)
        return tuple(Pin(name, tiers) for name in vertices), news
