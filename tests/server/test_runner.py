"""What the runner does with the planner, in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from d3bed import plan

PACKAGE = Path(plan.__file__).resolve().parents[1]
FIXTURE = Path(__file__).resolve().parents[1] / "plan" / "fixtures" / "alexnet-wifi.json"

PLANS = """
import shutil, sys
from pathlib import Path
import msgspec
import d3bed.plan
from d3bed.server import runner

place = Path(d3bed.plan.__file__).parent
assert place.is_relative_to(sys.argv[1]), place
runner._load_planner()
shutil.rmtree(place)
given = Path(sys.argv[2]).read_text()
for rate_per_s in (None, 2.0):
    problem = msgspec.structs.replace(d3bed.plan.Problem.parse(given), rate_per_s=rate_per_s)
    for strategy in d3bed.plan.STRATEGIES:
        try:
            d3bed.plan.solve(problem, strategy)
        except d3bed.core.errors.PlanInfeasible:
            assert rate_per_s
from d3bed.plan.explain import explain
explain(d3bed.plan.Problem.parse(given), 3)
"""


def test_a_running_server_plans_though_its_files_were_replaced(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "d3bed", ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [sys.executable, "-c", PLANS, str(tmp_path), str(FIXTURE)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
