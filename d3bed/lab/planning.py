"""`d3bed plan`: planning problems from a file, or from a model profiled on this machine, and answers.

A request, as the command line gave it, becomes one case per network: a problem and where its numbers
come from. Every case is planned by one strategy, or by all of them side by side, and may be explained,
changed and swept. What is shown or printed of it is `plan_show`'s and `plan_svg`'s part.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from d3bed.config import check_strategy, networks, override, read_config, read_network
from d3bed.core.errors import ConfigError, PlanInfeasible
from d3bed.core.ids import TIERS, Tier
from d3bed.core.measurements import LinkRate, LinkShape
from d3bed.lab import plan_svg
from d3bed.lab.plan_options import limited, rate_range, read_supposition, vertex_named, with_pins
from d3bed.plan import STRATEGIES, Objective, Pin, Problem, Solution, loads_s, pinned, solve
from d3bed.plan.explain import Explanation, explain
from d3bed.plan.placements import as_published
from d3bed.plan.problem import DEVICE_CLOUD
from d3bed.plan.sweep import Sweep, sweep
from d3bed.plan.whatif import WhatIf, what_if

if TYPE_CHECKING:
    from d3bed.agent.profiler import Profile
    from d3bed.core.graph import Graph
    from d3bed.plan.mix import Mix
    from d3bed.server.settings import PipelineSettings

__all__ = ["ALL", "AS_PUBLISHED", "Answer", "Case", "Plan", "Request", "answer", "profiled", "report"]

#: The word for every strategy, or every network preset.
ALL = "all"
#: Whose papers ship a float32 input.
RIVALS = ("neurosurgeon", "dads")
AS_PUBLISHED = "as published"

#: What stands in the place of a link that the network preset does not name: a fast local network.
UNSHAPED = LinkRate(bytes_per_s=1.25e8, latency_s=0.0005)

#: Runs to time a strategy among others: so many, or as many as fit the budget, one at least.
_MOST_RUNS, _BUDGET_S = 5, 0.1

#: Tells the user what takes time.
Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What the command line asks for; None and empty mean that it does not say."""

    config: Path
    cache_dir: Path
    problem: Path | None = None
    model: str | None = None
    weights: str | None = None
    input: str | None = None
    encoded_kb: int | None = None
    network: str | None = None
    strategy: str | None = None
    objective: str = "latency"
    pins: tuple[str, ...] = ()
    memory: tuple[str, ...] = ()
    rate_per_s: float | None = None
    published: bool = False
    explain: str | None = None
    what_if: str | None = None
    sweep: str | None = None
    save_problem: Path | None = None
    svg: Path | None = None

    @property
    def side_by_side(self) -> bool:
        """Whether every strategy is to be compared."""
        return self.strategy == ALL

    @property
    def fastest(self) -> bool:
        """Whether the most frames a second are asked for, and not the least latency of one."""
        return self.objective == "throughput"


@dataclass(frozen=True)
class Case:
    """A problem; `about` says where its numbers come from, `network` which links it has."""

    problem: Problem
    about: str
    network: str


@dataclass(frozen=True)
class Plan:
    """What one strategy makes of a case, or why it has no plan.

    `problem` is what it was solved and judged on: the case's, unless the strategy ships the input `as
    published`. `regret` is its cost over the optimal plan's of the case; if the objective is throughput, the
    optimal plan's highest rate over its own.
    """

    strategy: str
    problem: Problem
    solution: Solution | None
    regret: float | None = None
    refused: str = ""
    published: bool = False

    @property
    def compute_s(self) -> dict[str, float]:
        """Seconds of compute per tier."""
        if self.solution is None:
            return {}
        loads = loads_s(self.problem, self.solution.tiers)
        return {tier.value: loads[tier] for tier in self.problem.tiers}

    @property
    def slowest(self) -> tuple[str, float]:
        """The tier or link that is busy longest with one frame, and how long in seconds."""
        if self.solution is None:
            return "", 0.0
        loads = loads_s(self.problem, self.solution.tiers)
        stage = max(loads, key=lambda name: loads[name])
        return stage, loads[stage]

    @property
    def highest_rate_per_s(self) -> float:
        """Frames per second that its slowest stage lets through; infinite if nothing takes time."""
        _, slowest_s = self.slowest
        return 1 / slowest_s if slowest_s > 0 else float("inf")

    def report(self) -> dict[str, Any]:
        if self.solution is None:
            return {"strategy": self.strategy, "infeasible": self.refused}
        rate = self.highest_rate_per_s
        return {
            **self.solution.report(self.problem),
            "regret": self.regret,
            "compute_s": self.compute_s,
            "highest_rate_per_s": rate if rate < float("inf") else None,
            "slowest_stage": self.slowest[0],
            "input": "float32, as published" if self.published else "uint8",
        }


