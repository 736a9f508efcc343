from __future__ import annotations

from d3bed.core import errors
from d3bed.core.errors import ConfigError, D3Error, PlanInfeasible, ProblemError


def test_every_error_is_one_of_ours() -> None:
    kinds = [getattr(errors, name) for name in errors.__all__ if name != "near"]
    assert all(issubclass(kind, D3Error) for kind in kinds)


def test_a_config_error_is_one_line_with_place_problem_and_remedy() -> None:
    error = ProblemError("net.json", "links.device-edge", "is missing", "add it")
    assert isinstance(error, ConfigError)
    assert str(error) == "net.json: links.device-edge: is missing — add it"
    assert str(ConfigError("demo.toml", "", "is empty")) == "demo.toml: is empty"


def test_an_infeasible_plan_names_what_binds() -> None:
    error = PlanInfeasible("edge", "weights do not fit")
    assert error.binding == "edge"
    assert str(error) == "no feasible plan: edge: weights do not fit"
