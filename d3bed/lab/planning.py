"""`d3bed plan`: a planning problem from a file, or from a model that is profiled on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from d3bed.config import override, read_config
from d3bed.core.errors import ConfigError
from d3bed.core.ids import TIERS, Tier
from d3bed.core.measurements import LinkRate
from d3bed.lab.screen import TIER_STYLE
from d3bed.plan import Pin, Problem, Solution, pinned, solve

__all__ = ["Planned", "save", "show", "solve_file", "solve_model"]

#: What stands in the place of a link that the network preset does not name: a fast local network.
_UNSHAPED = LinkRate(bytes_per_s=1.25e8, latency_s=0.0005)


@dataclass(frozen=True)
class Planned:
    """A problem and its solution; `about` says where the numbers come from."""

    problem: Problem
    solution: Solution
    about: str


def _solve(problem: Problem, strategy: str) -> Solution:
    if strategy == "optimal":
        import scipy.sparse.csgraph  # noqa: F401 - so that the plan time does not count SciPy's import
    return solve(problem, strategy)


def solve_file(path: Path, strategy: str) -> Planned:
    """Solve a `d3bed.problem/1` file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), "", f"cannot be read: {error}", "check the path") from error
    problem = Problem.parse(text, str(path))
    return Planned(problem, _solve(problem, strategy), f"problem {path}")


def solve_model(
    config_path: Path,
    *,
    model: str | None,
    weights: str | None,
    input: str | None,
    network: str | None,
    strategy: str | None,
    cache_dir: Path,
    say: Callable[[str], None],
) -> Planned:
    """Export and profile the model here, take speeds, links and pins from the config file, and solve."""
    config = override(
        read_config(config_path),
        model=model,
        weights=weights,
        input=input,
        network=network,
        strategy=strategy,
    )
    if not config.pipelines:
        raise ConfigError(config.path, "pipelines", "there is none", "add a [pipelines.NAME] table")
    pipeline = config.pipelines[0]

    import torch

    from d3bed.agent.profiler import ProfileCache, measure
    from d3bed.model import fingerprint, load

    torch.set_num_threads(pipeline.threads)
    say(f"loading {pipeline.model.name} …")
    loaded = load(pipeline.model)
    cache, print_ = ProfileCache(cache_dir), fingerprint(pipeline.threads)
    times_s = cache.get(loaded.graph.digest, print_, pipeline.threads)
    if times_s is None:
        say("profiling it on this machine …")
        with torch.inference_mode():
            times_s = measure(loaded)
        cache.put(loaded.graph.digest, print_, pipeline.threads, times_s)

    speeds: dict[Tier, float] = {}
    for name, tier in pipeline.tiers.items():
        speeds[tier] = max(speeds.get(tier, 0.0), config.agent(name).speed)
    links = {}
    for here, there in ((Tier.DEVICE, Tier.EDGE), (Tier.EDGE, Tier.CLOUD)):
        if here in speeds and there in speeds:
            shape = pipeline.shape(here, there)
            links[f"{here}-{there}"] = LinkRate(shape.bytes_per_s, shape.latency_s) if shape else _UNSHAPED
    pins = [Pin(p.vertices, p.tiers) for p in pipeline.pins.get(pipeline.model.name, ())]
    problem = Problem.from_graph(
        loaded.graph,
        {tier: tuple(t / speed for t in times_s) for tier, speed in speeds.items()},
        links,
        allowed=pinned(loaded.graph, pins),
    )
    about = (
        f"{pipeline.model.name} ({pipeline.model.weights}), network {pipeline.network}, "
        f"speeds {', '.join(f'{tier} {speed:g}' for tier, speed in speeds.items())}"
    )
    return Planned(problem, _solve(problem, pipeline.strategy), about)


def save(path: Path, problem: Problem) -> None:
    try:
        path.write_text(problem.encode(), encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            "--save-problem", "", f"{path}: {error.strerror}", "choose another place"
        ) from error


def show(planned: Planned) -> RenderableType:
    """The plan tier by tier, what each costs, and what crosses the links."""
    problem, solution = planned.problem, planned.solution
    table = Table("tier", "vertices", "from", "to", "compute ms")
    for tier in TIERS:
        mine = [v for v, t in enumerate(solution.tiers) if t is tier]
        if not mine:
            table.add_row(Text(tier, style=TIER_STYLE[tier]), "0", "–", "–", "–")
            continue
        compute_s = sum(problem.times_s[tier][v] for v in mine)
        table.add_row(
            Text(tier, style=TIER_STYLE[tier]),
            str(len(mine)),
            problem.names[mine[0]],
            problem.names[mine[-1]],
            f"{compute_s * 1e3:.1f}",
        )
    links = (
        ", ".join(f"{link} {size / 1e3:.1f} kB" for link, size in solution.link_bytes.items() if size)
        or "none"
    )
    return Group(
        Text(planned.about),
        table,
        Text(f"bytes a frame over links: {links}"),
        Text(
            f"strategy {solution.strategy}: predicted cost {solution.cost_s * 1e3:.1f} ms a frame, "
            f"planned in {solution.plan_time_s * 1e3:.1f} ms",
            style="bold",
        ),
    )
