"""What the options of `d3bed plan` mean: sizes, rates, pins, changes and ranges, as text.

Text and a problem in, values out; every complaint is a `ConfigError` that names the option and what
would do.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Collection, Sequence

import msgspec

from d3bed.core.errors import ConfigError, near
from d3bed.core.ids import TIERS, Tier
from d3bed.lab.units import NUMBER, bytes_per_s, number
from d3bed.plan import Problem
from d3bed.plan.whatif import Supposition

__all__ = ["limited", "rate_range", "read_supposition", "vertex_named", "with_pins"]

_BYTES = {"": 1, "B": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def limited(problem: Problem, memory: Sequence[str], rate_per_s: float | None) -> Problem:
    """The problem with `--memory TIER=SIZE` and `--rate` in the place of its own limits."""
    limits = dict(problem.memory_bytes)
    for text in memory:
        name, _, size = text.partition("=")
        tier = _known(name.strip(), problem.tiers, "--memory", text)
        found = re.fullmatch(NUMBER + r"\s*([A-Za-z]*)", size.strip())
        if found is None or found[2] not in _BYTES:
            raise ConfigError("--memory", text, f"{size!r} is not a size", "write it as edge=512MB")
        limits[Tier(tier)] = number(found[1], "--memory", text) * _BYTES[found[2]]
    if rate_per_s is not None and not 0 < rate_per_s < math.inf:
        raise ConfigError("--rate", "", f"{rate_per_s} is out of range", "use frames a second, above 0")
    if not memory and rate_per_s is None:
        return problem
    return msgspec.structs.replace(
        problem, memory_bytes=limits, rate_per_s=problem.rate_per_s if rate_per_s is None else rate_per_s
    )


def with_pins(problem: Problem, pins: Sequence[str]) -> Problem:
    """The problem with `--pin VERTICES=TIER[,TIER]` beside its own pins.

    VERTICES is a name, a glob, or A..B: both, and every vertex on a way from A to B.
    """
    if not pins:
        return problem
    allowed = dict(problem.allowed)
    for text in pins:
        vertices, equals, places = text.rpartition("=")
        if not equals:
            raise ConfigError("--pin", text, "names no tier", "write it as input..conv2=device")
        tiers = {Tier(_known(place.strip(), problem.tiers, "--pin", text)) for place in places.split(",")}
        for v in _vertices(problem, vertices.strip(), text):
            name = problem.names[v]
            left = tuple(t for t in TIERS if t in tiers and t in allowed.get(name, problem.tiers))
            if not left:
                here = " or ".join(allowed.get(name, ()))
                raise ConfigError(
                    "--pin", text, f"leaves {name} no tier", f"another pin keeps it on the {here}"
                )
            allowed[name] = left
    pinned = msgspec.structs.replace(problem, allowed=allowed)
    pinned.check("--pin")
    return pinned


def _vertices(problem: Problem, words: str, text: str) -> list[int]:
    first, dots, last = words.partition("..")
    if words in problem.names or not dots:
        found = [v for v, name in enumerate(problem.names) if name == words]
        found = found or [v for v, name in enumerate(problem.names) if fnmatch.fnmatchcase(name, words)]
        if not found:
            raise ConfigError("--pin", text, f"no vertex matches {words!r}", near(words, problem.names))
        return found
    start, end = (vertex_named(problem, name.strip(), "--pin") for name in (first, last))
    after = _reach(start, problem.successors)
    between = after & _reach(end, problem.predecessors)
    if not between:
        remedy = (
            f"write {last}..{first}" if start in _reach(end, problem.successors) else "pin them one by one"
        )
        raise ConfigError("--pin", text, f"no way leads from {first} to {last}", remedy)
    return sorted(between)


def _reach(start: int, neighbours: Sequence[Sequence[int]]) -> set[int]:
    found, todo = {start}, [start]
    while todo:
        for v in neighbours[todo.pop()]:
            if v not in found:
                found.add(v)
                todo.append(v)
    return found


def vertex_named(problem: Problem, name: str, option: str) -> int:
    """The number of the vertex of that name."""
    if name not in problem.names:
        raise ConfigError(option, name, "there is no such vertex", near(name, problem.names))
    return problem.names.index(name)


def read_supposition(problem: Problem, text: str) -> Supposition:
    """`link edge-cloud=2Mbit`, `link edge-cloud=0.5x`, `tier edge=0.5x` or `vertex NAME=2x`."""
    option = "--what-if"
    kind, _, rest = text.strip().partition(" ")
    name, equals, value = (part.strip() for part in rest.rpartition("="))
    if kind not in ("link", "tier", "vertex") or not equals:
        remedy = 'write "link edge-cloud=2Mbit", "tier edge=0.5x" or "vertex NAME=2x"'
        raise ConfigError(option, text, "is not a change", remedy)
    factor = re.fullmatch(NUMBER + "x", value)
    if kind == "link":
        _known(name, problem.links, option, text)
        if factor is None:
            return Supposition("link", name, bytes_per_s(value, option, text))
        times = number(factor[1], option, text)
        return Supposition("link", name, problem.links[name].bytes_per_s * times)
    if factor is None:
        raise ConfigError(option, text, f"{value!r} is not a factor", "0.5x makes it half as fast")
    if kind == "tier":
        return Supposition("tier", _known(name, problem.tiers, option, text), number(factor[1], option, text))
    vertex_named(problem, name, option)
    return Supposition("vertex", name, number(factor[1], option, text))


def rate_range(problem: Problem, text: str) -> tuple[str, float, float]:
    """`edge-cloud=0.5..1000Mbit` as link, lowest and highest bytes per second."""
    option = "--sweep"
    link, _, ends = text.partition("=")
    link = _known(link.strip(), problem.links, option, text)
    low, dots, high = (part.strip() for part in ends.partition(".."))
    if not dots:
        raise ConfigError(option, text, "is not a range", f"write it as {link}=0.5..1000Mbit")
    unit = re.search(r"[A-Za-z]+$", high)
    if unit is not None and re.fullmatch(NUMBER, low):
        low += unit[0]
    first, last = (bytes_per_s(end, option, text) for end in (low, high))
    if not first < last:
        raise ConfigError(option, text, "the range runs backward", "the lower rate comes first")
    return link, first, last


def _known(name: str, known: Collection[str], option: str, text: str) -> str:
    if name not in known:
        raise ConfigError(option, text, f"there is no {name!r} here", near(name, known))
    return name
