"""Weights are in memory while something runs with them, and come bit for bit out of where they are."""

from __future__ import annotations

import hashlib
import weakref
from pathlib import Path

import pytest
import safetensors.torch
import torch

from d3bed.core.errors import ModelError
from d3bed.core.graph import Value
from d3bed.core.messages import ModelFile, ModelSpec
from d3bed.core.program import Step
from d3bed.model import compile_step, load
from d3bed.model.constants import Constants, Recent, TensorFile
from d3bed.model.export import arguments
from d3bed.model.weights import Fill
from d3bed.model.zoo import build

MANY = {
    "small": torch.arange(3, dtype=torch.int64),
    "odd": torch.rand(5).to(torch.float16),  # what follows lies misaligned
    "large": torch.rand(1000, 1001),
    "none": torch.zeros(0, 4),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    where = tmp_path / "many.safetensors"
    safetensors.torch.save_file(MANY, where, {"says": "something"})
    return where


def mapped_bytes(path: Path) -> int:
    """Of the file's pages, what this process has in memory."""
    kib, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0]:
            ours = line.endswith(str(path))
        elif ours and line.startswith("Rss:"):
            kib += int(line.split()[1])
    return kib * 1024


def test_tensors_come_as_they_were_saved_and_the_files_pages_go(path: Path) -> None:
    file = TensorFile(path)
    assert file.metadata == {"says": "something"}
    for name, wanted in MANY.items():
        found, like = file.read(name), file.like(name)
        assert torch.equal(found, wanted) and found.data_ptr() % 16 == 0
        assert (like.shape, like.dtype, like.is_meta) == (wanted.shape, wanted.dtype, True)
    assert path.stat().st_size > 4_000_000 and mapped_bytes(path) < 500_000


def test_a_file_that_was_changed_meanwhile_is_not_believed(path: Path) -> None:
    file = TensorFile(path)
    with path.open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(ModelError, match=r"many\.safetensors.*was changed"):
        file.read("small")


def test_a_constant_is_there_as_long_as_somebody_has_it(path: Path) -> None:
    file = TensorFile(path)
    constants = Constants({"a": (file, "large"), "b": Fill("7:b", 0.0, 1.0, (4, 4), torch.float32)})
    for name in ("a", "b"):
        held = constants[name]
        assert constants[name] is held
        gone = weakref.ref(held)
        del held
        assert gone() is None
    assert torch.equal(constants["b"], constants["b"]) and list(constants) == ["a", "b"]


def test_what_was_asked_for_last_stays_as_far_as_there_is_room() -> None:
    how = {
        n: Fill(n, 0.0, 1.0, (size,), torch.float32)
        for n, size in zip("abcd", (10, 10, 10, 100), strict=True)
    }
    constants = Constants(how)
    constants.recent = Recent(100)  # two of the small ones

    def asked(*names: str) -> list[bool]:
        watched = [weakref.ref(constants[name]) for name in names]
        return [ref() is not None for ref in watched]

    assert asked("a", "b", "c") == [False, True, True]
    assert asked("b", "a", "d") == [True, True, False]  # c went; d is too large, and nothing goes for it
    assert asked("c", "b", "b", "a") == [False, True, True, True]


def test_a_segment_has_its_own_weights_and_no_others(tmp_path: Path) -> None:
    load(ModelSpec("alexnet"), kept=tmp_path)
    model = load(ModelSpec("alexnet"), kept=tmp_path, reference=False)
    graph, constants = model.graph, model.body.constants
    last = len(graph.vertices) - 1
    names = {v: arguments(model.body.nodes[v][0])["weight"].target for v in (last - 1, last)}
    watched = {v: weakref.ref(constants[key]) for v, key in names.items()}
    assert all(ref() is None for ref in watched.values())
    (taken,) = (value for value, readers in graph.consumers.items() if last in readers)
    call = compile_step(model, Step((last,), (taken,), graph.results))
    read = vars(call.__self__)  # type: ignore[attr-defined]
    assert [v for v, key in names.items() if any(t is constants[key] for t in read.values())] == [last]
    gone = weakref.ref(constants[names[last]])
    del call, read
    assert gone() is None  # at once, without the collector


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_weights_of_a_known_file_stay_there(tmp_path: Path, dtype: torch.dtype) -> None:
    """Those that the file has in another type are kept as the network has them."""
    path, kept = tmp_path / "trained.safetensors", tmp_path / "kept"
    state = build("mobilenetv3", None, False).module.state_dict()
    state = {n: t.to(dtype) if t.is_floating_point() else t for n, t in state.items()}
    safetensors.torch.save_file(state, path)
    content = path.read_bytes()
    known = ModelFile("there.safetensors", hashlib.sha256(content).hexdigest(), len(content))
    spec = ModelSpec("mobilenetv3", known.path, files=(known,))
    files = {known.path: path}
    first = load(spec, files, kept=kept, reference=False)
    (file,) = kept.iterdir()
    assert (file.stat().st_size < 1_000_000) is (dtype is torch.float32)
    again = load(spec, files, kept=kept, reference=False)
    image = torch.randint(256, again.input.shape, dtype=torch.uint8)
    step = Step(tuple(range(1, len(again.graph.vertices))), (Value(0),), again.graph.results)
    with torch.inference_mode():
        (made,), (wanted,) = compile_step(again, step)(image), first.whole(image)
    assert first.graph == again.graph and torch.equal(made, wanted)
