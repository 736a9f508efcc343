"""A network in one file: the same bits without its code, and nothing in the file is believed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from d3bed.core.errors import ModelError
from d3bed.core.graph import Value
from d3bed.core.ids import Tier
from d3bed.core.messages import ModelSpec
from d3bed.core.plan import Plan
from d3bed.core.program import STAND_INS, programs_for
from d3bed.model import compile_step, load, write_file

KEY = "d3bed.network"
PHOTO = torch.arange(3 * 40 * 40, dtype=torch.int64).remainder(251).to(torch.uint8).view(1, 3, 40, 40)


class Net(nn.Module):
    """Branches, a buffer of its own, and dropout that is switched off."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 8, 3, padding=1)
        self.right = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.GELU(approximate="tanh"))
        self.head = nn.Linear(16, 5)
        self.scale: torch.Tensor
        self.register_buffer("scale", torch.linspace(0.5, 2, 5))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        both = torch.cat([self.left(image), self.right(image)], 1)
        pooled = nn.functional.adaptive_avg_pool2d(nn.functional.max_pool2d(both, 3, 2, ceil_mode=True), 1)
        answer: torch.Tensor = self.head(nn.functional.dropout(pooled.flatten(1), training=self.training))
        return answer * self.scale


def factory() -> nn.Module:
    torch.manual_seed(7)
    return Net()


SPEC = ModelSpec(f"{__name__}:factory", "pretrained", (3, 40, 40))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "mine.safetensors"
    content, graph = write_file(SPEC)
    path.write_bytes(content)
    assert graph == load(SPEC).graph
    return path


