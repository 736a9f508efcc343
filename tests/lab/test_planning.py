"""`d3bed plan` on problem files, by real runs of the command: no torch is needed, none is loaded."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from d3bed.plan import STRATEGIES
from tests import forked

FIXTURES = Path(__file__).parents[1] / "plan" / "fixtures"
VGG = FIXTURES / "mixed-vgg16.json"
RESNET = FIXTURES / "mixed-resnet18.json"
SVG = "{http://www.w3.org/2000/svg}"


def d3bed(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    needs = "d3bed.lab.plan_show scipy.optimize scipy.sparse.csgraph d3bed.plan.mix"
    return forked.run(*arguments, folder=folder, columns=80, imported=needs, forbidden="torch")


@functools.cache
def plan(*arguments: str | Path, problem: Path = VGG) -> str:
    """Standard output; asked for again, the command is not run again."""
    done = d3bed("plan", "--problem", str(problem), *map(str, arguments))
    assert done.returncode == 0, done.stderr
    return done.stdout


def plan_json(*arguments: str | Path, problem: Path = VGG) -> dict[str, Any]:
    found = json.loads(plan("--json", *arguments, problem=problem))
    assert isinstance(found, dict)
    return found


# ── strategies and networks ───────────────────────────────────────────────────────────────────────


def test_a_single_strategy_keeps_its_exact_keys() -> None:
    found = plan_json("--strategy", "dads")
    assert set(found) == {"strategy", "assignment", "cost_s", "plan_time_s", "link_bytes"}


def test_all_strategies_stand_side_by_side() -> None:
    plans = plan_json("--strategy", "all")["plans"]
    assert [p["strategy"] for p in plans] == list(STRATEGIES)
    assert plans[0]["regret"] == 1
    for p in plans:
        assert p["regret"] >= 1 - 1e-9
        busy = [*p["compute_s"].values()]
        assert p["highest_rate_per_s"] <= 1 / max(busy) * (1 + 1e-9)
        assert sum(busy) <= p["cost_s"]
    shown = plan("--strategy", "all")
    assert "backbone" in shown and "regret" in shown and "frames" in shown


def test_a_strategy_without_a_plan_says_why_beside_the_others() -> None:
    pins = ("--pin", "features.0=device", "--pin", "features.17=edge", "--pin", "head.fc=cloud")
    shown = plan("--strategy", "all", *pins)
    assert "neurosurgeon has no plan: pins: they leave neurosurgeon no two tiers" in shown
    plans = plan_json("--strategy", "all", *pins)["plans"]
    refused = {p["strategy"]: p["infeasible"] for p in plans if "infeasible" in p}
    assert set(refused) >= {"neurosurgeon", "dads"} and "optimal" not in refused


def test_rivals_as_published_ship_four_times_the_photo() -> None:
    problem = FIXTURES / "vgg16-wifi.json"
    plans = plan_json("--strategy", "all", "--as-published", problem=problem)["plans"]
    assert {p["strategy"] for p in plans if p["input"] == "float32, as published"} == {"neurosurgeon", "dads"}
    ours, theirs = (p for p in plans if p["strategy"] == "neurosurgeon")
    photo, result = 150528, 4000
    assert ours["link_bytes"]["edge-cloud"] == photo + result
    assert theirs["link_bytes"]["edge-cloud"] == 4 * photo + result
    assert theirs["regret"] > ours["regret"]
    assert "as published: float32 input" in plan("--strategy", "dads", "--as-published", problem=problem)
    assert "* as published" in plan("--strategy", "all", "--as-published", problem=problem)


def test_every_network_makes_a_grid() -> None:
    problem = FIXTURES / "resnet18-wifi.json"
    grid = plan_json("--network", "all", "--strategy", "all", problem=problem)["networks"]
    assert {"wifi", "slow-backbone", "lan", "lte"} <= set(grid)
    assert all(len(answer["plans"]) == len(STRATEGIES) for answer in grid.values())
    alone = plan_json("--network", "lte", problem=problem)["cost_s"]
    assert grid["lte"]["plans"][0]["cost_s"] == pytest.approx(alone)
    assert grid["slow-backbone"]["plans"][0]["cost_s"] > grid["lan"]["plans"][0]["cost_s"]
    shown = plan("--network", "all", "--strategy", "all", problem=problem)
    assert "hpa-greedy" in shown and "backbone" in shown and "cost ms (regret)" in shown


def test_a_model_is_profiled_once_and_planned_for_every_network(tmp_path: Path) -> None:
    pytest.importorskip("torch")

    def run(*arguments: str) -> tuple[dict[str, Any], str]:
        done = subprocess.run(
            [sys.executable, "-m", "d3bed", "plan", "--model", "alexnet", "--cache-dir", "cache", *arguments],
            cwd=tmp_path,
            env={**os.environ, "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), done.stderr

    grid, said = run("--network", "all", "--strategy", "all", "--json")
    assert "profiling" in said
    for answer in grid["networks"].values():
        least_s = answer["plans"][0]["cost_s"]
        assert all(p["cost_s"] >= least_s * (1 - 1e-9) for p in answer["plans"] if "cost_s" in p)
        # The pins of the config file hold.
        assert answer["plans"][0]["assignment"]["features.0"] == "device"
    kept, said = run("--network", "wifi", "--pin", "features.8=edge", "--save-problem", "p.json", "--json")
    assert "profiling" not in said
    assert kept["assignment"]["features.8"] == "edge"
    again = plan_json("--strategy", "optimal", problem=tmp_path / "p.json")
    assert again["assignment"] == kept["assignment"]


def test_files_that_are_smaller_than_pixels_are_cut_before_the_decoder(tmp_path: Path) -> None:
    pytest.importorskip("torch")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        where = ("--model", "resnet18", "--network", "lte", "--cache-dir", "cache")
        return subprocess.run(
            [sys.executable, "-m", "d3bed", "plan", *where, *arguments],
            cwd=tmp_path,
            env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"},
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )

    found = json.loads(run("--encoded", "44", "--strategy", "cloud", "--json").stdout)
    assert (found["assignment"]["input"], found["assignment"]["decode"]) == ("device", "cloud")
    assert 44_000 < found["link_bytes"]["device-edge"] < 60_000  # the file, and scores that come back
    assert "image files of 44 kB" in run("--encoded", "44").stdout
    assert "is about pixels" in run("--encoded", "44", "--strategy", "all", "--as-published").stderr


# ── limits ────────────────────────────────────────────────────────────────────────────────────────


def test_pins_hold_a_range_of_vertices() -> None:
    free = plan_json()
    pinned = plan_json("--pin", "input..features.9=device", "--pin", "head.*=cloud")
    names = list(pinned["assignment"])
    until = names.index("features.9")
    assert all(pinned["assignment"][name] == "device" for name in names[: until + 1])
    assert all(tier == "cloud" for name, tier in pinned["assignment"].items() if name.startswith("head."))
    assert free["assignment"]["features.9"] != "device"
    assert pinned["cost_s"] > free["cost_s"]


def test_a_range_on_a_dag_takes_every_way_between() -> None:
    found = plan_json("--pin", "input..layer2.0.conv1=edge,device", problem=FIXTURES / "resnet18-wifi.json")
    assert found["assignment"]["layer2.0.conv1"] in ("edge", "device")


def test_memory_limits_the_weights_of_a_tier() -> None:
    free = plan_json()
    # VGG-16's classifier is where its weights are: 411 MB in the first layer of it alone.
    limited = plan_json("--memory", "cloud=100MB")
    assert free["assignment"]["pre_logits.fc1"] == "cloud"
    assert limited["assignment"]["pre_logits.fc1"] != "cloud"
    assert limited["cost_s"] > free["cost_s"]


def test_a_rate_is_kept_or_the_highest_one_named() -> None:
    (free,) = plan_json("--strategy", "all", "--rate", "1")["plans"][:1]
    ceiling = free["highest_rate_per_s"]
    found = plan_json("--strategy", "all", "--rate", str(ceiling * 1.05))["plans"][0]
    assert found["highest_rate_per_s"] >= ceiling * 1.05 * (1 - 1e-9)
    done = d3bed("plan", "--problem", str(VGG), "--rate", "100000")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "highest rate" in done.stderr


def test_a_rate_comes_with_what_a_mix_of_plans_sustains() -> None:
    mix = plan_json("--rate", "5")["mix"]
    assert sum(mix["shares"]) == pytest.approx(1)
    assert mix["rate_per_s"] >= mix["single_per_s"] > 5
    assert "one plan sustains at most" in plan("--rate", "5")


def test_throughput_is_planned_for_by_optimal_and_dads_and_told_of_the_others() -> None:
    asked = ("--strategy", "all", "--objective", "throughput")
    found = plan_json(*asked)
    plans = {p["strategy"]: p for p in found["plans"]}
    best = plans["optimal"]["highest_rate_per_s"]
    for p in plans.values():
        assert p["regret"] == pytest.approx(best / p["highest_rate_per_s"])
        assert p["regret"] >= 1 - 1e-9
        assert p["slowest_stage"] in {"device", "edge", "cloud", "device-edge", "edge-cloud"}
    latency = {p["strategy"]: p for p in plan_json("--strategy", "all")["plans"]}
    for strategy in ("optimal", "dads"):
        assert plans[strategy]["highest_rate_per_s"] > latency[strategy]["highest_rate_per_s"] * 1.01
    assert plans["hpa"]["assignment"] == latency["hpa"]["assignment"]
    assert found["mix"]["rate_per_s"] >= found["mix"]["single_per_s"] == pytest.approx(best)
    assert "slowest" in plan(*asked) and "a mix of plans" in plan(*asked)
    alone = plan("--objective", "throughput")
    assert f"at most {best:.4g} frames/s (" in alone and "busiest" in alone
    # That rate can be asked for, and no higher one.
    kept = plan_json("--rate", f"{best * 0.9999:.6f}")
    assert kept["cost_s"] <= plans["optimal"]["cost_s"] * (1 + 1e-9)
    assert d3bed("plan", "--problem", str(VGG), "--rate", f"{best * 1.001:.6f}").returncode == 1
    grid = plan("--network", "all", *asked)
    assert "highest rate, frames/s (regret)" in grid


def test_at_a_rate_that_no_strategy_keeps_there_is_no_empty_table() -> None:
    shown = plan("--strategy", "all", "--rate", "1000")
    assert shown.count(" has no plan: ") == len(STRATEGIES)
    assert "regret" not in shown


def test_a_network_with_a_direct_link_is_planned_with_it(tmp_path: Path) -> None:
    preset = tmp_path / "reach.toml"
    links = {"device-edge": 20, "edge-cloud": 10, "device-cloud": 400}
    lines = [f"{name} = {{ mbit_per_s = {rate}, latency_ms = 1 }}" for name, rate in links.items()]
    preset.write_text("\n".join(['description = "the device reaches the cloud"', "[links]", *lines]))
    found = plan_json("--network", str(preset))
    assert found["link_bytes"]["device-cloud"] > 0 == found["link_bytes"]["edge-cloud"]


def test_a_saved_problem_has_the_limits(tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    first = plan_json("--pin", "input..features.9=device", "--memory", "edge=200MB", "--save-problem", kept)
    assert plan_json(problem=kept)["assignment"] == first["assignment"]
    file = json.loads(kept.read_text())
    assert file["memory_bytes"] == {"edge": 200e6} and file["allowed_tiers"]["features.0"] == ["device"]


# ── questions ─────────────────────────────────────────────────────────────────────────────────────


def test_explain_says_what_each_other_tier_costs_and_what_would_move_it() -> None:
    found = plan_json("--explain", "features.17")
    assert {"strategy", "assignment", "explanation"} <= set(found)
    explanation = found["explanation"]
    assert explanation["tier"] == found["assignment"]["features.17"] == "edge"
    others = {other["tier"]: other for other in explanation["elsewhere"]}
    assert set(others) == {"device", "cloud"}
    for other in others.values():
        assert other["cost_s"] > found["cost_s"]
        gap_s = other["compute_s"] + other["transfer_s"]
        assert gap_s == pytest.approx(other["cost_s"] - found["cost_s"])
    forced = plan_json("--pin", "features.17=cloud")
    assert forced["cost_s"] == pytest.approx(others["cloud"]["cost_s"])
    assert explanation["triggers"]


def test_what_is_said_to_move_a_vertex_moves_it(tmp_path: Path) -> None:
    explanation = plan_json("--explain", "features.17")["explanation"]
    problem = json.loads(VGG.read_text())
    index = [v["name"] for v in problem["vertices"]].index("features.17")
    for number, trigger in enumerate(explanation["triggers"]):
        change = trigger["change"]
        changed = json.loads(VGG.read_text())
        if change["kind"] == "link":
            changed["links"][change["name"]]["bytes_per_s"] = change["value"]
        else:
            for vertex in changed["vertices"]:
                vertex["time_s"][change["name"]] /= change["value"]
        file = tmp_path / f"changed-{number}.json"
        file.write_text(json.dumps(changed))
        moved = plan_json(problem=file)["assignment"]
        assert list(moved.values())[index] == trigger["to"] != explanation["tier"]


def test_explain_in_words() -> None:
    shown = plan("--explain", "features.17")
    assert "features.17 is on the edge in the optimal plan" in shown
    assert "on the device:" in shown and "it would move, if nothing else changed" in shown
    assert "not possible: the input stays on the device" in plan("--explain", "input")


def test_what_if_compares_reactions() -> None:
    found = plan_json("--what-if", "link edge-cloud=2Mbit")["what_if"]
    reactions = {reaction["name"]: reaction for reaction in found["reactions"]}
    still, local, hpa, anew = (
        reactions[name]
        for name in ("leave it as it is", "local adjustment", "new plan, hpa", "new plan, optimal")
    )
    assert found["change"] == {"kind": "link", "name": "edge-cloud", "value": 2e6 / 8}
    assert found["before_s"] < anew["cost_s"] <= local["cost_s"] < still["cost_s"]
    assert hpa["cost_s"] >= anew["cost_s"]
    assert not still["moved"] and local["moved"] and anew["moved"]
    assert local["examined"] <= anew["examined"] == 24
    assert local["note"]
    shown = plan("--what-if", "link edge-cloud=2Mbit")
    assert "local adjustment" in shown and local["note"] in " ".join(shown.split())


def test_a_change_that_cannot_pay_is_not_looked_at() -> None:
    found = plan_json("--what-if", "tier device=0.999x", problem=FIXTURES / "vgg16-wifi.json")["what_if"]
    local = next(r for r in found["reactions"] if r["name"] == "local adjustment")
    assert local["examined"] == 0 and not local["moved"]


def test_a_tier_at_half_its_speed_takes_twice_as_long() -> None:
    found = plan_json("--strategy", "edge", "--what-if", "tier edge=0.5x")
    still = found["what_if"]["reactions"][0]
    edge_s = plan_json("--strategy", "all")["plans"]
    compute_s = next(p["compute_s"]["edge"] for p in edge_s if p["strategy"] == "edge")
    assert still["cost_s"] == pytest.approx(found["cost_s"] + compute_s)


def test_sweep_finds_where_plans_cross() -> None:
    found = plan_json("--sweep", "edge-cloud=0.5..100000Mbit")["sweep"]
    bands = found["bands"]
    assert bands[0]["low"] == pytest.approx(0.5e6 / 8) and bands[-1]["high"] == pytest.approx(1e11 / 8)
    assert len(bands) > 2
    for before, after in zip(bands, bands[1:], strict=False):
        assert before["high"] == after["low"]
        assert before["tiers"] != after["tiers"]
        # Costs do not jump where plans cross, and a faster link never hurts.
        assert after["low_cost_s"] == pytest.approx(before["high_cost_s"], rel=0.01)
        assert after["high_cost_s"] <= after["low_cost_s"]
    optimal = found["costs_s"]["optimal"]
    for costs in found["costs_s"].values():
        assert all(best <= cost * (1 + 1e-9) for best, cost in zip(optimal, costs, strict=True))
    shown = plan("--sweep", "edge-cloud=500kbit..1Gbit")
    assert "which plan wins where" in shown and "splitting pays in" in shown
    single = plan("--sweep", "edge-cloud=0.5..1000Mbit", problem=FIXTURES / "resnet18-wifi.json")
    assert "splitting gains nothing here" in single


# ── pictures ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "problem", [VGG, FIXTURES / "mixed-inception_v4.json", FIXTURES / "mixed-random-a.json"]
)
def test_the_graph_is_drawn_with_every_vertex(problem: Path, tmp_path: Path) -> None:
    picture = tmp_path / "plan.svg"
    found = plan_json("--svg", picture, problem=problem)
    titles = [title.text or "" for title in ET.parse(picture).iter(f"{SVG}title")]
    drawn = dict(title.split(": ", 1) for title in titles if ": " in title)
    for name, tier in found["assignment"].items():
        assert drawn[name].startswith(f"{tier}, ")


def test_the_sweep_is_drawn_with_a_line_per_strategy(tmp_path: Path) -> None:
    picture = tmp_path / "sweep.svg"
    plan("--strategy", "all", "--sweep", "edge-cloud=0.5..1000Mbit", "--svg", picture)
    words = [text.text for text in ET.parse(picture).iter(f"{SVG}text")]
    assert set(STRATEGIES) <= {(word or "").removesuffix(" (= optimal)") for word in words}


# ── mistakes ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--pin", "featurs.0=device"), "did you mean features.0"),
        (("--pin", "features.0"), "names no tier"),
        (("--pin", "features.0=devise"), "did you mean device"),
        (("--pin", "features.9..input=device"), "write input..features.9"),
        (("--pin", "features.9=device", "--pin", "features.2=edge"), "data would flow back"),
        (("--pin", "features.9=device", "--pin", "features.*=edge"), "another pin keeps it on the device"),
        (("--memory", "edge=512XB"), "write it as edge=512MB"),
        (("--memory", "fog=1GB"), "there is no 'fog' here"),
        (("--rate", "0"), "above 0"),
        (("--rate", "nan"), "above 0"),
        (("--objective", "fast"), "use latency or throughput"),
        (("--objective", "throughput", "--rate", "3"), "about latency"),
        (("--objective", "throughput", "--sweep", "edge-cloud=1..5Mbit"), "about latency"),
        (("--strategy", "optimol"), "did you mean optimal"),
        (("--strategy", "optimal", "--as-published"), "only rivals ship another input"),
        (("--network", "wfi"), "did you mean wifi"),
        (("--model", "vgg16"), "a problem file has its own vertices"),
        (("--network", "all", "--svg", "x.svg"), "name one with --network"),
        (("--encoded", "44"), "a problem file has its own vertices"),
        (("--explain", "features.99"), "there is no such vertex"),
        (("--what-if", "edge-cloud=2Mbit"), 'write "link edge-cloud=2Mbit"'),
        (("--what-if", "link edge-cloud=2MB"), "write it as 2Mbit"),
        (("--what-if", "link edge-clod=2Mbit"), "did you mean edge-cloud"),
        (("--what-if", "tier edge=2"), "0.5x makes it half as fast"),
        (("--what-if", "vertex features.99=2x"), "there is no such vertex"),
        (("--sweep", "edge-cloud=5"), "write it as edge-cloud=0.5..1000Mbit"),
        (("--sweep", "edge-cloud=1000..5Mbit"), "the range runs backward"),
        (("--sweep", "edge-cloud=0..5Mbit"), "not a number above 0"),
        (("--svg", "no/such/folder.svg"), "make it first"),
    ],
)
def test_mistakes_are_one_line_with_a_remedy(arguments: tuple[str, ...], says: str, tmp_path: Path) -> None:
    done = d3bed("plan", "--problem", str(VGG), *arguments, folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert says in done.stderr
    assert not done.stdout and not list(tmp_path.iterdir())
