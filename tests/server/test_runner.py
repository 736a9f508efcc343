"""What the runner does with the planner."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from d3bed import plan
from d3bed.plan import Choice
from d3bed.server import runner as module
from d3bed.server.events import ComputePlan, Event, PlanComputed
from d3bed.server.runner import Runner, choice_for, make_clock
from d3bed.server.store import Store

if TYPE_CHECKING:
    from tests.server.conftest import Stage


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


async def test_a_plan_without_tiles_waits_for_none_with_tiles(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a loss frames wait for the first, while the second may take a second, made for what is lost."""
    stage.join_all()
    command = stage.plans[-1]
    asked, go_on, quick = threading.Event(), threading.Event(), asyncio.Event()
    submitted: list[Event] = []

    def planned(command: ComputePlan) -> Choice:
        if command.tiling != "none":
            asked.set()
            assert go_on.wait(60)
        return choice_for(command)

    store = Store(tmp_path / "store")
    runner = Runner(stage.coordinator, store, make_clock())

    def submit(event: Event) -> None:
        submitted.append(event)
        quick.set()

    monkeypatch.setattr(module, "choice_for", planned)
    monkeypatch.setattr(runner, "submit", submit)
    runner._perform(msgspec.structs.replace(command, tiling="vsm", request=1))
    await asyncio.to_thread(asked.wait, 60)
    runner._perform(msgspec.structs.replace(command, tiling="none", request=2))
    await asyncio.wait_for(quick.wait(), 60)
    assert [event.request for event in submitted if isinstance(event, PlanComputed)] == [2]
    go_on.set()
    await asyncio.gather(*runner._tasks)
    assert [event.request for event in submitted if isinstance(event, PlanComputed)] == [2, 1]
    await runner.stop()
    store.close()
