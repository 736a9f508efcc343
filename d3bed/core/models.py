"""Which networks there are, how a network is asked for, and what may run it; how is `model`'s part."""

from __future__ import annotations

from typing import Annotated

import msgspec

__all__ = [
    "AUTO",
    "CLOSE",
    "CUDA",
    "ENGINES",
    "ONNX",
    "PAPER_MODELS",
    "TORCH",
    "ZOO",
    "ModelFile",
    "ModelSpec",
]

#: The five networks that D3 is measured on, as its references name them.
PAPER_MODELS: tuple[str, ...] = ("alexnet", "vgg16", "resnet18", "darknet53", "inception_v4")

#: All of them: the others are here for users and tests.
ZOO: tuple[str, ...] = (*PAPER_MODELS, "densenet121", "mobilenetv3", "vit_tiny")

#: What runs an agent's part of a network. torch's operators, one by one, give the undivided network's bits;
#: ONNX Runtime is usually faster and rounds differently, and so does torch on a CUDA device.
TORCH, ONNX, CUDA = "torch", "onnx", "cuda"

#: The fastest of those that the board has, as measured.
AUTO = "auto"

ENGINES: tuple[str, ...] = (TORCH, ONNX, CUDA, AUTO)

#: How far an answer may be off where bits are not promised, over the largest value.
CLOSE = 1e-5


class ModelFile(msgspec.Struct, frozen=True):
    """A file that a model names by `path`, as the server has it: its SHA-256 (hex) and bytes."""

    path: str
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    size: Annotated[int, msgspec.Meta(ge=0)]


class ModelSpec(msgspec.Struct, frozen=True, cache_hash=True):
    """Which model: a zoo name, `package.module:factory`, a `.pt2` path or a `.safetensors` path of a
    whole network (`d3bed export`); `weights` as in the zoo.

    `input` is [C, H, W]; None leaves it to the model. Unless `encoded` (bytes of a usual file) is 0,
    vertex 0 is an image file, not pixels; with `floats` its pixels are float32, as in the papers of
    others, and not uint8. Two agents that load equal specs make equal graphs and equal
    weights. `name` of equal specs is equal, so `key` may be used to tell them apart. `files` are
    fetched from the server, others looked for on the agent's own disk.
    """

    name: str
    weights: str = "random:0"
    input: tuple[int, int, int] | None = None
    encoded: int = 0
    floats: bool = False
    files: tuple[ModelFile, ...] = ()

    @property
    def key(self) -> str:
        size = "x".join(map(str, self.input)) if self.input else "default"
        pixels = f"@{self.encoded}" * bool(self.encoded) + "@float32" * self.floats
        return f"{self.name}@{self.weights}@{size}{pixels}{self.contents}"

    @property
    def contents(self) -> str:
        """What is in its files; empty where they are not known."""
        return "".join(f"@{file.sha256[:16]}" for file in self.files)
