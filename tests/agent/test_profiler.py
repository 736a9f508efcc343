"""Profiles: in situ, close to the whole, and kept on disk."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path

import pytest
import torch

from d3bed.agent.profiler import Profile, ProfileCache, fixed_part, is_outdated, measure
from d3bed.core.messages import ModelSpec
from d3bed.model import LoadedModel, load

KEY = ("0123456789abcdef", "torch x, 1 thread", 1)
PROFILE = Profile((0.0, 0.25, 1e-05), (0.0, 0.125, 0.0))


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load(ModelSpec("resnet18"))


def test_the_sum_of_the_vertices_is_about_the_whole(model: LoadedModel) -> None:
    """Wide bounds, and once is enough: other work on this machine is not what is tested. Both are times of
    this thread."""
    image = torch.zeros(model.input.shape, dtype=torch.uint8)
    model.whole(image)
    while True:
        whole_s = []
        times_s, fixed_s = measure(model, runs=5)
        for _ in range(5):
            start_s = time.thread_time()
            model.whole(image)
            whole_s.append(time.thread_time() - start_s)
        assert len(times_s) == len(model.graph.vertices)
        assert times_s[0] == 0
        assert all(t > 0 for t in times_s[1:])
        assert all(0 <= fixed <= time for fixed, time in zip(fixed_s, times_s, strict=True))
        if 0.3 < sum(times_s) / sorted(whole_s)[2] < 3:
            break


def test_heavier_layers_take_longer(model: LoadedModel) -> None:
    heavy = model.graph.index["layer1.0.conv1"]
    light = model.graph.index["layer4.1.add"]
    while (times_s := measure(model, runs=3).times_s)[heavy] <= times_s[light]:  # on a busy machine
        pass


def test_a_kept_profile_is_found_again(tmp_path: Path) -> None:
    cache = ProfileCache(tmp_path / "new" / "folder")
    assert cache.get(*KEY) is None
    cache.put(*KEY, PROFILE)
    assert ProfileCache(tmp_path / "new" / "folder").get(*KEY) == PROFILE
    assert len(list((tmp_path / "new" / "folder").iterdir())) == 1


@pytest.mark.parametrize("other", [("ffff", KEY[1], 1), (KEY[0], "torch y", 1), (KEY[0], KEY[1], 2)])
def test_another_model_machine_or_thread_count_misses(tmp_path: Path, other: tuple[str, str, int]) -> None:
    cache = ProfileCache(tmp_path)
    cache.put(*KEY, PROFILE)
    assert cache.get(*other) is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "\x00\x01",
        json.dumps({"key": ["d3bed.profile/2", *KEY]}),
        json.dumps({"key": ["d3bed.profile/2", *KEY], "times_s": [], "fixed_s": []}),
        json.dumps({"key": ["d3bed.profile/2", *KEY], "times_s": [0, "x"], "fixed_s": [0, 0]}),
        json.dumps({"key": ["d3bed.profile/2", *KEY], "times_s": [0, 1], "fixed_s": [0, -1]}),
        json.dumps({"key": ["d3bed.profile/2", *KEY], "times_s": [0, 1], "fixed_s": [0]}),
        json.dumps({"key": ["d3bed.profile/2", *KEY], "times_s": [0, math.nan], "fixed_s": [0, 0]}),
        json.dumps({"key": ["d3bed.profile/1", *KEY], "times_s": [0, 1], "fixed_s": [0, 0]}),
    ],
)
def test_a_corrupt_file_is_a_miss_and_is_replaced(tmp_path: Path, content: str) -> None:
    cache = ProfileCache(tmp_path)
    cache.put(*KEY, PROFILE)
    file = next(tmp_path.iterdir())
    file.write_text(content, encoding="utf-8")
    assert cache.get(*KEY) is None
    cache.put(*KEY, PROFILE)
    assert cache.get(*KEY) == PROFILE


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = ProfileCache(tmp_path / "file")
    cache.put(*KEY, PROFILE)
    assert cache.get(*KEY) is None


def test_a_profile_from_a_busy_machine_is_outdated_and_one_from_a_quiet_machine_is_not(
    model: LoadedModel,
) -> None:
    times_s, _ = measure(model, runs=3)
    assert is_outdated(model, tuple(100 * time_s for time_s in times_s))
    assert not is_outdated(model, tuple(time_s / 100 for time_s in times_s))


def test_a_kept_profile_is_used_unless_it_is_outdated_or_a_fresh_one_is_wanted(
    model: LoadedModel, tmp_path: Path
) -> None:
    cache, digest = ProfileCache(tmp_path), model.graph.digest
    first, kept = cache.profile(model, "print", 1)
    assert not kept and cache.get(digest, "print", 1) == first
    quiet = Profile(tuple(time_s / 10 for time_s in first.times_s), first.fixed_s)
    cache.put(digest, "print", 1, quiet)
    (file,) = tmp_path.iterdir()
    os.utime(file, (0, 0))
    assert cache.profile(model, "print", 1) == (quiet, True)
    assert cache.profile(model, "print", 1, fresh=True)[1] is False
    busy = Profile(tuple(1000 * s for s in first.times_s), first.fixed_s)
    cache.put(digest, "print", 1, busy)
    assert cache.profile(model, "print", 1) == (busy, True), "it was measured only now"
    os.utime(file, (0, 0))
    again, kept = cache.profile(model, "print", 1)
    assert not kept and sum(again.times_s) < 100 * sum(first.times_s)


def test_decoding_is_measured_on_a_real_file_and_looked_at_again(tmp_path: Path) -> None:
    model = load(ModelSpec("alexnet", encoded=100_000))
    cache = ProfileCache(tmp_path)
    profile, kept = cache.profile(model, "print", 1)
    decode, normalise = model.graph.index["decode"], model.graph.index["normalise"]
    assert not kept and profile.times_s[decode] > 0 < profile.times_s[normalise]
    quiet = Profile(tuple(time_s / 10 for time_s in profile.times_s), profile.fixed_s)
    cache.put(model.graph.digest, "print", 1, quiet)
    assert cache.profile(model, "print", 1) == (quiet, True)


@pytest.mark.parametrize(
    ("tiles", "fixed"),
    [
        ([(0.5, 6.0), (0.25, 4.0)], 2.0),
        ([(0.5, 5.0), (0.25, 2.5)], 0.0),
        ([(0.5, 4.0)], 0.0),
        ([(0.5, 12.0)], 10.0),
        ([], 0.0),
    ],
)
def test_the_fixed_part_is_where_the_line_meets_an_empty_tile(
    tiles: list[tuple[float, float]], fixed: float
) -> None:
    assert fixed_part(10.0, tiles) == pytest.approx(fixed)


def test_small_maps_have_fixed_parts(model: LoadedModel) -> None:
    windowed = [v for v, vertex in enumerate(model.graph.vertices) if vertex.window is not None]
    while True:  # a busy machine may hide it
        times_s, fixed_s = measure(model, runs=4)
        assert fixed_s[model.graph.index["layer4.1.add"]] == 0
        small = sum(fixed_s) < sum(times_s) / 2
        if small and any(fixed_s[v] > 0.05 * times_s[v] for v in windowed):
            break


@pytest.mark.parametrize("name", ["vit_tiny", "mobilenetv3"])
def test_networks_that_no_tile_fits_are_profiled_all_the_same(name: str) -> None:
    other = load(ModelSpec(name))
    times_s, fixed_s = measure(other, runs=2)
    assert len(times_s) == len(fixed_s) == len(other.graph.vertices)
    assert all(fixed == 0 for fixed, v in zip(fixed_s, other.graph.vertices, strict=True) if v.window is None)
