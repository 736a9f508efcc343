"""The compute thread and the emulation of slower boards."""

from __future__ import annotations

import asyncio
import platform
import subprocess
import sys
import threading
import time

import pytest
import torch

from d3bed.agent.compute import ComputeThread, Hold, run_held


async def test_all_jobs_run_on_one_thread_under_inference_mode() -> None:
    compute = ComputeThread("test")
    try:
        names = [await compute.run(lambda: threading.current_thread().name) for _ in range(3)]
        assert set(names) == {"compute test"}
        assert await compute.run(torch.is_inference_mode_enabled)
    finally:
        compute.close()


async def test_a_job_that_fails_fails_its_caller_and_nothing_else() -> None:
    compute = ComputeThread("test")

    def broken() -> None:
        raise RuntimeError("shape mismatch")

    try:
        with pytest.raises(RuntimeError, match="shape mismatch"):
            await compute.run(broken)
        assert await compute.run(lambda: 7) == 7
    finally:
        compute.close()


async def test_a_job_given_up_before_its_turn_never_runs_and_the_next_one_does() -> None:
    compute = ComputeThread("test")
    go_on = threading.Event()
    ran: list[str] = []
    try:
        running = asyncio.create_task(compute.run(go_on.wait))
        given_up = asyncio.create_task(compute.run(lambda: ran.append("given up")))
        await asyncio.sleep(0)  # both are queued
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        go_on.set()
        assert await running
        assert await asyncio.wait_for(compute.run(lambda: 7), 60) == 7
    finally:
        compute.close()
    assert ran == []


async def test_jobs_run_in_the_order_they_were_given() -> None:
    compute = ComputeThread("test")
    order: list[int] = []
    try:
        await asyncio.gather(*(compute.run(lambda n=n: order.append(n)) for n in range(20)))  # type: ignore[misc]
    finally:
        compute.close()
    assert order == list(range(20))


async def test_a_closed_thread_says_so() -> None:
    compute = ComputeThread("test")
    compute.close()
    compute.close()
    with pytest.raises(RuntimeError, match="closed"):
        await compute.run(lambda: 1)


async def test_closing_breaks_off_a_long_job_and_runs_its_cleaning_up() -> None:
    compute = ComputeThread("test")
    began, over = threading.Event(), threading.Event()

    def long_job() -> None:
        try:
            began.set()
            while True:
                try:
                    torch.ones(100, 100).sum()
                except Exception:
                    continue
        finally:
            over.set()

    waiting = asyncio.create_task(compute.run(long_job))
    assert await asyncio.to_thread(began.wait, 60)
    waiting.cancel()
    await asyncio.to_thread(compute.close)
    assert over.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name == "compute test"]


def test_full_speed_is_never_held() -> None:
    hold = Hold(1.0)
    assert hold.until("f", 0.0, 0.010, 0.010, nominal_s=0.5) == 0.010


def test_a_slow_board_is_held_to_nominal_over_speed() -> None:
    hold = Hold(0.2)
    assert hold.until("f", 10.0, 10.011, 0.011, nominal_s=0.010) == pytest.approx(10.050)


def test_deadlines_of_following_steps_add_up_without_drift() -> None:
    hold = Hold(0.5)
    first = hold.until("f", 0.0, 0.010, 0.010, nominal_s=0.010)
    # The thread woke late and the next step started late: the deadline does not move.
    second = hold.until("f", first, first + 0.013, 0.010, nominal_s=0.010)
    assert second == pytest.approx(0.040)


def test_time_spent_waiting_for_inputs_is_not_made_up_for() -> None:
    hold = Hold(0.5)
    hold.until("f", 0.0, 0.010, 0.010, nominal_s=0.010)
    assert hold.until("f", 1.0, 1.010, 0.010, nominal_s=0.010) == pytest.approx(1.020)


def test_outside_the_dead_band_raw_time_counts() -> None:
    hold = Hold(0.5)
    assert hold.until("f", 0.0, 0.030, 0.030, nominal_s=0.010) == pytest.approx(0.060)


def test_a_forgotten_frame_starts_afresh() -> None:
    hold = Hold(0.5)
    hold.until("f", 0.0, 0.030, 0.030, nominal_s=0.010)
    hold.forget("f")
    assert hold.until("f", 1.0, 1.010, 0.010, nominal_s=0.010) == pytest.approx(1.020)


def test_a_held_job_really_ran_and_ends_no_earlier_than_its_deadline() -> None:
    torch.ones(3).mul(2)  # not for the first time
    held_s, until_s = 0.0, time.monotonic() + 60
    while held_s == 0 and time.monotonic() < until_s:  # a busy machine may take longer than the deadline
        hold, before_s = Hold(0.01), time.monotonic()
        done = run_held(lambda: (torch.ones(3) * 2,), hold, "f", before_s, nominal_s=0.0003)
        assert torch.equal(done.outputs[0], torch.full((3,), 2.0))
        assert done.end_s - before_s >= 0.03 - 1e-6
        assert time.monotonic() >= done.end_s
        held_s = done.held_s
    assert held_s > 0


