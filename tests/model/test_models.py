"""Models come in three ways, become the graphs that others expect, and fail in one line."""

from __future__ import annotations

import importlib
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import pytest
import torch

from d3bed.core.errors import ModelError
from d3bed.core.graph import Graph, Value, Window
from d3bed.core.messages import ModelSpec
from d3bed.core.plan import Plan
from d3bed.core.program import Step
from d3bed.model import ZOO, LoadedModel, compile_step, fingerprint, load
from d3bed.model.export import arguments

Loaded = Callable[..., LoadedModel]
Photo = Callable[[LoadedModel], torch.Tensor]
Plans = Callable[[Graph, int, int], list[Plan]]
Split = Callable[..., tuple[torch.Tensor, ...]]

#: Vertices with the input and the normalising vertex, and multiply-adds × 2 in units of 10^9.
SIZES = {
    "alexnet": (14, 1.43),
    "vgg16": (24, 30.96),
    "resnet18": (33, 3.63),
    "darknet53": (79, 18.6),
    "inception_v4": (196, 24.55),
    "densenet121": (190, 5.7),
    "mobilenetv3": (93, 0.44),
    "vit_tiny": (114, 2.5),
}


@pytest.mark.parametrize("name", ZOO)
def test_graphs_have_the_expected_size(name: str, loaded: Loaded) -> None:
    graph = loaded(name).graph
    vertices, gflops = SIZES[name]
    assert len(graph.vertices) == vertices
    assert sum(v.flops for v in graph.vertices) / 1e9 == pytest.approx(gflops, rel=0.02)
    assert [v.kind for v in graph.vertices[:2]] == ["input", "normalise"]
    assert graph.vertices[0].outputs[0].dtype == "uint8"
    again = msgspec.json.decode(msgspec.json.encode(graph), type=Graph)
    assert again.digest == graph.digest


def test_vertices_say_what_planners_and_tiles_need(loaded: Loaded) -> None:
    graph = loaded("resnet18").graph
    stem = graph.vertices[graph.index["conv1"]]
    assert stem.kind == "conv2d"
    assert stem.operators == ("conv2d", "batch_norm", "relu")
    assert stem.window == Window((7, 7), (2, 2), (3, 3))
    assert stem.outputs[0].shape == (1, 64, 112, 112)
    assert stem.weight_bytes == 4 * (64 * 3 * 49 + 4 * 64)
    join = graph.vertices[graph.index["layer1.0.add"]]
    assert join.operators == ("add", "relu")
    pool = graph.vertices[graph.index["maxpool"]]
    assert pool.window == Window((3, 3), (2, 2), (1, 1))
    assert graph.vertices[-1].name == "fc"
    up = loaded("networks:UNet", (3, 32, 32)).graph
    assert up.vertices[up.index["up2"]].window == Window((2, 2), (2, 2), transposed=True)


def test_constants_belong_to_their_consumer(loaded: Loaded) -> None:
    graph = loaded("vit_tiny").graph
    cat = graph.vertices[graph.index["cat"]]
    assert cat.weight_bytes == 4 * 192 * (1 + 197)
    qkv = graph.vertices[graph.index["blocks.0.attn.qkv"]]
    assert len(qkv.outputs) == 3


def test_a_step_shares_weights_and_forgets_what_it_no_longer_needs(loaded: Loaded) -> None:
    model = loaded("alexnet")
    last = len(model.graph.vertices) - 1
    step = Step(tuple(range(1, last + 1)), (Value(0),), model.graph.results)
    call: Any = compile_step(model, step)
    module = call.__self__
    mine = {t.data_ptr() for t in vars(module).values() if isinstance(t, torch.Tensor)}
    copied = {str(arguments(model.body.nodes[v][0])["bias"].target) for v in model.body.packable}
    assert copied, "convolutions have a packed copy of their own"
    assert mine == {t.data_ptr() for name, t in model.body.constants.items() if name not in copied}
    assert module.code.count("= None") >= last


