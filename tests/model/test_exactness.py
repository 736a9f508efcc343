"""Split results equal the undivided network's bit for bit, wherever it is cut."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations_with_replacement

import pytest
import torch

from d3bed.core.graph import Graph, Value
from d3bed.core.ids import Tier
from d3bed.core.plan import Plan
from d3bed.model import LoadedModel

FIVE = ("alexnet", "vgg16", "resnet18", "darknet53", "inception_v4")

Loaded = Callable[..., LoadedModel]
Plans = Callable[[Graph, int, int], list[Plan]]
Split = Callable[..., tuple[torch.Tensor, ...]]
Photo = Callable[[LoadedModel], torch.Tensor]


def same(got: tuple[torch.Tensor, ...], want: tuple[torch.Tensor, ...]) -> bool:
    return len(got) == len(want) and all(map(torch.equal, got, want))


@pytest.mark.parametrize("name", [*FIVE, "densenet121", "vit_tiny", "mobilenetv3"])
def test_twenty_random_three_way_cuts_are_exact(
    name: str, loaded: Loaded, random_plans: Plans, split: Split, photo: Photo
) -> None:
    model = loaded(name)
    image = photo(model)
    whole = model.whole(image)
    assert all(torch.isfinite(result).all() for result in whole)
    wrong = [
        plan.describe(model.graph)
        for plan in random_plans(model.graph, 20, 1)
        if not same(split(model, plan, image), whole)
    ]
    assert wrong == []


@pytest.mark.parametrize("name", ["UNet", "Shuffle", "InPlace", "Aliased", "Attention"])
def test_all_cuts_of_hard_networks_are_exact(
    name: str, loaded: Loaded, random_plans: Plans, split: Split, photo: Photo
) -> None:
    model = loaded(f"networks:{name}", (3, 32, 32))
    image = photo(model)
    whole = model.whole(image)
    size = len(model.graph.vertices)
    plans = random_plans(model.graph, 10, 3)
    for first, second in combinations_with_replacement(range(1, size + 1), 2):
        counts = (first, second - first, size - second)
        plans.append(Plan(tuple(t for t, n in zip(Tier, counts, strict=True) for _ in range(n))))
    assert [plan.describe() for plan in plans if not same(split(model, plan, image), whole)] == []


@pytest.mark.parametrize(("name", "every"), [("resnet18", 1), ("darknet53", 6)])
def test_one_ulp_anywhere_changes_the_result(
    name: str, every: int, loaded: Loaded, split: Split, photo: Photo
) -> None:
    """Otherwise equality would prove nothing: a dead branch may be wrong and nobody sees it."""
    model = loaded(name)
    image = photo(model)
    whole = model.whole(image)
    size = len(model.graph.vertices)
    deaf = []
    checked = range(1, size, every)
    for vertex in checked:
        plan = Plan((Tier.DEVICE,) * (vertex + 1) + (Tier.EDGE,) * (size - vertex - 1))
        if same(split(model, plan, image, nudged={Value(vertex)}), whole):
            deaf.append(model.graph.vertices[vertex].name)
    assert len(deaf) <= len(checked) // 10, deaf
