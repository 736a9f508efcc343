"""What a run's history shows, as numbers and sentences that a report prints. Pure; see `report`."""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass

from d3bed.core.ids import AgentId, Tier
from d3bed.server.history import RunHistory
from d3bed.server.views import EpochHistory, LinkReport

__all__ = ["Bin", "Mark", "backbone_bytes", "binned", "changes", "emulated", "is_backbone", "off", "switches"]


@dataclass(frozen=True)
class Bin:
    """Frames that started within `start_s` … `end_s` (since the run's start). Times per frame, in seconds.

    `compute_s` and `waited_s` (on the device, until it was started) are means; `rest_s` is what the mean
    latency has beyond them: links and queues.
    """

    start_s: float
    end_s: float
    frames: int
    low_s: float
    median_s: float
    high_s: float
    compute_s: dict[Tier, float]
    waited_s: float
    rest_s: float


def binned(history: RunHistory, most: int) -> list[Bin]:
    """At most about `most` bins of equal length, those without frames left out."""
    frames, run = history.frames, history.run
    if not frames.frame:
        return []
    start_s, end_s = min(frames.started_s), max(frames.started_s)
    width_s = max((end_s - start_s) / most, 1e-3)
    columns = {Tier.DEVICE: frames.device_s, Tier.EDGE: frames.edge_s, Tier.CLOUD: frames.cloud_s}
    members: dict[int, list[int]] = {}
    for index, at_s in enumerate(frames.started_s):
        members.setdefault(min(most - 1, int((at_s - start_s) / width_s)), []).append(index)
    found = []
    for number, indices in sorted(members.items()):
        latency_s = [frames.latency_s[i] for i in indices]
        compute_s = {
            tier: sum(column[i] or 0.0 for i in indices) / len(indices) for tier, column in columns.items()
        }
        waited_s = sum(frames.waited_s[i] for i in indices) / len(indices)
        began_s = start_s - run.started_s + number * width_s
        found.append(
            Bin(
                start_s=began_s,
                end_s=began_s + width_s,
                frames=len(indices),
                low_s=min(latency_s),
                median_s=statistics.median(latency_s),
                high_s=max(latency_s),
                compute_s=compute_s,
                waited_s=waited_s,
                rest_s=max(0.0, statistics.fmean(latency_s) - sum(compute_s.values()) - waited_s),
            )
        )
    return found


@dataclass(frozen=True)
class Mark:
    """Something that happened `at_s` after the run's start."""

    at_s: float
    label: str
    text: str


def switches(history: RunHistory) -> list[Mark]:
    """Epochs that took over while the run went on, the first one left out: there was none before it."""
    later = [e for e in history.epochs if (e.activated_at or 0.0) > history.run.started_s]
    return [
        Mark(
            (epoch.activated_at or 0.0) - history.run.started_s,
            f"e{epoch.epoch}",
            f"epoch {epoch.epoch}: {epoch.cause}",
        )
        for epoch in later
    ]


def changes(history: RunHistory) -> list[Mark]:
    """What happened to agents and links, or was done to them, while the run went on."""
    end_s = history.run.ended_s or float("inf")
    return [
        Mark(event.at_s - history.run.started_s, "", event.text)
        for event in history.events
        if event.kind == "note" and event.pipeline is None and history.run.started_s <= event.at_s <= end_s
    ]


def off(epoch: EpochHistory) -> float | None:
    """How much longer than predicted frames took, as a share; None where none was answered."""
    return None if epoch.measured_s is None else epoch.measured_s / epoch.predicted_s - 1


def is_backbone(link: LinkReport, tiers: dict[AgentId, Tier]) -> bool:
    """Whether the link leads to the cloud, or from it."""
    return Tier.CLOUD in (tiers.get(link.source), tiers.get(link.target))


def backbone_bytes(history: RunHistory) -> int:
    tiers = {agent.agent: agent.tier for agent in history.report.agents}
    return sum(link.bytes for link in history.report.links if is_backbone(link, tiers))


def emulated(history: RunHistory) -> list[str]:
    """What did not happen as on real boards and links, a sentence each."""
    report = history.report
    found = [
        f"{agent.agent} really computed, and was then held to the time of a board"
        f" {1 / agent.speed:.3g} times slower (speed {agent.speed:g})."
        for agent in report.agents
        if agent.speed != 1
    ]
    found += [
        f"{agent.agent} had {agent.cpus:g} of this machine's cores, by its control group."
        for agent in report.agents
        if agent.cpus is not None
    ]
    if held := [agent.agent for agent in report.agents if agent.tc]:
        found.append(f"The kernel held what left {', '.join(held)} to the links' rates (tc).")
    if shaped := [link for link in report.links if link.target_bytes_per_s]:
        each = ", ".join(f"{link.source}→{link.target} {_pace(link)}" for link in shaped)
        found.append(f"Links carried their bytes, paced, at last to so many Mbit/s: {each}.")
    hosts = {agent.data_address.rpartition(":")[0] for agent in report.agents}
    if len(report.agents) > 1 and len(hosts) == 1:
        found.append(
            f"All agents ran on one machine ({', '.join(hosts)}): links that are not paced are its memory."
        )
    start_s = history.run.started_s
    if count := sum(event.kind == "condition" and event.at_s >= start_s for event in history.events):
        found.append(f"Users changed conditions, or changes of theirs ended, {count} times while it ran.")
    return found


def _pace(link: LinkReport) -> str:
    achieved = "" if link.deviation is None else f" (off by {link.deviation:+.1%})"
    return f"{(link.target_bytes_per_s or 0.0) * 8e-6:.4g}{achieved}"


@dataclass(frozen=True)
class Entry:
    """One line of the story: a decision, with what else could have been done, or something that happened.

    `about`: `decision`, `kept` (one to leave the plan), `change` (of an agent, a link, the server) or `note`
    (of the pipeline). `inside`: those of the same kind in a row that one line stands for.
    """

    at_s: float
    about: str
    level: str
    text: str
    alternatives: tuple[tuple[str, float], ...] = ()
    inside: tuple[Entry, ...] = ()


def story(history: RunHistory) -> list[Entry]:
    """What happened and why, in order, times since the run's start."""
    start_s = history.run.started_s
    found = [
        Entry(
            event.at_s - start_s,
            "change" if event.pipeline is None else "note",
            event.level,
            event.text,
        )
        for event in history.events
        if event.kind != "condition"
    ]
    found += [
        Entry(
            decision.at_s - start_s,
            "kept" if decision.choice == "keep" else "decision",
            decision.level,
            decision.text,
            tuple((each.plan, each.predicted_s) for each in decision.alternatives),
        )
        for decision in history.decisions
    ]
    return _folded(sorted(found, key=lambda entry: entry.at_s))


def _folded(entries: list[Entry]) -> list[Entry]:
    """Several looks in a row that came to nothing are one line."""
    found = []
    for about, group in itertools.groupby(entries, lambda entry: entry.about):
        alike = tuple(group)
        if about == "kept" and len(alike) > 1:
            text = f"{len(alike)} times the plan was looked at and kept"
            found.append(Entry(alike[0].at_s, about, alike[0].level, text, inside=alike))
        else:
            found += alike
    return found
