"""Plays a scenario on a running testbed, and says what became of the frames.

A client of the JSON API and of the feed: at the time of each event it asks for what a user could ask for.
Only `start` is its own doing: processes belong to who started the testbed. It starts a run of each pipeline,
but of those that the scenario resumes later; at time zero all of them have answered a frame. What counts are
the frames that start from then to the scenario's end.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from websockets.exceptions import ConnectionClosed

from d3bed.config import Config
from d3bed.core.errors import ConfigError, D3Error
from d3bed.lab import client
from d3bed.lab.follow import State, follow_messages
from d3bed.lab.scenario import BY, Event, Load, Scenario, Start, in_words, is_told
from d3bed.lab.testbed import Testbed, open_testbed, start_agent
from d3bed.server.decisions import LEAST_TOLD
from d3bed.server.statistics import Recent

__all__ = ["FORMAT", "Played", "PlayFailed", "Stage", "Told", "compare", "play"]

FORMAT = "d3bed.played/1"
_POLL_S = 0.05
#: How long an agent may take to come back, or a plan to be in force, before the player gives up.
_PATIENCE_S = 180.0
#: The store commits twice a second.
_STORED_S = 5.0

Say = Callable[[str], None]

_BY = {"by": BY}


class PlayFailed(D3Error):
    """The scenario cannot go on; the message says why."""


class Played(msgspec.Struct, frozen=True):
    """What became of a pipeline's frames in one pass.

    `switches`: epochs activated; `dropped`: frames that came, and were never started; `rerun`: those that
    took several attempts; `inexact`: answers with other bits than the undivided model's; `backbone_bytes`
    crossed links of which one end is in the cloud. `begun_s` is time zero on the server's clock, `runs` those
    that its frames belong to.
    """

    pipeline: str
    strategy: str
    seconds: float
    frames: int
    mean_s: float | None
    median_s: float | None
    p95_s: float | None
    switches: int
    lost: int
    dropped: int
    rerun: int
    inexact: int
    backbone_bytes: int
    begun_s: float
    runs: tuple[str, ...]


@dataclass
class Told:
    """How far a scenario is, on the server's clock: since when, and which steps were taken when, in words."""

    begun_s: float | None = None
    steps: list[tuple[float, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Stage:
    """Where a scenario is played: a server and its pipelines, and the testbed if it is the player's own."""

    base: str
    token: str | None = None
    bed: Testbed | None = None
    config: Config | None = None
    told: Told = field(default_factory=Told)

    async def get(self, path: str) -> Any:
        return await client.get(self.base, f"/api/{path}", self.token)

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        return await client.post(self.base, f"/api/{path}", body, self.token)

    async def views(self) -> dict[str, dict[str, Any]]:
        """The pipelines by name."""
        return {view["id"]: view for view in await self.get("pipelines")}


async def compare(
    scenario: Scenario, config: Config, overrides: Sequence[str], strategies: Sequence[str], say: Say
) -> list[Played]:
    """Play it once for each strategy, each time on a new testbed, so that all meet the same conditions."""
    scenario.check([agent.name for agent in config.agents], [pipeline.id for pipeline in config.pipelines])
    found: list[Played] = []
    for strategy in strategies:
        say(f"{scenario.name} under {strategy}: starting a testbed …")
        async with open_testbed(config, [*overrides, "--strategy", strategy, "--port", "0"]) as bed:
            found += await bed.watched(play(scenario, Stage(bed.base, bed=bed, config=config), say))
    return found


async def play(scenario: Scenario, stage: Stage, say: Say, strategy: str | None = None) -> list[Played]:
    """Play it once, on runs of its own; at the end, conditions are as configured, and rates and strategies
    as before. Returns what became of each pipeline.

    Raises `PlayFailed`, `ConfigError` for a scenario that does not fit the testbed, `RequestFailed`.
    """
    agents, before = await stage.get("agents"), await stage.views()
    scenario.check([a["agent"] for a in agents], list(before))
    if scenario.restarts and stage.bed is None:
        raise ConfigError(
            scenario.where, "start", "only who started the agents can start them", "leave --server out"
        )
    if any(view["counting"] for view in before.values()):
        raise PlayFailed("a run of frames is under way there: end it first (d3bed pause)")
    if strategy is not None:
        for name in before:
            await stage.post(f"pipelines/{name}/strategy", {"strategy": strategy} | _BY)
    await _until(lambda: _are_ready(stage, strategy), "a plan in force")
    watch = _Watch(say)
    following = asyncio.create_task(watch.follow(stage.base))
    try:
        return await _play(scenario, stage, watch, say)
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionClosed):
            await following  # what went wrong in it must not stay unsaid
        await _tidy_up(stage, before)


async def _tidy_up(stage: Stage, before: dict[str, dict[str, Any]]) -> None:
    for condition in await stage.get("conditions"):
        with contextlib.suppress(client.RequestFailed):  # an agent that is gone has none
            await stage.post(*_undoing(condition))
    for name, after in (await stage.views()).items():
        for key, path in (("rate_per_s", "rate"), ("strategy", "strategy")):
            if after[key] != before[name][key]:
                await stage.post(f"pipelines/{name}/{path}", {key: before[name][key]} | _BY)


async def _play(scenario: Scenario, stage: Stage, watch: _Watch, say: Say) -> list[Played]:
    await _until(lambda: _is_following(watch), "the feed")
    strategies = {name: str(view["strategy"]) for name, view in (await stage.views()).items()}
    first = [name for name in strategies if scenario.begins_with_frames(name)]
    for name in first:
        await stage.post(f"pipelines/{name}/start", _BY)
    await _until(lambda: _have_answered(stage, first), "the first frame")
    watch.begin()
    begun_s, begun_server_s = time.monotonic(), watch.server_s
    stage.told.begun_s = begun_server_s
    emulated = [a["agent"] for a in await stage.get("agents") if a["speed"] < 1]
    for at_s, events in itertools.groupby(scenario.events, lambda event: event.at_s):
        await asyncio.sleep(begun_s + at_s - time.monotonic())
        await _perform(list(events), stage, watch, emulated, list(strategies))
    await asyncio.sleep(begun_s + scenario.duration_s - time.monotonic())
    seconds = time.monotonic() - begun_s
    switches = {name: watch.switches(name) for name in strategies}
    for name in strategies:
        await stage.post(f"pipelines/{name}/stop", _BY)
    await _until(lambda: _are_over(stage), "the end of the run")
    clouds = {a["agent"] for a in await stage.get("agents") if a["tier"] == "cloud"}
    return [
        await _judged(
            stage, watch.runs[name], name, strategy, begun_server_s, seconds, switches[name], clouds
        )
        for name, strategy in strategies.items()
    ]


async def _perform(
    events: Sequence[Event], stage: Stage, watch: _Watch, emulated: Collection[str], pipelines: Sequence[str]
) -> None:
    """What happens at once, one after the other. Agents have time to be gone, or back, before."""
    words = in_words(events)
    if any(isinstance(e, Load) and e.processes and e.agent in emulated for e in events):
        words += ", emulated: its speed drops"
    for number, event in enumerate(events):
        if isinstance(event, Start):
            await _until(lambda a=event.agent: _is_gone(stage, a), f"{event.agent} to be gone")  # type: ignore[misc]
        for agent in event.agents:
            await _until(lambda a=agent: _is_there(stage, a), f"{agent} to be back")  # type: ignore[misc]
        if number == 0:
            watch.step(words)
            stage.told.steps.append((watch.server_s, words))
        if isinstance(event, Start):
            assert stage.bed is not None and stage.config is not None
            await start_agent(stage.config, event.agent, stage.base, stage.bed.children)
        for path, body in event.orders(pipelines):
            await stage.post(path, body | _BY)


async def _judged(
    stage: Stage,
    runs: Sequence[str],
    pipeline: str,
    strategy: str,
    since_s: float,
    seconds: float,
    switches: int,
    clouds: Collection[str],
) -> Played:
    latencies, rerun, inexact, lost, dropped, crossed = Recent(10**7), 0, 0, 0, 0, 0
    total_s, frames = 0.0, 0
    for run in runs:
        report = await stage.get(f"runs/{run}/report")
        counts = report["frames"]
        lost += counts["sent"] - counts["answered"]
        dropped += counts["dropped"]
        crossed += sum(link["bytes"] for link in report["links"] if {link["from"], link["to"]} & set(clouds))
        series = await _frames(stage, run, counts["answered"])
        columns = (series[name] for name in ("started_s", "latency_s", "attempts", "identical"))
        for started_s, latency_s, attempts, identical in zip(*columns, strict=True):
            if since_s <= started_s <= since_s + seconds:
                latencies.add(latency_s)
                frames, total_s = frames + 1, total_s + latency_s
                rerun += attempts > 1
                inexact += identical is False
    return Played(
        pipeline=pipeline,
        strategy=strategy,
        seconds=seconds,
        frames=frames,
        mean_s=total_s / frames if frames else None,
        median_s=latencies.median,
        p95_s=latencies.p95,
        switches=switches,
        lost=lost,
        dropped=dropped,
        rerun=rerun,
        inexact=inexact,
        backbone_bytes=crossed,
        begun_s=since_s,
        runs=tuple(runs),
    )


@dataclass
class _Watch:
    """What the feed tells meanwhile: notes are said, epochs and runs of each pipeline counted."""

    say: Say
    runs: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    #: The server's clock less this process's; None before the first message.
    _ahead_s: float | None = None
    _epochs: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    _said: dict[str, float | None] = field(default_factory=dict)
    _begun_s: float | None = None
    _several: bool = False
    _before: dict[str, int] = field(default_factory=dict)

    @property
    def is_connected(self) -> bool:
        return self._ahead_s is not None

    @property
    def server_s(self) -> float:
        return (self._ahead_s or 0.0) + time.monotonic()

    @property
    def elapsed_s(self) -> float:
        return self.server_s - self._begun_s if self._begun_s is not None else 0.0

    def switches(self, pipeline: str) -> int:
        """Epochs that became active since `begin`."""
        return len(self._epochs[pipeline]) - self._before.get(pipeline, 0)

    def begin(self) -> None:
        self._begun_s = self.server_s
        self._before = {pipeline: len(epochs) for pipeline, epochs in self._epochs.items()}

    async def follow(self, base: str) -> None:
        async for state, message in follow_messages(base):
            self._ahead_s = message["now"] - time.monotonic()
            self._saw(state)
            for event in message.get("events", ()):
                self._tell(event["kind"], event["data"])

    def _tell(self, kind: str, data: Any) -> None:
        """Notes, and decisions other than to leave the plan: when made, and once they were measured."""
        if kind not in ("note", "decision") or data.get("choice") == "keep":
            return
        text = str(data["text"])
        if kind == "note" and data["level"] == "info" and is_told(text):
            return
        if kind == "decision":
            cause, measured_s = data["cause_id"], data["measured_s"]
            if cause in self._said and self._said[cause] == measured_s:
                return
            if cause in self._said and measured_s is not None:
                text = _outcome(data)
            self._said[cause] = measured_s
        of = f"{data['pipeline']}: " if self._several and data.get("pipeline") else ""
        self.say(f"{self.elapsed_s:6.1f} s    {of}{text}")

    def step(self, words: str) -> None:
        self.say(f"{self.elapsed_s:6.1f} s  ◇ {words}")

    def _saw(self, state: State) -> None:
        self._several = len(state.data.get("pipelines", ())) > 1
        for epoch in state.data.get("epochs", ()):
            if epoch["activated_at"] is not None:
                self._epochs[epoch["pipeline"]].add(epoch["epoch"])
        for pipeline in state.data.get("pipelines", ()):
            run, runs = pipeline.get("run"), self.runs[pipeline["id"]]
            if pipeline["counting"] and run not in runs:
                runs.append(run)


def _outcome(decision: dict[str, Any]) -> str:
    """What a move came to, once it is measured."""
    before_s, measured_s, predicted_s = (decision[f"{n}_s"] for n in ("before", "measured", "predicted"))
    took = f"{measured_s * 1e3:.0f} ms a frame"
    if before_s is not None:
        took += f" instead of {before_s * 1e3:.0f}"
        took += f", {before_s / measured_s:.1f} times as fast" if before_s > LEAST_TOLD * measured_s else ""
    predicted = f"{predicted_s * 1e3:.0f} ms" if predicted_s else "nothing"
    return f"epoch {decision['epoch']} takes {took}; {predicted} was predicted"


# ── conditions to wait for ────────────────────────────────────────────────────────────────────────


async def _until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    try:
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                if await condition():
                    return
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise PlayFailed(f"waited {_PATIENCE_S:g} s in vain for {what}") from None


async def _are_ready(stage: Stage, strategy: str | None) -> bool:
    views = await _sound(stage)
    return all(v["phase"] == "idle" and strategy in (None, v["strategy"]) for v in views.values())


async def _have_answered(stage: Stage, pipelines: Sequence[str]) -> bool:
    views = await _sound(stage)
    return all(views[p]["counting"] and views[p]["frames"]["answered"] > 0 for p in pipelines)


async def _are_over(stage: Stage) -> bool:
    return not any(view["counting"] for view in (await stage.views()).values())


async def _sound(stage: Stage) -> dict[str, dict[str, Any]]:
    """The pipelines by name. Raises `PlayFailed` if one has failed."""
    views = await stage.views()
    for view in views.values():
        if view["phase"] == "failed":
            raise PlayFailed(str(view["phase_text"]))
    return views


async def _is_there(stage: Stage, agent: str) -> bool:
    return any(a["agent"] == agent and a["state"] == "connected" for a in await stage.get("agents"))


async def _is_gone(stage: Stage, agent: str) -> bool:
    return not await _is_there(stage, agent)


async def _is_following(watch: _Watch) -> bool:
    return watch.is_connected


async def _frames(stage: Stage, run: str, answered: int) -> dict[str, Any]:
    """Its frames by columns, once all are stored; where some never are (a full disk), without those."""
    deadline_s = time.monotonic() + _STORED_S
    while True:
        series: dict[str, Any] = await stage.get(f"runs/{run}/frames")
        if len(series["frame"]) >= answered or time.monotonic() > deadline_s:
            return series
        await asyncio.sleep(_POLL_S)


def _undoing(condition: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    match condition["agents"]:
        case [source, target]:
            return "links/reset", {"from": source, "to": target} | _BY
        case [agent] if "load" in condition["values"]:
            return f"agents/{agent}/load", {"processes": 0} | _BY
        case _:
            return f"agents/{condition['agents'][0]}/speed", {"speed": None} | _BY
