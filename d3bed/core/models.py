"""Names of the networks that come with d3bed; how they are built is `model/zoo`'s part."""

from __future__ import annotations

__all__ = ["PAPER_MODELS", "ZOO"]

#: The five networks that D3 is measured on, as its references name them.
PAPER_MODELS: tuple[str, ...] = ("alexnet", "vgg16", "resnet18", "darknet53", "inception_v4")

#: All of them: the others are here for users and tests.
ZOO: tuple[str, ...] = (*PAPER_MODELS, "densenet121", "mobilenetv3", "vit_tiny")
