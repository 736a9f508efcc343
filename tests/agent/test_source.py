"""The device's frames: counted, checked against the undivided model, and never lost with an epoch."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import torch

from d3bed.agent import source as source_module
from d3bed.agent.compute import ComputeThread
from d3bed.agent.executor import EpochWork, Executor, Observer, nominal_times
from d3bed.agent.source import MAX_PHOTOS, Active, Photo, Source, prepare_photos
from d3bed.core.errors import ConfigError
from d3bed.core.ids import Epoch, FrameId, PipelineId, Tier
from d3bed.core.measurements import FrameReport
from d3bed.core.messages import ModelSpec
from d3bed.core.plan import Plan
from d3bed.core.program import STAND_INS, Program, programs_for
from d3bed.model import LoadedModel, compile_step, load
from d3bed.model.images import MAX_ENCODED_BYTES, decode, shipped

DEVICE = STAND_INS[Tier.DEVICE]
PIPELINE = PipelineId("test")


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load(ModelSpec("resnet18"))


@pytest.fixture(scope="module")
def photos(model: LoadedModel) -> list[Photo]:
    return prepare_photos(model, shipped()[:2])


class Device:
    """A device with its source; epochs are all on the device, or need an edge that never answers."""

    def __init__(self, model: LoadedModel, photos: list[Photo]) -> None:
        self.model, self.photos = model, photos
        self.compute = ComputeThread("test")
        self.executor = Executor(self.compute, 1.0, Observer())
        self.frames: list[FrameReport] = []
        self.drained: list[Epoch] = []
        self.ended: list[tuple[int, int, int]] = []
        self.source = Source(
            PIPELINE,
            self.executor,
            on_frame=self.frames.append,
            on_drained=self.drained.append,
            on_ended=lambda *counts: self.ended.append(counts),
        )

    def prepare(self, epoch: int, *, dead: bool = False) -> None:
        graph = self.model.graph
        plan = Plan((Tier.DEVICE,) * len(graph.vertices))
        program = programs_for(graph, plan, STAND_INS)[DEVICE]
        if dead:  # the result would have to come from a peer that is gone
            plan = Plan((Tier.DEVICE,) * (len(graph.vertices) - 1) + (Tier.EDGE,))
            whole = programs_for(graph, plan, STAND_INS)[DEVICE]
            program = Program(DEVICE, whole.receives, whole.steps, {})
        calls = tuple(compile_step(self.model, step) for step in program.steps)
        nominal_s = nominal_times(None, program.steps)
        keep = frozenset(graph.results)
        self.executor.add(EpochWork(PIPELINE, Epoch(epoch), self.model, program, calls, nominal_s, {}, keep))

    def lose(self, epoch: int) -> None:
        """As the server says it, or a broken link."""
        self.executor.abandon(PIPELINE, Epoch(epoch))

    def activate(self, epoch: int) -> None:
        self.source.activate(Active({Epoch(epoch): 1.0}, self.model, self.photos))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.005)


@pytest.fixture
async def device(model: LoadedModel, photos: list[Photo]) -> AsyncIterator[Device]:
    made = Device(model, photos)
    yield made
    await made.source.close()
    made.executor.close()
    made.compute.close()


async def test_a_run_answers_its_frames_and_finds_them_identical(device: Device) -> None:
    device.prepare(1)
    device.source.start(5, in_flight=2)
    device.activate(1)
    await device.until(lambda: bool(device.ended))
    assert device.ended == [(5, 5, 0)]
    assert sorted(f.frame for f in device.frames) == [1, 2, 3, 4, 5]
    assert all(f.identical and f.max_rel_err == 0.0 and f.attempts == 1 for f in device.frames)
    assert {f.photo for f in device.frames} == {photo.name for photo in device.photos}


async def test_a_wrong_answer_is_reported_as_such(
    model: LoadedModel, photos: list[Photo], device: Device
) -> None:
    device.photos = [Photo(p.name, p.image, tuple(r + 1 for r in p.reference)) for p in photos]
    device.prepare(1)
    device.activate(1)
    device.source.start(1, in_flight=1)
    await device.until(lambda: bool(device.ended))
    assert device.frames[0].identical is False
    assert device.frames[0].max_rel_err is not None and device.frames[0].max_rel_err > 0


async def test_frames_of_an_abandoned_epoch_run_again_under_the_next(device: Device) -> None:
    device.prepare(1, dead=True)
    device.activate(1)
    device.source.start(2, in_flight=2)
    await device.until(lambda: device.source.sent == 2)
    device.prepare(2)
    device.activate(2)
    device.executor.retire(PIPELINE, Epoch(1))
    await device.until(lambda: bool(device.ended))
    assert device.ended == [(2, 2, 0)]
    assert [(f.epoch, f.attempts, f.identical) for f in device.frames] == [(2, 2, True)] * 2
    assert device.drained == [1]


async def test_without_another_epoch_a_frame_runs_on_the_device_alone(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "PATIENCE_S", 0.2)
    device.prepare(1, dead=True)
    device.activate(1)
    device.source.start(1, in_flight=1)
    await device.until(lambda: bool(device.ended))
    assert device.ended == [(1, 1, 0)]
    (frame,) = device.frames
    assert (frame.identical, frame.alone, frame.attempts) == (True, True, 2)


async def test_when_its_epoch_is_lost_a_frame_is_answered_alone_at_once_and_so_are_the_next(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "PATIENCE_S", 1e6)  # no frame waits for its patience
    device.prepare(1, dead=True)
    device.activate(1)
    device.source.start(6, in_flight=1)
    await device.until(lambda: device.source.sent == 1)
    device.lose(1)
    await device.until(lambda: bool(device.ended))
    assert device.ended == [(6, 6, 0)]
    assert [f.frame for f in device.frames] == [1, 2, 3, 4, 5, 6]
    assert all(f.alone and f.identical for f in device.frames)
    assert [f.attempts for f in device.frames] == [2, 1, 1, 1, 1, 1]


async def test_one_slow_frame_makes_no_patience_and_several_do(device: Device) -> None:
    """A board that had slept for 2.5 s waited for 25 s for its next frame, which had got lost."""
    source = device.source
    assert source.patience_s == source_module.PATIENCE_S
    source._latencies_s.extend([0.1, 0.1, 2.5])
    assert source.patience_s == source_module.PATIENCE_S
    source._latencies_s.extend([2.5, 2.5])
    assert source.patience_s == 25.0
    source.activate(Active({Epoch(1): 1.0}, device.model, device.photos), expected_s=4.0)
    assert source.patience_s == 40.0


async def test_after_it_was_alone_the_device_goes_back_to_a_plan(device: Device) -> None:
    device.prepare(1, dead=True)
    device.activate(1)
    device.source.start(None, in_flight=1)
    await device.until(lambda: device.source.sent == 1)
    device.lose(1)
    await device.until(lambda: len(device.frames) >= 2)
    device.prepare(2)
    device.activate(2)
    await device.until(lambda: any(f.epoch == 2 and not f.alone for f in device.frames))
    device.source.stop()
    await device.until(lambda: bool(device.ended))
    numbers = [f.frame for f in device.frames]
    assert numbers == sorted(set(numbers)) and len(numbers) == device.source.sent
    assert device.drained == [1]


async def test_an_epoch_that_was_silent_once_is_not_waited_for_again_and_again(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "PATIENCE_S", 0.3)
    device.prepare(1, dead=True)
    device.activate(1)
    device.source.start(4, in_flight=1)
    await device.until(lambda: bool(device.ended))
    assert [f.attempts for f in device.frames] == [2, 1, 1, 1]
    assert all(f.alone for f in device.frames)


async def test_one_frame_that_fails_leaves_the_others_to_the_plan(device: Device) -> None:
    device.prepare(1)
    device.activate(1)
    device.source.start(3, in_flight=3)
    await device.until(lambda: device.source.sent == 3)
    device.executor.abandon(PIPELINE, Epoch(1), FrameId(3))
    await device.until(lambda: bool(device.ended))
    found = {f.frame: (f.alone, f.attempts, f.identical) for f in device.frames}
    assert found == {1: (False, 1, True), 2: (False, 1, True), 3: (True, 2, True)}


async def test_a_device_that_emulates_slowness_is_as_slow_alone(device: Device, photos: list[Photo]) -> None:
    device.executor.set_speed(0.2)
    while True:  # what ran cold runs twice
        began_s, worked_s = time.monotonic(), await device.compute.run(time.thread_time)
        answer = await device.executor.alone(device.model, FrameId(1), photos[0].image)
        taken_s = time.monotonic() - began_s
        worked_s = await device.compute.run(time.thread_time) - worked_s
        assert all(torch.equal(a, b) for a, b in zip(answer, photos[0].reference, strict=True))
        if taken_s > 3 * worked_s:
            break


async def test_an_epoch_is_drained_once_its_last_frame_is_answered(device: Device) -> None:
    for epoch in (1, 2):
        device.prepare(epoch)
    device.activate(1)
    device.source.start(None, in_flight=1)
    await device.until(lambda: len(device.frames) >= 2)
    device.activate(2)
    await device.until(lambda: bool(device.drained))
    assert device.drained == [1]
    device.source.stop()
    await device.until(lambda: bool(device.ended))
    assert {f.epoch for f in device.frames} >= {1}
    sent, answered, _ = device.ended[0]
    assert sent == answered == len(device.frames)


async def test_a_new_start_takes_over_a_run_and_counts_anew(device: Device) -> None:
    device.prepare(1)
    device.activate(1)
    device.source.start(None, in_flight=1)
    await device.until(lambda: len(device.frames) >= 3)
    before = len(device.frames)
    device.source.start(4, in_flight=1)
    await device.until(lambda: bool(device.ended))
    assert device.ended == [(4, 4, 0)]
    assert len(device.frames) == before + 4


async def test_at_a_rate_frames_come_when_the_camera_takes_them(device: Device) -> None:
    device.prepare(1)
    device.activate(1)
    device.source.start(8, rate_per_s=50.0)
    await device.until(lambda: bool(device.ended))
    sent, answered, dropped = device.ended[0]
    assert sent == answered == len(device.frames) and sent + dropped >= 8
    came_s = sorted(f.started_s for f in device.frames)
    periods = [(later - earlier) * 50 for earlier, later in itertools.pairwise(came_s)]
    assert all(abs(p - round(p)) < 1e-6 and p > 0.5 for p in periods)  # dropped ones leave gaps


async def test_a_stream_that_outruns_its_plan_drops_and_counts(device: Device) -> None:
    device.prepare(1)
    device.activate(1)
    device.source.start(500, rate_per_s=5000.0)
    await device.until(lambda: bool(device.ended))
    sent, answered, dropped = device.ended[0]
    assert answered == sent and dropped > 0 and 500 <= sent + dropped
    assert len({f.frame for f in device.frames}) == sent
    assert any(f.waited_s > 0 for f in device.frames)


async def test_frames_take_the_plans_of_a_mix_in_turn(device: Device) -> None:
    for epoch in (1, 2, 3):
        device.prepare(epoch)
    mix = {Epoch(1): 0.5, Epoch(2): 0.3, Epoch(3): 0.2}
    device.source.activate(Active(mix, device.model, device.photos))
    device.source.start(20)
    await device.until(lambda: bool(device.ended))
    assert Counter(f.epoch for f in device.frames) == {1: 10, 2: 6, 3: 4}
    assert all(f.identical for f in device.frames)
    assert device.drained == []
    device.activate(2)
    assert sorted(device.drained) == [1, 3]


async def test_a_frame_of_a_mix_that_fails_is_answered_by_the_device_alone(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "PATIENCE_S", 0.2)
    for epoch in (1, 2):
        device.prepare(epoch, dead=True)
    device.source.activate(Active({Epoch(1): 0.5, Epoch(2): 0.5}, device.model, device.photos))
    device.source.start(1)
    await device.until(lambda: bool(device.ended))
    assert [f.identical for f in device.frames] == [True]


async def test_a_paused_stream_goes_on_and_the_plan_says_how_many_are_under_way(device: Device) -> None:
    device.prepare(1)
    device.source.activate(Active({Epoch(1): 1.0}, device.model, device.photos), depth=3)
    device.source.start(None, rate_per_s=0.0)
    assert device.source.limit == 3
    device.source.set_rate(None)
    assert device.source.limit == 1
    await device.until(lambda: len(device.frames) >= 2)
    device.source.set_rate(0.0)
    await device.until(lambda: device.source.sent == device.source.answered)
    device.source.stop()
    await device.until(lambda: bool(device.ended))
    assert device.ended == [(len(device.frames), len(device.frames), 0)]


def test_photos_are_limited_and_a_corrupt_one_is_named(model: LoadedModel, tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    path.write_bytes(shipped()[0].read_bytes()[:200])
    with pytest.raises(ConfigError, match=r"cut\.jpg"):
        prepare_photos(model, [path])
    assert len(prepare_photos(model, shipped() * MAX_PHOTOS)) == MAX_PHOTOS


# ── files in place of pixels ──────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def of_files() -> LoadedModel:
    return load(ModelSpec("alexnet", encoded=100_000))


def test_photos_of_a_model_that_takes_files_are_the_files(of_files: LoadedModel) -> None:
    paths = shipped(jpeg=True)[:2]
    photos = prepare_photos(of_files, paths)
    assert [p.image.numpy().tobytes() for p in photos] == [path.read_bytes() for path in paths]


def test_a_file_that_is_too_long_for_a_frame_is_named(of_files: LoadedModel, tmp_path: Path) -> None:
    long = tmp_path / "long.jpg"
    long.write_bytes(shipped(jpeg=True)[0].read_bytes().ljust(MAX_ENCODED_BYTES + 1, b"\0"))
    assert decode(long, 8, 8).shape == (1, 3, 8, 8)  # the image is fine, and would do as pixels
    with pytest.raises(ConfigError, match=r"long\.jpg: has more than 4 MiB.*make it smaller"):
        prepare_photos(of_files, [long])


async def test_a_file_that_nobody_else_decodes_is_answered_by_the_device(
    of_files: LoadedModel, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "PATIENCE_S", 0.2)
    device.model, device.photos = of_files, prepare_photos(of_files, shipped(jpeg=True)[:1])
    device.prepare(1, dead=True)
    device.activate(1)
    device.source.start(1, in_flight=1)
    await device.until(lambda: bool(device.ended))
    assert [(f.identical, f.photo) for f in device.frames] == [(True, shipped(jpeg=True)[0].name)]
