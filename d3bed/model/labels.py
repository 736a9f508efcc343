"""Names of classes, where an answer has such: of networks that were trained on ImageNet's thousand.

timm ships the names; its files are found, not imported. Random weights know no classes.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from d3bed.core.messages import ModelSpec

__all__ = ["label"]

_CLASSES = 1000


def label(spec: ModelSpec, index: int, classes: int) -> str:
    """What class number `index` of so many is called."""
    names = () if spec.weights.startswith("random") or classes != _CLASSES else _imagenet()
    return names[index] if names else f"class {index}"


@cache
def _imagenet() -> tuple[str, ...]:
    """Empty where timm's lists are not here or not as expected."""
    spec = find_spec("timm")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(place) / "data" / "_info"
        try:
            order = (folder / "imagenet_synsets.txt").read_text().split()
            lines = (folder / "imagenet_synset_to_lemma.txt").read_text().splitlines()
            words = dict(line.split("\t", 1) for line in lines if "\t" in line)
            names = tuple(words[synset].split(",")[0].strip() for synset in order)
        except (OSError, KeyError, UnicodeError):
            continue
        if len(names) == _CLASSES:
            return names
    return ()
