"""Which networks there are, and how each comes into memory as a module.

The first five are those D3 was measured on (as its references name them); the others are here for
users and tests. A user's own model is a `package.module:factory`. Weights are `weights.py`'s part,
except `pretrained`, which only the library that builds the network can fetch.
"""

from __future__ import annotations

import importlib
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from d3bed.core.errors import ModelError
from d3bed.core.models import ZOO

__all__ = ["IMAGENET", "Built", "build"]

#: Name → (library, name there, image height and width).
_ENTRIES = {
    "alexnet": ("torchvision", "alexnet", 224),
    "vgg16": ("timm", "vgg16", 224),
    "resnet18": ("timm", "resnet18", 224),
    "darknet53": ("timm", "darknet53", 256),
    "inception_v4": ("timm", "inception_v4", 299),
    "densenet121": ("timm", "densenet121", 224),
    "mobilenetv3": ("timm", "mobilenetv3_large_100", 224),
    "vit_tiny": ("timm", "vit_tiny_patch16_224", 224),
}

#: Mean and deviation per channel of what most image networks were trained on.
IMAGENET: tuple[tuple[float, ...], tuple[float, ...]] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_DEFAULT_INPUT = (3, 224, 224)
_REACH_S = 5.0


@dataclass(frozen=True)
class Built:
    """A module in eval mode, the `[C, H, W]` it wants, and the mean and deviation it was trained with."""

    module: nn.Module
    input: tuple[int, int, int]
    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]


def build(name: str, input: tuple[int, int, int] | None, pretrained: bool) -> Built:
    """Construct a zoo network or call a user's factory. Raises `ModelError`."""
    if ":" in name:
        module, default = _from_factory(name), _DEFAULT_INPUT
    elif name in _ENTRIES:
        library, inner, size = _ENTRIES[name]
        default = (3, size, size)
        module = _from_library(name, library, inner, pretrained)
    else:
        raise ModelError(
            name,
            "",
            "no such model",
            f"one of {', '.join(ZOO)}, package.module:factory, a .pt2 file or one of d3bed export",
        )
    trained: dict[str, Any] = getattr(module, "pretrained_cfg", None) or {}
    return Built(
        module.eval().requires_grad_(False),
        input or default,
        tuple(trained.get("mean", IMAGENET[0])),
        tuple(trained.get("std", IMAGENET[1])),
    )


def _from_factory(name: str) -> nn.Module:
    place, _, attribute = name.partition(":")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        factory = getattr(importlib.import_module(place), attribute)
    except ModuleNotFoundError as error:
        raise ModelError(
            name, "", f"no module named {error.name}", "run where it can be imported, or install it"
        ) from error
    except AttributeError as error:
        raise ModelError(name, "", f"{place} has no {attribute}", "check the spelling") from error
    except Exception as error:
        raise ModelError(name, "", f"importing {place} failed: {_line(error)}", "mend the module") from error
    try:
        module = factory()
    except Exception as error:
        raise ModelError(
            name, "", f"{attribute}() failed: {_line(error)}", "it is called without arguments"
        ) from error
    if not isinstance(module, nn.Module):
        raise ModelError(
            name, "", f"{attribute}() returned {type(module).__name__}", "return a torch.nn.Module"
        )
    return module


def _from_library(name: str, library: str, inner: str, pretrained: bool) -> nn.Module:
    try:
        torchvision = _torchvision()
        if library == "torchvision":
            module: nn.Module = torchvision.models.get_model(
                inner, weights="DEFAULT" if pretrained else None, progress=False
            )
        else:
            timm = importlib.import_module("timm")
            with _offline_if_unreachable() if pretrained else _nothing():
                module = timm.create_model(inner, pretrained=pretrained)
    except ModuleNotFoundError as error:
        raise ModelError(name, "", f"{error.name} is not installed", "pip install d3bed[agent]") from error
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        raise ModelError(
            name,
            "weights",
            f"pretrained weights could not be fetched: {_line(error)}",
            "connect this machine to the network, or use a .safetensors file or random:SEED",
        ) from error
    return module


#: Keeps the schemas of `_torchvision` registered.
_schemas: list[Any] = []


def _torchvision() -> Any:
    """Import torchvision; where its operators were built for another torch, with their schemas alone.

    A CPU build of torch beside a CUDA build of torchvision lacks `torchvision::nms`, and the import
    fails although no network of the zoo uses it.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError:
        library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _schemas.append(library)
        for module in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
            del sys.modules[module]
        return importlib.import_module("torchvision")


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _offline_if_unreachable() -> Iterator[None]:
    """The hub's client retries for most of a minute; without a network, look in its cache only."""
    constants: Any = importlib.import_module("huggingface_hub.constants")
    before = constants.HF_HUB_OFFLINE
    try:
        urllib.request.urlopen(constants.ENDPOINT, timeout=_REACH_S).close()
    except urllib.error.HTTPError:
        pass  # it answered
    except OSError:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _line(error: BaseException) -> str:
    text = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
