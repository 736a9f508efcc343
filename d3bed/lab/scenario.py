"""Scenario files (`d3bed.scenario/1`): a timeline of changes of links, loads, agents and wishes.

    format = "d3bed.scenario/1"
    description = "one line"
    duration_s = 60
    config = "../unpinned.toml"   # the testbed that it is meant for, seen from here; default: the demo's
    seed = 7                      # only of a generated file

    [[events]]
    at_s = 10
    action = "link"
    from = "pi-1"
    to = "edge-1"
    mbit_per_s = 8
    for_s = 20
    says = "the device walks away from its access point"     # a story's words for it; any event may have them

`ACTIONS` has all actions; their keys are those of the JSON API. Every mistake is a `ConfigError` that names
the file, the line where its event begins, the key and the remedy. What `read_scenario` cannot know (which
agents there are) is for `Scenario.check`. Knows no server; `player` plays, `recorder` writes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

import msgspec

from d3bed.config import data_dir, decoded, read_toml
from d3bed.core.errors import ConfigError, near

__all__ = [
    "ACTIONS",
    "BY",
    "FORMAT",
    "Event",
    "Order",
    "Scenario",
    "find_scenario",
    "in_words",
    "is_told",
    "read_scenario",
    "shipped_scenarios",
]

FORMAT = "d3bed.scenario/1"
#: Whom the server is told that changes of a player are from.
BY = "the scenario"
_TOLD = re.compile(rf"(, |undone |to crash |to stop )by {BY}(?!.* in place of .* by (?!{BY}$))")
#: Where a change goes, under `/api/`, and what it says.
Order = tuple[str, dict[str, Any]]

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=300)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=7 * 24 * 3600)]
_Lasting = Annotated[float, msgspec.Meta(gt=0, le=7 * 24 * 3600)]


class Event(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True,
            tag_field="action", tag=str.lower):  # fmt: skip
    """Something that happens `at_s` seconds after the start. Its class, in lower case, is its action; `says`
    tells it as a story would."""

    at_s: _Seconds
    says: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None = None
    #: The keys that name agents.
    NAMES: ClassVar[tuple[str, ...]] = ()

    @property
    def subject(self) -> str:
        """What it is about, as in `pi-1 ↔ edge-1`; "" where its `effect` says that."""
        return ""

    @property
    def effect(self) -> str:
        """What it does, as in `8 Mbit/s for 20 s`."""
        raise NotImplementedError

    @property
    def agents(self) -> tuple[str, ...]:
        """Those that must be connected for it."""
        return tuple(str(getattr(self, name)) for name in self.NAMES)

    def orders(self, pipelines: Sequence[str]) -> list[Order]:
        """What is asked of the server; all `pipelines` are meant where the event names none."""
        raise NotImplementedError

    def _body(self, *left_out: str) -> dict[str, Any]:
        rows = msgspec.to_builtins(self)
        return {key: value for key, value in rows.items() if key not in ("at_s", "action", "says", *left_out)}


class _OfLink(Event, frozen=True, rename={"source": "from", "target": "to"}):
    source: _Name
    target: _Name
    both: bool = False
    NAMES = ("source", "target")

    @property
    def subject(self) -> str:
        return f"{self.source} {'↔' if self.both else '→'} {self.target}"

    def _of_both(self, path: str) -> list[Order]:
        body = self._body("both")
        other = body | {"from": self.target, "to": self.source}
        return [(path, body), *([(path, other)] if self.both else [])]


class Link(_OfLink, frozen=True, rename={"source": "from", "target": "to"}):
    mbit_per_s: Annotated[float, msgspec.Meta(ge=0.01, le=100_000)] | None = None
    latency_ms: Annotated[float, msgspec.Meta(ge=0, le=10_000)] | None = None
    loss_percent: Annotated[float, msgspec.Meta(ge=0, le=50)] | None = None
    for_s: _Lasting | None = None

    @property
    def effect(self) -> str:
        parts = ((self.mbit_per_s, "Mbit/s"), (self.latency_ms, "ms"), (self.loss_percent, "% loss"))
        return ", ".join(f"{v:g} {unit}" for v, unit in parts if v is not None) + _for(self.for_s)

    def orders(self, pipelines: Sequence[str]) -> list[Order]:
        return self._of_both("links")


class Reset(_OfLink, frozen=True, rename={"source": "from", "target": "to"}):
    """The link is as configured again."""

    @property
    def effect(self) -> str:
        return "as configured again"

    def orders(self, pipelines: Sequence[str]) -> list[Order]:
        return self._of_both("links/reset")


class _OfAgent(Event, frozen=True):
    agent: _Name
    NAMES = ("agent",)

    @property
    def subject(self) -> str:
        return self.agent


class Load(_OfAgent, frozen=True):
    """So many busy `processes` on its board; 0: none."""

    processes: Annotated[int, msgspec.Meta(ge=0, le=64)]
    for_s: _Lasting | None = None

    @property
    def effect(self) -> str:
        many = f"{self.processes} busy process" + ("" if self.processes == 1 else "es")
        return many + _for(self.for_s) if self.processes else "no other work any more"

    def orders(self, pipelines: Sequence[str]) -> list[Order]:
        return [(f"agents/{self.agent}/load", self._body("agent"))]


class Speed(_OfAgent, frozen=True):
    """Its emulated speed; none: as configured."""

    speed: Annotated[float, msgspec.Meta(ge=0.001, le=1)] | None = None
    for_s: _Lasting | None = None

    @property
    def effect(self) -> str:
        return (
            "its configured speed again" if self.speed is None else f"speed {self.speed:g}{_for(self.for_s)}"
        )

    def orders(self, pipelines: Sequence[str]) -> list[Order]:
        return [(f"agents/{self.agent}/speed", {"speed": self.speed} | self._body("agent"))]


class Kill(_OfAgent, frozen=True):
    """Its process ends without a goodbye."""

    @property
    def effect(self) -> str:
        return "it crashes"

    def orders(self, pipelines: Sequence[str]) -> list[Order]:
        return [(f"agents/{self.agent}/kill", {})]


class Stop(_OfAgent, frozen=True):
    """Its process ends in an orderly way."""

    @property
    def effect(self) -> str:
        return "it is stopped"

    def orders(self, pipelines: Sequence[str]) -> list[Order]:
        return [(f"agents/{self.agent}/stop", {})]


class Start(_OfAgent, frozen=True):
    """Its process, killed or stopped before, is started again: by who started the testbed."""

    @property
    def effect(self) -> str:
        return "it is started again"

    @property
    def agents(self) -> tuple[str, ...]:
        return ()

    def orders(self, pipelines: Sequence[str]) -> list[Order]:
        return []


class _OfPipeline(Event, frozen=True):
    """Of one pipeline, or of all."""

    pipeline: _Name | None = None

    @property
    def subject(self) -> str:
        return self.pipeline or ""

    def _of_each(self, what: str, body: dict[str, Any], pipelines: Sequence[str]) -> list[Order]:
        named = [self.pipeline] if self.pipeline is not None else pipelines
        return [(f"pipelines/{name}/{what}", body) for name in named]


class Strategy(_OfPipeline, frozen=True, kw_only=True):
    strategy: _Name
    tiling: _Name | None = None

    @property
    def effect(self) -> str:
        return f"strategy {self.strategy}" + (f" with tiling {self.tiling}" if self.tiling else "")

    def orders(self, pipelines: Sequence[str]) -> list[Order]:
        return self._of_each("strategy", self._body("pipeline"), pipelines)


class Rate(_OfPipeline, frozen=True):
    """Frames a second from now on: 0 pauses, none given is one after the other."""

    rate_per_s: Annotated[float, msgspec.Meta(ge=0, le=1000)] | None = None

    @property
    def effect(self) -> str:
        if self.rate_per_s is None:
            return "frames come one after the other"
        return f"{self.rate_per_s:g} frames a second" if self.rate_per_s else "no frames come"

    def orders(self, pipelines: Sequence[str]) -> list[Order]:
        return self._of_each("rate", {"rate_per_s": self.rate_per_s}, pipelines)


class Model(_OfPipeline, frozen=True, kw_only=True):
    model: _Name
    weights: _Name = "random:0"

    @property
    def effect(self) -> str:
        return f"model {self.model}, weights {self.weights}"

    def orders(self, pipelines: Sequence[str]) -> list[Order]:
        return self._of_each("model", self._body("pipeline"), pipelines)


class Pause(_OfPipeline, frozen=True):
    """Its run of frames ends: no new ones come."""

    @property
    def effect(self) -> str:
        return "its run of frames ends"

    def orders(self, pipelines: Sequence[str]) -> list[Order]:
        return self._of_each("stop", {}, pipelines)


class Resume(_OfPipeline, frozen=True):
    """A run of frames begins. A pipeline of which this is the first that is told has none before."""

    @property
    def effect(self) -> str:
        return "a run of frames begins"

    def orders(self, pipelines: Sequence[str]) -> list[Order]:
        return self._of_each("start", {}, pipelines)


ACTIONS: dict[str, type[Event]] = {
    kind.__name__.lower(): kind
    for kind in (Link, Reset, Load, Speed, Kill, Stop, Start, Rate, Strategy, Model, Pause, Resume)
}


def in_words(events: Iterable[Event]) -> str:
    """What happens at once, as in `pi-1 ↔ edge-1, pi-1 ↔ edge-2: 8 Mbit/s`; a story's words come before."""
    says: dict[str, None] = {}
    subjects: dict[str, list[str]] = {}
    for event in events:
        subjects.setdefault(event.effect, []).append(event.subject)
        if event.says is not None:
            says[event.says] = None
    of = {effect: ", ".join(filter(None, names)) for effect, names in subjects.items()}
    words = "; ".join(f"{names}: {effect}" if names else effect for effect, names in of.items())
    return f"{'; '.join(says)} ({words})" if says else words


