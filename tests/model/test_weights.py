"""Weights: live, equal on every machine, copied into ordinary memory."""

from __future__ import annotations

import hashlib
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from d3bed.core.errors import ModelError
from d3bed.core.messages import ModelSpec
from d3bed.model import LoadedModel, load
from d3bed.model.weights import load_file, randomise

Loaded = Callable[..., LoadedModel]
Photo = Callable[[LoadedModel], torch.Tensor]

_CHILD = """
import hashlib, sys, torch
from d3bed.core.messages import ModelSpec
from d3bed.model import load
torch.set_num_threads(1)
torch.manual_seed(12345)
for name in ("resnet18", "vit_tiny", "densenet121"):
    model = load(ModelSpec(name))
    constants = hashlib.sha256()
    for key in sorted(model.body.constants):
        constants.update(model.body.constants[key].contiguous().numpy().tobytes())
    sys.stdout.write(f"{model.graph.digest} {constants.hexdigest()}\\n")
"""


def test_another_process_makes_the_same_graph_and_the_same_bits(loaded: Loaded) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _CHILD],
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
        env={**os.environ, "PYTHONHASHSEED": "4711"},
    )
    mine = []
    for name in ("resnet18", "vit_tiny", "densenet121"):
        model = loaded(name)
        constants = hashlib.sha256()
        for key in sorted(model.body.constants):
            constants.update(model.body.constants[key].contiguous().numpy().tobytes())
        mine.append(f"{model.graph.digest} {constants.hexdigest()}")
    assert done.stdout.splitlines() == mine


def test_the_seed_decides_and_construction_does_not() -> None:
    def made(seed: int, construction: int) -> torch.Tensor:
        torch.manual_seed(construction)
        module = nn.Linear(8, 8)
        randomise(module, seed)
        return module.weight

    assert torch.equal(made(1, 1), made(1, 2))
    assert not torch.equal(made(1, 1), made(2, 1))


def test_every_kind_of_parameter_is_alive() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ConvTranspose2d(8, 8, 2, 2, groups=2),
        nn.BatchNorm2d(8),
        nn.PReLU(),
        nn.LayerNorm(4),
        nn.MultiheadAttention(8, 2),
    )
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    randomise(module, 3)
    norm = module[2]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None and norm.running_var is not None
    assert (norm.running_var > 0.5).all() and (norm.running_mean != 0).any()
    assert all((p != 0).float().mean() > 0.9 for p in module.parameters())


def test_a_safetensors_file_is_copied_not_mapped(tmp_path: Path, loaded: Loaded, photo: Photo) -> None:
    """Straight from the mapped file, misaligned weights take other kernels: equal values, other bits."""
    wanted = loaded("networks:Attention", (3, 32, 32), "random:5")
    networks = importlib.import_module("networks")
    source = networks.Attention().eval()
    randomise(source, 5)
    file = tmp_path / "attention.safetensors"
    safetensors.torch.save_file(source.state_dict(), file)
    model = loaded("networks:Attention", (3, 32, 32), str(file))
    with file.open("r+b") as stream:  # what is mapped would change with it
        stream.write(bytes(file.stat().st_size))
    image = photo(model)
    assert torch.equal(model.whole(image)[0], wanted.whole(image)[0])
    assert all(t.data_ptr() % 16 == 0 for t in model.body.constants.values() if t.storage_offset() == 0)
    assert model.graph.digest == wanted.graph.digest


def test_a_file_of_another_model_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(4, 4), "extra": torch.zeros(1)}, file)
    with pytest.raises(ModelError, match=r"1 missing: bias; 1 unexpected: extra; 1 of another shape: weight"):
        load_file(nn.Linear(8, 4), file)


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\xff" * 64])
def test_a_broken_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "broken.safetensors"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=r"^.*broken.safetensors: weights: cannot be read.*$"):
        load_file(nn.Linear(2, 2), file)


@pytest.mark.parametrize("weights", ["random:", "random:x", "random:-1", "xavier", ""])
def test_unknown_weights_are_refused(weights: str) -> None:
    with pytest.raises(ModelError, match="random:SEED"):
        load(ModelSpec("alexnet", weights))


def test_pretrained_means_the_factory_s_own_weights_for_a_user_s_model(photo: Photo) -> None:
    torch.manual_seed(9)
    model = load(ModelSpec("networks:UNet", "pretrained", (3, 32, 32)))
    torch.manual_seed(9)
    module = importlib.import_module("networks").UNet().eval()
    assert torch.equal(model.body.constants["p_head_weight"], module.head.weight)
    assert model.whole(photo(model))[0].shape == (1, 4, 32, 32)