def test_a_users_network_comes_back_from_its_file_without_its_code(file: Path) -> None:
    made, again = load(SPEC), load(ModelSpec(str(file)))
    assert again.graph.vertices == made.graph.vertices and again.graph.edges == made.graph.edges
    assert torch.equal(again.whole(PHOTO)[0], made.whole(PHOTO)[0])
    size = len(again.graph.vertices)
    plan = Plan(tuple(Tier.DEVICE if v < size // 2 else Tier.CLOUD for v in range(size)))
    values = {Value(0, 0): PHOTO}
    programs = programs_for(again.graph, plan, STAND_INS)
    with torch.inference_mode():
        for tier in (Tier.DEVICE, Tier.CLOUD):
            for step in programs[STAND_INS[tier]].steps:
                taken = [values[value] for value in step.takes]
                values |= dict(zip(step.makes, compile_step(again, step)(*taken), strict=True))
        (result,) = again.graph.results
        assert torch.equal(values[result], made.whole(PHOTO)[0])


def test_the_server_may_have_put_it_elsewhere_and_float_photos_are_taken_too(file: Path) -> None:
    spec = ModelSpec("nowhere/mine.safetensors", floats=True)
    again = load(spec, {spec.name: file})
    assert torch.equal(again.whole(PHOTO.float())[0], load(SPEC).whole(PHOTO)[0])


def test_a_zoo_network_with_seeded_weights_makes_a_small_file(tmp_path: Path) -> None:
    content, _ = write_file(ModelSpec("alexnet"))
    assert len(content) < 100_000
    (tmp_path / "a.safetensors").write_bytes(content)
    again, made = load(ModelSpec(str(tmp_path / "a.safetensors"))), load(ModelSpec("alexnet"))
    image = torch.zeros(made.input.shape, dtype=torch.uint8)
    assert torch.equal(again.whole(image)[0], made.whole(image)[0])
    assert again.body.packable == made.body.packable


# ── what is refused ───────────────────────────────────────────────────────────────────────────────


def changed(file: Path, change: Callable[[dict[str, Any]], object], to: Path) -> Path:
    with safetensors.safe_open(file, framework="pt") as kept:
        text = json.loads(kept.metadata()[KEY])
        tensors = {name: kept.get_tensor(name) for name in kept.keys()}
    change(text)
    safetensors.torch.save_file(tensors, to, {KEY: json.dumps(text)})
    return to


def call(text: dict[str, Any], start: str = "conv2d") -> dict[str, Any]:
    return next(node for node in text["nodes"] if node["target"].startswith(start))


def replace_call(**given: Any) -> Callable[[dict[str, Any]], object]:
    return lambda text: call(text, "gelu").update(given)


HOSTILE = {
    "reads a file": (
        replace_call(target="from_file.default", args=["none", None, 4], kwargs={}), "of nothing|not whole"
    ),
    "names a file": (replace_call(kwargs={"approximate": "/etc/passwd"}), "tells an operator"),
    "writes": (replace_call(target="relu_.default", kwargs={}), "not pure"),
    "random": (replace_call(target="bernoulli.default", kwargs={}), "not pure"),
    "made of nothing": (replace_call(target="ones.default", args=[[1, 8, 40, 40]], kwargs={}), "of nothing"),
    "no operator": (replace_call(target="__class__.mro", kwargs={}), "not whole"),
    "another library": (replace_call(target="gelu.__init__", kwargs={}), "not whole"),
    "code in a name": (replace_call(name="x=1;import os"), "named"),
    "code in a keyword": (replace_call(kwargs={"a=__import__('os')": 1}), "named"),
    "code in a constant": (
        lambda text: next(n for n in text["nodes"] if n["op"] == "get_attr").update(target="p; import os"),
        "named",
    ),
    "a module": (replace_call(op="call_module"), "named|is a"),
    "a method": (replace_call(op="call_method", target="numpy"), "is a"),
    "another device": (
        replace_call(target="to.device", args=[{"node": "x"}, {"device": "cuda"}]), "puts something"
    ),
    "another shape": (lambda text: call(text)["makes"].update(shape=[1, 8, 40, 41]), "does not make"),
    "a huge tensor": (lambda text: call(text)["makes"].update(shape=[1 << 40, 1 << 20, 1, 1]), "not make|GB"),
    "a negative size": (lambda text: call(text)["makes"].update(shape=[-1]), "not"),
    "seeded numbers of 4 TB": (
        lambda text: text["constants"].update({"head_bias": ["k", 0.0, 1.0, [1 << 40], "float32"]}), "GB"
    ),
    "deep lists": (replace_call(args=[[[[[[1]]]]]]), "lists"),
    "two images": (lambda text: text["nodes"].append(dict(call(text, "image"), name="other")), "one image"),
    "a long path": (replace_call(path="a" * 2000), "path"),
    "no nodes": (lambda text: text.update(nodes=[]), "has 0"),
    "no list": (lambda text: text.update(nodes=7), "not whole"),
    "another format": (lambda text: text.update(format="d3bed.network/9"), "format"),
    "a missing weight": (lambda text: text["constants"].update({"other": None}), "cannot be read|not whole"),
    "a result that is not there": (lambda text: text.update(results=["gone"]), "not whole"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "words"), HOSTILE.values(), ids=HOSTILE)
def test_a_file_that_was_tampered_with_is_refused(
    file: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    path = changed(file, change, tmp_path / "bad.safetensors")
    with pytest.raises(ModelError, match=words):
        load(ModelSpec(str(path)))


def test_files_that_hold_something_else_are_told_from_networks(file: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(3)}, weights)
    with pytest.raises(ModelError, match=r"perhaps weights alone.*d3bed export"):
        load(ModelSpec(str(weights)))
    (tmp_path / "half.safetensors").write_bytes(file.read_bytes()[:500])
    with pytest.raises(ModelError, match="cannot be read"):
        load(ModelSpec(str(tmp_path / "half.safetensors")))
    with pytest.raises(ModelError, match="cannot be read"):
        load(ModelSpec(str(tmp_path / "gone.safetensors")))
    with pytest.raises(ModelError, match="brings its own"):
        load(ModelSpec(str(file), "random:3"))