def is_told(note: str) -> bool:
    """Whether a note of the server is of a change that the player made (`BY`), so that its step has told it;
    not where it takes the place of somebody else's."""
    return _TOLD.search(note) is not None


def _for(seconds: float | None) -> str:
    return "" if seconds is None else f" for {seconds:g} s"


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: str
    description: _Name
    duration_s: Annotated[float, msgspec.Meta(gt=0, le=7 * 24 * 3600)]
    config: str | None = None
    seed: int | None = None
    events: list[Any] = []


class Scenario(msgspec.Struct, frozen=True):
    """`events` in the order of their times; `places` says where each stands, for complaints about it."""

    name: str
    where: str
    description: str
    duration_s: float
    events: tuple[Event, ...]
    places: tuple[str, ...] = ()
    config: str | None = None
    seed: int | None = None

    @property
    def testbed(self) -> Path:
        """The configuration that it is meant for."""
        if self.config is None:
            return data_dir("configs") / "demo.toml"
        return Path(self.where).parent / self.config

    @property
    def restarts(self) -> bool:
        """Whether it has agents started, which only who started the testbed can do."""
        return any(isinstance(event, Start) for event in self.events)

    def begins_with_frames(self, pipeline: str) -> bool:
        """Whether its frames flow at time zero: not where the first of pausing and resuming is to resume."""
        told = (e for e in self.events if isinstance(e, Pause | Resume) and e.pipeline in (None, pipeline))
        return not isinstance(next(told, None), Resume)

    def check(self, agents: Collection[str], pipelines: Collection[str]) -> None:
        """Raise `ConfigError` for what is not there, or is not there at that time."""
        gone: dict[str, float] = {}
        flows = {name: self.begins_with_frames(name) for name in pipelines}
        for event, place in zip(self.events, self.places, strict=True):
            for key in event.NAMES:
                name = getattr(event, key)
                if name not in agents:
                    shown = {"source": "from", "target": "to"}.get(key, key)
                    problem = f"no agent named {name!r}"
                    raise ConfigError(self.where, f"{place}.{shown}", problem, near(name, sorted(agents)))
            if left := [agent for agent in event.agents if agent in gone]:
                problem = f"{left[0]} has left at {gone[left[0]]:g} s"
                raise ConfigError(self.where, place, problem, "have it started before")
            pipeline = getattr(event, "pipeline", None)
            if pipeline is not None and pipeline not in pipelines:
                problem = f"no pipeline named {pipeline!r}"
                raise ConfigError(self.where, f"{place}.pipeline", problem, near(pipeline, sorted(pipelines)))
            match event:
                case Kill(agent=agent) | Stop(agent=agent):
                    gone[agent] = event.at_s
                case Start(agent=agent):
                    if agent not in gone:
                        raise ConfigError(self.where, place, f"{agent} is running", "kill or stop it before")
                    del gone[agent]
                case Pause(pipeline=named) | Resume(pipeline=named):
                    resumed = isinstance(event, Resume)
                    for name in pipelines if named is None else [named]:
                        if flows[name] is resumed:
                            problem = f"frames of {name} {'flow already' if resumed else 'do not flow'}"
                            remedy = f"have it {'paused' if resumed else 'resumed'} before"
                            raise ConfigError(self.where, place, problem, remedy)
                        flows[name] = resumed

    def to_toml(self, comments: Mapping[float, str] = MappingProxyType({})) -> str:
        """The file; `read_scenario` inverts it, but for `comments`: each stands before the first event from
        its time on."""
        lines = [f'format = "{FORMAT}"', f"description = {_toml(self.description)}"]
        lines.append(f"duration_s = {_toml(self.duration_s)}")
        if self.config is not None:
            lines.append(f"config = {_toml(self.config)}")
        if self.seed is not None:
            lines.append(f"seed = {self.seed}")
        left = sorted(comments.items())
        for event in self.events:
            while left and left[0][0] <= event.at_s:
                lines += ["", f"# {left.pop(0)[1]}"]
            row = msgspec.to_builtins(event)
            first = ("at_s", "action", "says")
            keys = [key for key in first if key in row] + [key for key in row if key not in first]
            lines += ["", "[[events]]", *(f"{key} = {_toml(row[key])}" for key in keys)]
        return "\n".join(lines) + "\n"