@dataclass(frozen=True)
class Answer:
    """All that was asked about one case. `plans` has one entry unless all strategies were asked for.

    Where a frame rate or throughput was asked for, `mix` says what the fastest mix of plans sustains.
    """

    case: Case
    plans: tuple[Plan, ...]
    explanation: Explanation | None = None
    what_if: WhatIf | None = None
    sweep: Sweep | None = None
    mix: Mix | None = None

    def report(self, request: Request) -> dict[str, Any]:
        """The JSON form: the plan, or all of them; other keys only where they were asked for."""
        if request.side_by_side:
            found: dict[str, Any] = {"plans": [plan.report() for plan in self.plans]}
        else:
            (plan,) = self.plans
            brief = plan.solution is not None and not request.fastest
            found = plan.solution.report(plan.problem) if brief and plan.solution else plan.report()
        parts = {
            "explanation": self.explanation,
            "what_if": self.what_if,
            "sweep": self.sweep,
            "mix": self.mix,
        }
        # By way of JSON, which has no infinity: it becomes null.
        return found | {
            key: msgspec.json.decode(msgspec.json.encode(part))
            for key, part in parts.items()
            if part is not None
        }


def report(request: Request, answers: Sequence[Answer]) -> dict[str, Any]:
    """What `d3bed plan --json` prints: an answer, or one by network."""
    if request.network == ALL:
        return {"networks": {a.case.network: a.report(request) for a in answers}}
    return answers[0].report(request)


def answer(request: Request, say: Say) -> list[Answer]:
    """Answer a request: one answer, or one per network preset. Raises `ConfigError`, `PlanInfeasible`.

    A strategy without a plan raises if it was asked for alone, and has a line saying why otherwise.
    """
    _check(request)
    questions = []
    for case in _cases(request, say):
        problem = limited(with_pins(case.problem, request.pins), request.memory, request.rate_per_s)
        questions.append(_question(request, Case(problem, case.about, case.network)))
    # Loaded before anything is solved, so that no strategy's time to plan counts it.
    import scipy.optimize
    import scipy.sparse.csgraph  # noqa: F401

    found = [question() for question in questions]
    if request.save_problem is not None:
        _write("--save-problem", request.save_problem, found[0].case.problem.encode())
    if request.svg is not None:
        _write("--svg", request.svg, _drawn(found[0]))
    return found


def _check(request: Request) -> None:
    """Refuse options that do not go together before anything is loaded."""
    if request.strategy not in (None, ALL):
        check_strategy(request.strategy, "--strategy", "")
    if request.objective not in get_args(Objective):
        known = " or ".join(get_args(Objective))
        raise ConfigError("--objective", request.objective, "there is no such objective", f"use {known}")
    if request.fastest:
        for option, given in (
            ("--rate", request.rate_per_s),
            ("--explain", request.explain),
            ("--what-if", request.what_if),
            ("--sweep", request.sweep),
        ):
            if given is not None:
                remedy = "leave one of them out"
                raise ConfigError(option, f"{given}", "is about latency, and not throughput", remedy)
    if request.published and request.strategy not in (*RIVALS, ALL):
        known = " or ".join((*RIVALS, ALL))
        raise ConfigError("--as-published", "", "only rivals ship another input", f"use --strategy {known}")
    for option, path in (("--svg", request.svg), ("--save-problem", request.save_problem)):
        if path is not None and request.network == ALL:
            raise ConfigError(option, "", "one file cannot hold every network", "name one with --network")
        if path is not None and not path.resolve().parent.is_dir():
            raise ConfigError(option, str(path), "no such folder", "make it first, or choose another place")
    if request.problem is not None:
        for option, word in (
            ("--model", request.model),
            ("--weights", request.weights),
            ("--input", request.input),
            ("--encoded", request.encoded_kb),
        ):
            if word is not None:
                raise ConfigError(
                    option, f"{word}", "a problem file has its own vertices", "leave one of them out"
                )


