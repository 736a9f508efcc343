"""A small network that reads digits, and real labels: scikit-learn's 1,797 handwritten digits of 8×8 pixels.

Digits are enlarged to 32×32 and given three equal channels, as a photo has. The network has all that makes
splitting hard in small: a branch, a residual sum, a concatenation. `python -m d3bed.bench.digits` trains it
anew on every second image, on one thread in seconds, and writes `digits.safetensors` beside this file.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy
import torch
from safetensors.torch import save_file
from torch import nn

from d3bed.core.errors import ConfigError
from d3bed.core.messages import ModelSpec

__all__ = ["SPEC", "WEIGHTS", "images", "network", "train"]

WEIGHTS = Path(__file__).with_name("digits.safetensors")
SIDE = 32
SPEC = ModelSpec(f"{__name__}:network", str(WEIGHTS), (3, SIDE, SIDE))

_FILE = Path("datasets") / "data" / "digits.csv.gz"
_EPOCHS, _BATCH, _RATE = 30, 64, 3e-3


class Digits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = _convolution(3, 16)
        self.pool = nn.MaxPool2d(2)
        self.left, self.right = _convolution(16, 16), nn.Conv2d(16, 16, 1)
        self.body = _convolution(32, 32)
        self.head = nn.Linear(32 * 4 * 4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.stem(x))
        x = self.pool(torch.cat([self.left(x), torch.relu(self.right(x))], 1))
        x = self.pool(torch.relu(x + self.body(x)))
        out: torch.Tensor = self.head(x.flatten(1))
        return out


def _convolution(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU())


def network() -> nn.Module:
    """A factory for `--model`; its weights are in `digits.safetensors`."""
    return Digits()


def images() -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 `[1797, 3, 32, 32]` and int64 `[1797]`: every image, and which digit it is.

    Read from scikit-learn's file: its package is found, not imported. Raises `ConfigError` without it.
    """
    spec = find_spec("sklearn")
    places = (spec.submodule_search_locations or ()) if spec else ()
    path = next((file for place in places if (file := Path(place) / _FILE).is_file()), None)
    if path is None:
        raise ConfigError("digits", "", "scikit-learn is not installed", "pip install 'd3bed[compare]'")
    numbers = torch.from_numpy(numpy.loadtxt(path, delimiter=",", dtype=numpy.uint8))
    small = numbers[:, :-1].reshape(-1, 8, 8).float().mul(255 / 16).round().to(torch.uint8)
    large = small.repeat_interleave(SIDE // 8, 1).repeat_interleave(SIDE // 8, 2)
    return large.unsqueeze(1).repeat(1, 3, 1, 1), numbers[:, -1].long()


def train(path: Path = WEIGHTS, seed: int = 0) -> float:
    """Train on every second image and write the weights; the share of the others that is read rightly."""
    from d3bed.model.export import normalise
    from d3bed.model.zoo import IMAGENET

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    mean, std = (torch.tensor(numbers).view(1, -1, 1, 1) for numbers in IMAGENET)
    pixels, labels = images()
    inputs: torch.Tensor = normalise(pixels, mean, std)
    module = network()
    optimiser = torch.optim.AdamW(module.parameters(), lr=_RATE)
    seen = torch.arange(0, len(labels), 2)
    for epoch in range(_EPOCHS):
        for group in optimiser.param_groups:
            group["lr"] = _RATE * (1 - epoch / _EPOCHS)
        shuffled = seen[torch.randperm(len(seen))]
        for begin in range(0, len(shuffled), _BATCH):
            chosen = shuffled[begin : begin + _BATCH]
            loss = nn.functional.cross_entropy(module(inputs[chosen]), labels[chosen])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    module.eval()
    with torch.inference_mode():
        right = module(inputs[1::2]).argmax(1) == labels[1::2]
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, path)
    return float(right.double().mean())


if __name__ == "__main__":
    import sys

    sys.stdout.write(f"{train():.4f} of the images that it was not trained on\n")