def _toml(value: str | float | bool) -> str:
    """JSON's strings, numbers and booleans are TOML's, too."""
    if isinstance(value, float) and value == int(value):
        value = int(value)
    return json.dumps(value, ensure_ascii=False)


def shipped_scenarios() -> list[Path]:
    return sorted((data_dir("configs") / "scenarios").glob("*.toml"))


def find_scenario(name: str) -> Path:
    """A shipped one by name, or any file by its path. Raises `ConfigError`."""
    if name.endswith(".toml"):
        return Path(name)
    shipped = {path.stem: path for path in shipped_scenarios()}
    if name not in shipped:
        raise ConfigError("scenario", name, "there is none of this name", near(name, list(shipped)))
    return shipped[name]


def read_scenario(path: Path) -> Scenario:
    """Raises `ConfigError`."""
    text, raw = read_toml(path)
    where = str(path)
    if raw.get("format") != FORMAT:
        problem = f"{raw.get('format')!r} is not {FORMAT!r}" if "format" in raw else "is missing"
        raise ConfigError(where, "format", problem, f'begin the file with format = "{FORMAT}"')
    file = decoded(raw, _File, where)
    starts = [n for n, line in enumerate(text.splitlines(), 1) if re.match(r"\s*\[\[\s*events\s*\]\]", line)]
    timed: list[tuple[Event, str]] = []
    for number, row in enumerate(file.events):
        at = f"line {starts[number]}: " if number < len(starts) else ""
        timed.append((_event(row, where, f"{at}events[{number}]", file.duration_s), f"{at}events[{number}]"))
    timed.sort(key=lambda pair: pair[0].at_s)
    return Scenario(
        name=path.stem,
        where=where,
        description=file.description,
        duration_s=file.duration_s,
        events=tuple(event for event, _ in timed),
        places=tuple(place for _, place in timed),
        config=file.config,
        seed=file.seed,
    )


def _event(row: Any, where: str, place: str, duration_s: float) -> Event:
    if not isinstance(row, dict):
        raise ConfigError(where, place, "is not a table", "write [[events]] and its keys below")
    action = row.get("action")
    if action not in ACTIONS:
        problem = f"no action named {action!r}" if action is not None else "is missing"
        raise ConfigError(where, f"{place}.action", problem, near(str(action), list(ACTIONS)))
    at_s = row.get("at_s")
    if isinstance(at_s, int | float) and not (math.isfinite(at_s) and 0 <= at_s <= duration_s):
        remedy = f"use 0 to duration_s ({duration_s:g})"
        raise ConfigError(where, f"{place}.at_s", f"{at_s:g} is not in the scenario", remedy)
    event = decoded(row, ACTIONS[action], where, place)
    if isinstance(event, Link) and (event.mbit_per_s, event.latency_ms, event.loss_percent) == (None,) * 3:
        raise ConfigError(where, place, "changes nothing", "give mbit_per_s, latency_ms or loss_percent")
    return event
