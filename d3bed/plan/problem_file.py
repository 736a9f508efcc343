"""`d3bed.problem/1` as text: its exact shape, and every way in which a file can be wrong.

Shape and types are checked by decoding into the structs below (unknown keys and wrong types fail
there); numbers, names and links by the `check_*` functions, which `Problem.check` shares for
problems that come from a graph. Each complaint is a `ProblemError` that names the vertex and the key.
JSON is read by the standard library, because NaN and Infinity, which JSON forbids and Python writes,
deserve an error that says where they stand.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from d3bed.core.errors import ProblemError, near
from d3bed.core.ids import TIERS, Tier
from d3bed.core.measurements import LinkRate

if TYPE_CHECKING:
    from d3bed.plan.problem import Problem

__all__ = [
    "FORMAT",
    "LINKS",
    "File",
    "FileLink",
    "FileVertex",
    "PerTier",
    "check_links",
    "check_names",
    "check_numbers",
    "decode",
    "encode",
]

FORMAT = "d3bed.problem/1"
LINKS = ("device-edge", "edge-cloud", "device-cloud")

_Number = int | float


class PerTier(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A number per tier; a tier that is left out does not exist (or has no limit)."""

    device: _Number | msgspec.UnsetType = msgspec.UNSET
    edge: _Number | msgspec.UnsetType = msgspec.UNSET
    cloud: _Number | msgspec.UnsetType = msgspec.UNSET

    @classmethod
    def of(cls, numbers: Mapping[Tier, _Number]) -> PerTier:
        return cls(**{tier.value: number for tier, number in numbers.items()})

    @property
    def present(self) -> tuple[Tier, ...]:
        return tuple(tier for tier in TIERS if self.get(tier) is not None)

    def get(self, tier: Tier) -> _Number | None:
        number: _Number | msgspec.UnsetType = getattr(self, tier.value)
        return None if number is msgspec.UNSET else number

    def __getitem__(self, tier: Tier) -> _Number:
        number = self.get(tier)
        if number is None:
            raise KeyError(tier)
        return number