def _question(request: Request, case: Case) -> Callable[[], Answer]:
    """What is asked about a case, understood but not solved yet."""
    problem, strategy = case.problem, request.strategy or "optimal"
    vertex = None if request.explain is None else vertex_named(problem, request.explain, "--explain")
    change = None if request.what_if is None else read_supposition(problem, request.what_if)
    span = None if request.sweep is None else rate_range(problem, request.sweep)

    def ask() -> Answer:
        return Answer(
            case,
            _plans(problem, strategy, request),
            None if vertex is None else explain(problem, vertex),
            None if change is None else what_if(problem, change, "optimal" if strategy == ALL else strategy),
            None if span is None else sweep(problem, *span, _swept(problem, strategy)),
            _best_mix(problem) if request.fastest or request.rate_per_s is not None else None,
        )

    return ask


def _drawn(answer: Answer) -> str:
    """The picture that was asked for: the sweep if there is one, or else the first plan."""
    if answer.sweep is not None:
        return plan_svg.sweep_svg(answer.sweep, answer.case.about)
    plan = next((plan for plan in answer.plans if plan.solution is not None), None)
    if plan is None or plan.solution is None:
        raise PlanInfeasible("--svg", "no strategy has a plan to draw")
    return plan_svg.graph_svg(plan.problem, plan.solution, answer.case.about)


