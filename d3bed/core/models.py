"""Names of the networks that come with d3bed, and of what may run them; how is `model`'s part."""

from __future__ import annotations

__all__ = ["AUTO", "CLOSE", "ENGINES", "ONNX", "PAPER_MODELS", "TORCH", "ZOO"]

#: The five networks that D3 is measured on, as its references name them.
PAPER_MODELS: tuple[str, ...] = ("alexnet", "vgg16", "resnet18", "darknet53", "inception_v4")

#: All of them: the others are here for users and tests.
ZOO: tuple[str, ...] = (*PAPER_MODELS, "densenet121", "mobilenetv3", "vit_tiny")

#: What runs an agent's part of a network. torch's operators, one by one, give the undivided network's bits;
#: ONNX Runtime is usually faster and rounds differently.
TORCH, ONNX = "torch", "onnx"

#: The faster of them on that board, as measured.
AUTO = "auto"

ENGINES: tuple[str, ...] = (TORCH, ONNX, AUTO)

#: How far an answer may be off where bits are not promised, over the largest value.
CLOSE = 1e-5