class FileVertex(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    name: str
    time_s: PerTier
    output_bytes: _Number
    weight_bytes: _Number = 0


class FileLink(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    bytes_per_s: _Number
    latency_s: _Number = 0


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    format: str
    vertices: tuple[FileVertex, ...]
    edges: tuple[tuple[int, int], ...]
    links: dict[str, FileLink] = {}
    result_bytes: _Number = 0
    current: dict[str, str] = {}
    migration_cost_s: _Number = 0
    allowed_tiers: dict[str, tuple[str, ...]] = {}
    memory_bytes: PerTier = PerTier()
    rate_per_s: _Number | None = None


def encode(form: File) -> str:
    return msgspec.json.format(msgspec.json.encode(form), indent=1).decode() + "\n"


def decode(text: str, where: str) -> File:
    """Decode shape and types. Raises `ProblemError`."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ProblemError(where, twice, "is given twice in one object", "keep one of them")
        return found

    try:
        raw = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ProblemError(where, "", f"not JSON: {error}", f"see the file form {FORMAT}") from error
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        found = raw.get("format", "missing") if isinstance(raw, dict) else type(raw).__name__
        raise ProblemError(where, "format", f"is {found!r}", f'it must be "{FORMAT}"')
    try:
        form = msgspec.convert(raw, File)
    except msgspec.ValidationError as error:
        raise _explain(str(error), raw, where) from error
    if not form.vertices:
        raise ProblemError(where, "vertices", "is empty", "at least the input is a vertex")
    tiers = form.vertices[0].time_s.present
    if Tier.DEVICE not in tiers:
        key = f"{_vertex(0, form.vertices[0].name)} time_s.device"
        raise ProblemError(where, key, "is missing", "the device always exists")
    for number, vertex in enumerate(form.vertices):
        for tier in TIERS:
            if (tier in tiers) != (tier in vertex.time_s.present):
                state = "is missing" if tier in tiers else f"is given, but {form.vertices[0].name} has none"
                raise ProblemError(
                    where,
                    f"{_vertex(number, vertex.name)} time_s.{tier}",
                    state,
                    "every vertex needs a time for each tier that exists, and for no other",
                )
    for name, places in form.allowed_tiers.items():
        _check_tiers(places, f"allowed_tiers ({name})", where)
        if not places:
            raise ProblemError(
                where, f"allowed_tiers ({name})", "is empty", "leave the key out, or name a tier"
            )
    for name, place in form.current.items():
        _check_tiers([place], f"current ({name})", where)
    return form


def _check_tiers(names: Collection[str], key: str, where: str) -> None:
    for name in names:
        if name not in [tier.value for tier in TIERS]:
            remedy = near(name, [tier.value for tier in TIERS])
            raise ProblemError(where, key, f"there is no tier {name!r}", remedy)


def _vertex(number: int, name: str) -> str:
    return f"vertices[{number}] ({name})"


def _explain(message: str, raw: dict[str, Any], where: str) -> ProblemError:
    """Turn msgspec's `problem - at `$.path`` into our error, with the vertex's name."""
    problem, _, path = message.partition(" - at ")
    key = path.replace("key in ", "").strip("`").removeprefix("$").lstrip(".")
    if found := re.match(r"vertices\[(\d+)\]\.?(.*)", key):
        number = int(found[1])
        vertex = raw["vertices"][number]
        name = vertex.get("name") if isinstance(vertex, dict) else None
        key = f"{_vertex(number, name)} {found[2]}".rstrip() if isinstance(name, str) else key
    problem = problem[0].lower() + problem[1:]
    if found := re.search(r"unknown field `(.*)`", problem):
        known = _known_keys(key)
        key = f"{key}.{found[1]}" if "." in key or not key.endswith(")") else f"{key} {found[1]}"
        return ProblemError(where, key.lstrip("."), "unknown key", near(found[1], known))
    return ProblemError(where, key, problem)


def _known_keys(key: str) -> tuple[str, ...]:
    if key.endswith("time_s") or key == "memory_bytes":
        return PerTier.__struct_fields__
    if key.startswith("vertices"):
        return FileVertex.__struct_fields__
    return FileLink.__struct_fields__ if key.startswith("links") else File.__struct_fields__


# ── checks shared with problems made from a graph ─────────────────────────────────────────────────


def check_numbers(problem: Problem, where: str) -> None:
    """Every number is finite and not negative (rates: above zero), and there is one per vertex."""
    count = len(problem.names)
    for tier, times in problem.times_s.items():
        if len(times) != count:
            raise ProblemError(where, f"time_s.{tier}", f"has {len(times)} vertices, the graph {count}")
    if Tier.DEVICE not in problem.times_s:
        raise ProblemError(where, "time_s.device", "is missing", "the device always exists")
    series = [*problem.times_s.values(), problem.output_bytes, problem.weight_bytes]
    rates = [number for rate in problem.links.values() for number in (rate.bytes_per_s, rate.latency_s)]
    limits = [*problem.memory_bytes.values(), problem.rate_per_s or 0]
    series.append((problem.result_bytes, problem.migration_cost_s, *rates, *limits))
    if not all(_sound(numbers) for numbers in series):
        for key, number in _numbers(problem):
            if not _sound((number,)):
                raise ProblemError(where, key, f"is {_short(number)}", "it must be a finite number ≥ 0")
    positive = {f"links.{link}.bytes_per_s": rate.bytes_per_s for link, rate in problem.links.items()}
    if problem.rate_per_s is not None:
        positive["rate_per_s"] = problem.rate_per_s
    for key, number in positive.items():
        if number <= 0:
            raise ProblemError(where, key, "is 0", "it must be above 0; leave out what does not exist")


def _sound(numbers: Sequence[_Number]) -> bool:
    """Whether all are finite and not negative; of sums that overflow it may wrongly say no."""
    try:
        return math.isfinite(sum(numbers)) and min(numbers, default=0) >= 0
    except OverflowError:
        return False


def _short(number: _Number) -> str:
    text = str(number) if not isinstance(number, int) or number.bit_length() < 64 else "too large"
    return {"nan": "not a number (NaN)", "inf": "infinite", "-inf": "infinite"}.get(text, text)


def _numbers(problem: Problem) -> Iterator[tuple[str, _Number]]:
    for tier, times in problem.times_s.items():
        for v, number in enumerate(times):
            yield f"{_vertex(v, problem.names[v])} time_s.{tier}", number
    for v, number in enumerate(problem.output_bytes):
        yield f"{_vertex(v, problem.names[v])} output_bytes", number
    for v, number in enumerate(problem.weight_bytes):
        yield f"{_vertex(v, problem.names[v])} weight_bytes", number
    for link, rate in problem.links.items():
        yield f"links.{link}.bytes_per_s", rate.bytes_per_s
        yield f"links.{link}.latency_s", rate.latency_s
    yield "result_bytes", problem.result_bytes
    yield "migration_cost_s", problem.migration_cost_s
    for tier, number in problem.memory_bytes.items():
        yield f"memory_bytes.{tier}", number
    if problem.rate_per_s is not None:
        yield "rate_per_s", problem.rate_per_s


def check_links(tiers: Collection[Tier], links: Mapping[str, LinkRate], where: str) -> None:
    """The links fit the tiers that exist; only device-cloud beside the edge is a matter of choice."""
    needed = {LINKS[0]} if Tier.EDGE in tiers else set()
    if Tier.CLOUD in tiers:
        needed.add(LINKS[1] if Tier.EDGE in tiers else LINKS[2])
    possible = needed | ({LINKS[2]} if Tier.CLOUD in tiers else set())
    for link in links:
        if link not in LINKS:
            raise ProblemError(where, f"links.{link}", "unknown link", near(link, LINKS))
        if link not in possible:
            here = ", ".join(tiers)
            raise ProblemError(where, f"links.{link}", f"the tiers are {here}", "leave this link out")
    for link in sorted(needed - set(links)):
        raise ProblemError(where, f"links.{link}", "is missing", "give its bytes_per_s and latency_s")


def check_names(problem: Problem, where: str) -> None:
    """Names are unique, and whoever refers to a vertex by name names one that exists."""
    if len(set(problem.names)) < len(problem.names):
        seen: dict[str, int] = {}
        for v, name in enumerate(problem.names):
            if name in seen:
                problem_is = f"the name is also that of vertices[{seen[name]}]"
                raise ProblemError(where, f"{_vertex(v, name)} name", problem_is, "rename one")
            seen[name] = v
    known = set(problem.names)
    for key, named in (("allowed_tiers", problem.allowed), ("current", problem.current)):
        for name in named:
            if name not in known:
                raise ProblemError(where, f"{key} ({name})", "there is no such vertex", near(name, known))