def _write(option: str, path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(option, str(path), f"{error.strerror}", "choose another place") from error


def _best_mix(problem: Problem) -> Mix:
    from d3bed.plan.mix import best_mix

    return best_mix(problem)


def _swept(problem: Problem, strategy: str) -> list[str]:
    if strategy == ALL:
        return [name for name in STRATEGIES if name not in set(Tier) - set(problem.tiers)]
    return list(dict.fromkeys(["optimal", strategy, *problem.tiers]))


def _plans(problem: Problem, strategy: str, request: Request) -> tuple[Plan, ...]:
    objective: Objective = "throughput" if request.fastest else "latency"
    if strategy != ALL:
        its = as_published(problem) if request.published else problem
        return (Plan(strategy, its, solve(its, strategy, objective), published=request.published),)
    best = None
    found = list[Plan]()
    for name in STRATEGIES:
        for changed in (False, True) if request.published and name in RIVALS else (False,):
            its = as_published(problem) if changed else problem
            try:
                plan = Plan(name, its, _timed(its, name, objective), published=changed)
            except PlanInfeasible as refusal:
                reason = f"{refusal.binding}: {refusal.problem}"
                found.append(Plan(name, its, None, refused=reason, published=changed))
                continue
            best = best or (plan if name == "optimal" else None)
            found.append(replace(plan, regret=_regret(plan, best, objective)))
    return tuple(found)


def _regret(plan: Plan, best: Plan | None, objective: Objective) -> float | None:
    """How many times worse than the optimal plan; None where that costs nothing, or is not known."""
    if best is None or best.solution is None or plan.solution is None:
        return None
    if objective == "throughput":
        _, least_s = best.slowest
        return plan.slowest[1] / least_s if least_s else None
    return plan.solution.cost_s / best.solution.cost_s if best.solution.cost_s else None


def _timed(problem: Problem, strategy: str, objective: Objective) -> Solution:
    """The solution with the median time to plan of a few runs, the first one, which warms up, left out.

    Every run gets a fresh copy, so that none finds what another one has derived from the problem.
    """
    solution = solve(msgspec.structs.replace(problem), strategy, objective)
    times_s: list[float] = []
    while len(times_s) < _MOST_RUNS and sum(times_s) < _BUDGET_S:
        times_s.append(solve(msgspec.structs.replace(problem), strategy, objective).plan_time_s)
    return msgspec.structs.replace(solution, plan_time_s=statistics.median(times_s))


# ── cases ─────────────────────────────────────────────────────────────────────────────────────────


def _cases(request: Request, say: Say) -> list[Case]:
    if request.problem is not None:
        for option, given in (("--model", request.model), ("--weights", request.weights)):
            if given is not None:
                raise ConfigError(
                    option, given, "a problem file has its own vertices", "leave one of them out"
                )
        return _from_file(request.problem, request.network)
    return _from_model(request, say)


def _presets(network: str | None) -> list[str]:
    return list(networks()) if network == ALL else [network] if network is not None else []


def _from_file(path: Path, network: str | None) -> list[Case]:
    """The problem of a `d3bed.problem/1` file, with its own links or those of network presets."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(str(path), "", f"cannot be read: {reason}", "check the path") from error
    problem = Problem.parse(text, str(path))
    cases = []
    for name in _presets(network):
        shapes = read_network(name, "--network", "")
        links = dict(problem.links)
        for pair in (*links, *([DEVICE_CLOUD] if len(problem.tiers) == len(TIERS) else [])):
            if pair in shapes:
                links[pair] = LinkRate(shapes[pair].bytes_per_s, shapes[pair].latency_s)
        about = f"problem {path.name}, network {name}"
        cases.append(Case(msgspec.structs.replace(problem, links=links), about, name))
    return cases or [Case(problem, f"problem {path.name}", "as in the file")]


def _from_model(request: Request, say: Say) -> list[Case]:
    """Export and profile the model here; speeds, links and pins come from the config file."""
    alone = request.network if request.network != ALL else None
    config = override(
        read_config(request.config),
        model=request.model,
        weights=request.weights,
        input=request.input,
        encoded_kb=request.encoded_kb,
        network=alone,
        strategy=request.strategy if request.strategy != ALL else None,
    )
    if not config.pipelines:
        raise ConfigError(config.path, "pipelines", "there is none", "add a [pipelines.NAME] table")
    pipeline = config.pipelines[0]
    if pipeline.model.encoded and request.published:
        remedy = "leave one of them out"
        raise ConfigError("--as-published", "", "is about pixels, and frames are image files", remedy)

    graph, profile = profiled(pipeline, request.cache_dir, say)
    speeds: dict[Tier, float] = {}
    for name, tier in pipeline.tiers.items():
        speeds[tier] = max(speeds.get(tier, 0.0), config.agent(name).speed)
    pins = [Pin(p.vertices, p.tiers) for p in pipeline.pins.get(pipeline.model.name, ())]
    presets = {name: read_network(name, "--network", "") for name in _presets(request.network)}
    cases = []
    for network, shapes in (presets or {pipeline.network: pipeline.shapes}).items():
        problem = Problem.from_graph(
            graph,
            {tier: tuple(t / speed for t in profile.times_s) for tier, speed in speeds.items()},
            _links(speeds, shapes),
            allowed=pinned(graph, pins),
        )
        about = (
            f"{pipeline.model.name} ({pipeline.model.weights}), network {network}, "
            f"speeds {', '.join(f'{tier} {speed:g}' for tier, speed in speeds.items())}"
        )
        if pipeline.model.encoded:
            about += f", image files of {pipeline.model.encoded / 1000:g} kB"
        if pins:
            about += ", pinned " + ", ".join(f"{pin.vertices}={'|'.join(pin.tiers)}" for pin in pins)
        cases.append(Case(problem, about, network))
    return cases


def profiled(pipeline: PipelineSettings, cache_dir: Path, say: Say) -> tuple[Graph, Profile]:
    """A pipeline's model and what it takes on this machine: as kept, or measured now."""
    import torch

    from d3bed.agent.profiler import ProfileCache
    from d3bed.model import fingerprint, load

    torch.set_num_threads(pipeline.threads)
    say(f"loading {pipeline.model.name} …")
    loaded = load(pipeline.model, kept=cache_dir / "exported", reference=False)
    cache, print_ = ProfileCache(cache_dir), fingerprint(pipeline.threads)
    if cache.get(loaded.graph.digest, print_, pipeline.threads) is None:
        say("profiling it on this machine …")
    with torch.inference_mode():
        profile, _ = cache.profile(loaded, print_, pipeline.threads)
    return loaded.graph, profile


def _links(speeds: Mapping[Tier, float], shapes: Mapping[str, LinkShape]) -> dict[str, LinkRate]:
    present = [tier for tier in TIERS if tier in speeds]
    links = {}
    for here, there in zip(present, present[1:], strict=False):
        shape = shapes.get(f"{here}-{there}")
        links[f"{here}-{there}"] = LinkRate(shape.bytes_per_s, shape.latency_s) if shape else UNSHAPED
    direct = shapes.get(DEVICE_CLOUD)
    if direct is not None and len(present) == len(TIERS):
        links[DEVICE_CLOUD] = LinkRate(direct.bytes_per_s, direct.latency_s)
    return links