def test_a_pt2_file_brings_size_and_weights(tmp_path: Path, random_plans: Plans, split: Split) -> None:
    networks = importlib.import_module("networks")
    torch.manual_seed(3)
    for name in ("UNet", "InPlace", "Aliased", "Photo"):
        module = getattr(networks, name)().eval()
        dtype = torch.uint8 if name == "Photo" else torch.float32
        file = tmp_path / f"{name}.pt2"
        with torch.no_grad():
            torch.export.save(torch.export.export(module, (torch.zeros(1, 3, 24, 40, dtype=dtype),)), file)
        model = load(ModelSpec(str(file)))
        assert model.input.shape == (1, 3, 24, 40)
        image = torch.randint(256, model.input.shape, dtype=torch.uint8)
        whole = model.whole(image)
        if name == "Photo":
            with torch.inference_mode():
                assert torch.equal(whole[0], module(image))
        for plan in random_plans(model.graph, 20, 5):
            assert torch.equal(split(model, plan, image)[0], whole[0]), plan.describe(model.graph)


def test_a_pt2_file_that_is_broken_or_unfit_is_one_line(tmp_path: Path) -> None:
    networks = importlib.import_module("networks")
    file = tmp_path / "net.pt2"
    example = (torch.zeros(1, 3, 32, 32),)
    program = torch.export.export(networks.UNet().eval(), example)
    torch.export.save(program, file)
    half = tmp_path / "half.pt2"
    half.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    text = tmp_path / "text.pt2"
    text.write_text("hello", encoding="utf-8")
    flat = tmp_path / "flat.pt2"
    torch.export.save(torch.export.export(torch.nn.Linear(4, 4), (torch.zeros(1, 4),)), flat)
    free = tmp_path / "free.pt2"
    size = {"x": {2: torch.export.Dim("height", min=8, max=64)}}
    torch.export.save(torch.export.export(networks.InPlace().eval(), example, dynamic_shapes=size), free)
    with pytest.raises(ModelError, match="takes 3x32x32, not 3x64x64"):
        load(ModelSpec(str(file), input=(3, 64, 64)))
    for path, problem in (
        (half, "not a .pt2 file"),
        (text, "not a .pt2 file"),
        (tmp_path / "none.pt2", "no such file"),
        (flat, r"takes float32\[1, 4\]"),
        (free, "dynamic shapes"),
    ):
        with pytest.raises(ModelError, match=problem) as caught:
            load(ModelSpec(str(path)))
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("lenet", "no such model"),
        ("nowhere:net", "no module named nowhere"),
        ("networks:gone", "has no gone"),
        ("networks:failing", "LookupError: no such thing"),
        ("networks:nothing", "returned NoneType"),
        ("networks:Undecided", r"inner: operator \w+ in `return x if x.sum\(\) > 0 else -x`"),
        ("networks:Counting", "operator add on its own weights or buffers"),
        ("networks:Shifting", "operator add on its own weights or buffers"),
        ("networks:Dropping", "random operator dropout"),
        ("networks:Noisy", "random operator rand_like"),
    ],
)
def test_what_cannot_be_loaded_says_why(
    name: str, problem: str, loaded: Loaded, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelError, match=problem) as caught:
        loaded(name)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(name)
    assert capfd.readouterr() == ("", "")


def test_pretrained_without_a_network_fails_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(*_: object, **__: object) -> NoReturn:
        raise urllib.error.URLError("no network here")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name in ("alexnet", "resnet18"):
        with pytest.raises(ModelError, match=r"could not be fetched.*random:SEED"):
            load(ModelSpec(name, "pretrained"))


def test_the_fingerprint_tells_thread_counts_apart() -> None:
    assert fingerprint(1) == fingerprint(1)
    assert fingerprint(1) != fingerprint(2)
    assert torch.__version__ in fingerprint(1)
    assert torch.backends.cpu.get_cpu_capability() in fingerprint(1)


def test_an_input_of_floats_changes_its_bytes_and_no_bit_of_the_answer() -> None:
    ours, theirs = load(ModelSpec("alexnet")), load(ModelSpec("alexnet", floats=True))
    assert ModelSpec("alexnet").key != ModelSpec("alexnet", floats=True).key
    assert ours.graph.vertices[1:] == theirs.graph.vertices[1:]
    first, wide = ours.graph.vertices[0].outputs[0], theirs.graph.vertices[0].outputs[0]
    assert (wide.dtype, wide.nbytes) == ("float32", 4 * first.nbytes)
    photo = torch.randint(
        256, ours.input.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(3)
    )
    assert torch.equal(ours.whole(photo)[0], theirs.whole(photo.float())[0])
