"""An idle agent's sample: a real layer, timed as slow as the board that is emulated."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest
import torch

from d3bed.agent.compute import ComputeThread
from d3bed.agent.executor import Executor, Observer
from d3bed.agent.profiler import measure
from d3bed.agent.sampling import Sampler
from d3bed.core.messages import ModelSpec
from d3bed.model import load


@pytest.mark.parametrize("speed", [0.1, 0.02])
async def test_a_sample_is_what_the_profile_says_times_what_is_emulated(speed: float) -> None:
    compute = ComputeThread("test")
    try:
        model = load(ModelSpec("alexnet", input=(3, 64, 64)))
        executor = Executor(compute, 0.1, Observer())
        sampler = Sampler(executor)
        executor.set_speed(speed)  # as under a load, after the layer was chosen for the usual speed or before
        while True:  # a profile of a busy machine is not what its layers take later
            profile = await compute.run(lambda: measure(model, 3))
            sampler.forget(model.spec.key)
            if (found := await sampler.sample(model, profile.times_s)) is None:
                continue
            vertex, taken_s = found
            assert 0 < vertex < len(profile.times_s)
            if taken_s >= 0.9 * profile.times_s[vertex] / speed:
                break
        assert not executor.is_busy
    finally:
        compute.close()


class _Steady(Executor):
    """Whatever is timed takes the same."""

    async def time(self, call: Callable[[], tuple[torch.Tensor, ...]], nominal_s: float) -> float:
        assert call()
        return 0.003


async def test_one_layer_that_takes_what_no_other_does_tells_nothing_of_the_board() -> None:
    compute = ComputeThread("test")
    try:
        model = load(ModelSpec("alexnet", input=(3, 96, 96)))
        sampler = Sampler(_Steady(compute, 1.0, Observer()))
        times_s = [0.0001] * len(model.graph.vertices)
        times_s[4], times_s[6], times_s[8] = 0.003, 0.0061, 0.0031
        assert await sampler.sample(model, times_s) == (8, 0.003)
        sampler.forget(model.spec.key)
        times_s[6] = 0.001  # takes too long now: something came
        assert await sampler.sample(model, times_s) == (4, 0.003)
        sampler.forget(model.spec.key)
        times_s[4] = times_s[8] = 0.0001
        assert await sampler.sample(model, times_s) == (6, 0.003), "alone: the others say little"
    finally:
        compute.close()


async def test_where_every_layer_takes_too_long_there_is_no_sample() -> None:
    compute = ComputeThread("test")
    try:
        model = load(ModelSpec("alexnet", input=(3, 96, 96)))
        sampler = Sampler(Executor(compute, 1.0, Observer()))
        assert await sampler.sample(model, (0.0, *[1.0] * (len(model.graph.vertices) - 1))) is None
    finally:
        compute.close()


async def test_what_waits_for_its_turn_takes_no_less_by_that() -> None:
    compute, free = ComputeThread("test"), threading.Event()

    def burn() -> tuple[()]:
        until_s = time.thread_time() + 0.01
        while time.thread_time() < until_s:
            pass
        return ()

    try:
        executor = Executor(compute, 0.1, Observer())
        before = asyncio.create_task(compute.run(lambda: free.wait(60)))
        timed = asyncio.create_task(executor.time(burn, 0.01))
        await asyncio.sleep(0.3)  # longer than what is timed takes
        free.set()
        assert await timed >= 0.099
        await before
    finally:
        free.set()
        compute.close()