def test_many_jobs_that_start_cold_after_a_hold_are_still_held_to_nominal() -> None:
    hold, now_s = Hold(0.1), 0.0
    for _ in range(10):
        now_s = hold.until("f", now_s, now_s + 0.0025, 0.0025, nominal_s=0.0015)
    assert now_s == pytest.approx(0.15)
    busy, now_s = Hold(0.1), 0.0
    for _ in range(10):
        now_s = busy.until("f", now_s, now_s + 0.004, 0.004, nominal_s=0.0015)
    assert now_s == pytest.approx(0.4), "work that takes this long is not cold but slow"


def test_one_job_that_the_machine_interrupts_is_held_to_nominal() -> None:
    hold, now_s = Hold(0.1), 0.0
    for worked_s in (0.002, 0.0045, 0.002):
        now_s = hold.until("f", now_s, now_s + worked_s, worked_s, nominal_s=0.002)
    assert now_s == pytest.approx(0.06)


def test_what_the_machine_does_for_a_moment_is_not_the_boards_but_what_stays_is() -> None:
    hold = Hold(0.1)
    quiet = [hold.usual_s("step", 0.010) for _ in range(20)]
    assert quiet == [0.010] * 20
    assert [hold.usual_s("step", 0.020) for _ in range(23)] == [0.010] * 23
    assert hold.usual_s("step", 0.020) == 0.020
    assert [hold.usual_s("other", s) for s in (0.050, 0.012, 0.013)] == [0.050, 0.012, 0.012], "cold at first"


def test_only_so_many_steps_are_remembered() -> None:
    hold = Hold(0.1)
    for number in range(10_000):
        hold.usual_s(number, 0.010)
    assert [hold.usual_s(0, 0.030) for _ in range(4)] == [0.030] * 4, "what it took before is forgotten"


def test_a_step_is_held_to_no_less_than_is_said() -> None:
    began_s = time.monotonic()
    run_held(lambda: (torch.ones(1),), Hold(0.5), "f", began_s, nominal_s=0.02, step="tile", least_s=0.02)
    assert time.monotonic() - began_s >= 0.04 - 1e-6
    hold = Hold(0.5)
    assert hold.until("g", 0.0, 0.001, 0.001, nominal_s=0.02) == pytest.approx(0.002), "else raw time counts"


async def test_the_compute_thread_refuses_more_than_its_limit() -> None:
    compute, begun, gate = ComputeThread("test", limit=2), threading.Event(), threading.Event()
    found: list[object] = []

    def first() -> int:
        begun.set()
        gate.wait()
        return 0

    try:
        compute.submit(first, found.append)
        await asyncio.to_thread(begun.wait)
        compute.submit(lambda: 1, found.append)
        compute.submit(lambda: 2, found.append)
        with pytest.raises(RuntimeError, match="2 jobs wait"):
            compute.submit(lambda: 3, found.append)
        gate.set()
        while len(found) < 3:  # noqa: ASYNC110 - the thread ends them
            await asyncio.sleep(0.001)
    finally:
        gate.set()
        compute.close()
    assert found == [0, 1, 2]


_FAULTS = """
import asyncio, resource, statistics, torch
from d3bed.agent.compute import ComputeThread

def frame():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    made = torch.ones(16 * 2**18)
    for megabytes in (16, 16, 16, 4, 8, 8, 8, 2, 1, 1):
        made = torch.ones(megabytes * 2**18)
        made = made + 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

async def main():
    compute = ComputeThread("test")
    print(statistics.median([await compute.run(frame) for _ in range(12)]))
    compute.close()

asyncio.run(main())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
def test_the_memory_of_large_maps_is_kept_from_frame_to_frame() -> None:
    """Else most frames of such maps (16 MB and smaller, three at a time) have 8,000 pages zeroed for them."""
    told = subprocess.run([sys.executable, "-c", _FAULTS], capture_output=True, text=True, check=True)
    assert float(told.stdout) < 1_000


def test_a_job_that_took_long_runs_again_warm_where_there_is_time() -> None:
    times_s, runs = [0.06, 0.002], list[int]()

    def job() -> tuple[torch.Tensor, ...]:
        end_s = time.thread_time() + times_s[min(len(runs), 1)]
        runs.append(1)
        while time.thread_time() < end_s:
            pass
        return (torch.ones(1),)

    began_s = time.monotonic()
    run_held(job, Hold(0.01), "f", began_s, nominal_s=0.02)
    assert len(runs) == 2
    runs.clear()
    run_held(job, Hold(0.9), "g", time.monotonic(), nominal_s=0.02)
    assert len(runs) == 1, "its deadline is over"
    runs.clear()
    run_held(job, Hold(1.0), "h", time.monotonic(), nominal_s=0.02)
    assert len(runs) == 1


def test_a_slower_board_shows_although_jobs_run_again() -> None:
    hold = Hold(0.1)
    assert hold.may_be_cold("f", 0.05, 0.05, 0.02)
    assert not hold.may_be_cold("f", 0.021, 0.021, 0.02), "as usual"
    assert hold.until("f", 0.0, 0.1, 0.05, 0.02) == pytest.approx(0.5)
