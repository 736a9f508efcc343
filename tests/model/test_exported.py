"""What was kept of an export is the export, name for name and bit for bit; anything else is not used."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from d3bed.core.messages import ModelSpec
from d3bed.core.models import ZOO
from d3bed.model import load
from d3bed.model.loading import LoadedModel

PHOTO = torch.arange(3 * 224 * 224, dtype=torch.int64).remainder(251).to(torch.uint8).view(1, 3, 224, 224)


def told(model: LoadedModel) -> list[str]:
    """All operators with their arguments and what they make."""
    found = []
    for group in model.body.nodes:
        for node in group:
            made = node.meta["val"]
            each = made if isinstance(made, list | tuple) else [made]
            sizes = [(tuple(t.shape), t.stride(), t.dtype) for t in each]
            found.append(f"{node.name} {node.target} {node.args} {dict(node.kwargs)} {sizes}")
    return found


@pytest.mark.parametrize("name", ZOO)
def test_what_was_kept_equals_the_export(name: str, tmp_path: Path) -> None:
    spec = ModelSpec(name)
    first = load(spec, kept=tmp_path)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size < 3_000_000, "seeded weights are made again, not stored"
    again = load(spec, kept=tmp_path, reference=False)
    assert again.graph == first.graph and again.body.packable == first.body.packable
    assert told(again) == told(first)
    assert again.body.constants.keys() == first.body.constants.keys()
    for constant, tensor in first.body.constants.items():
        kept = again.body.constants[constant]
        assert torch.equal(kept, tensor) and kept.stride() == tensor.stride()


def test_an_encoded_photo_is_decoded_before_what_was_kept(tmp_path: Path) -> None:
    spec = ModelSpec("alexnet", encoded=44_000)
    first = load(spec, kept=tmp_path)
    again = load(spec, kept=tmp_path, reference=False)
    assert again.graph == first.graph and told(again) == told(first)


OTHER = """
import sys, torch
from pathlib import Path
from d3bed.core.messages import ModelSpec
from d3bed.model import load
torch.set_num_threads(1)
load(ModelSpec("alexnet"), kept=Path(sys.argv[1]), reference=False)
print("torchvision" in sys.modules, "torch._dynamo" in sys.modules)
"""


def test_what_was_kept_needs_neither_the_library_nor_the_exporter(tmp_path: Path) -> None:
    def start() -> str:
        command = [sys.executable, "-c", OTHER, str(tmp_path)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert start() == "True True"
    assert start() == "False False"


def test_the_reference_is_there_when_it_is_asked_for_after_all(tmp_path: Path) -> None:
    spec = ModelSpec("alexnet")
    first = load(spec, kept=tmp_path)
    again = load(spec, kept=tmp_path, reference=False)
    with torch.inference_mode():
        assert torch.equal(again.whole(PHOTO)[0], first.whole(PHOTO)[0])


@pytest.mark.parametrize(
    "spec",
    [ModelSpec("alexnet", weights="random:1"), ModelSpec("alexnet", floats=True)],
    ids=["seed", "floats"],
)
def test_another_network_is_not_taken_for_it(spec: ModelSpec, tmp_path: Path) -> None:
    load(ModelSpec("alexnet"), kept=tmp_path)
    other = load(spec, kept=tmp_path, reference=False)
    assert len(list(tmp_path.iterdir())) == 2
    assert other.graph == load(spec).graph


@pytest.mark.parametrize(
    "change",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content.replace(b"d3bed.exported/1", b"d3bed.exported/9"),
        lambda content: content.replace(b"conv2d.default", b"conv9d.default"),
        lambda content: content.replace(b'"node', b'"edon'),
        lambda content: content.replace(b"features", b"featured", 1),
    ],
    ids=["empty", "half", "format", "operator", "argument", "constant"],
)
def test_a_file_that_is_not_whole_is_made_again(change: Callable[[bytes], bytes], tmp_path: Path) -> None:
    spec = ModelSpec("alexnet")
    first = load(spec, kept=tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(change(whole))
    assert file.read_bytes() != whole
    again = load(spec, kept=tmp_path, reference=False)
    assert told(again) == told(first)
    assert file.read_bytes() == whole
