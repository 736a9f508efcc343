"""What is compared, and what a row of results says. Pure data.

A grid is models × networks × ways. A way is a strategy with or without tiles; the two rivals come twice,
with our uint8 photo as their input and as published, with the float32 tensor that their papers ship
(marked `*`). A row is one way in one cell: frames one at a time (`single`), a stream (`stream`), or both;
each predicted from profiles and, in a real run, measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from d3bed.core.errors import ConfigError
from d3bed.core.ids import Tier
from d3bed.core.models import PAPER_MODELS
from d3bed.plan import STRATEGIES

__all__ = [
    "MODELS",
    "NETWORKS",
    "OURS",
    "RIVALS",
    "STRATEGIES_COMPARED",
    "TIERS_ALONE",
    "Asked",
    "Results",
    "Row",
    "Single",
    "Stream",
    "Way",
    "ways",
]

MODELS = PAPER_MODELS
#: The most different first: a run that is cut short has then seen as much as can be.
NETWORKS = ("wifi", "rural", "optical", "4g", "5g")
TIERS_ALONE = ("device", "edge", "cloud")
RIVALS = ("neurosurgeon", "dads")
OURS = ("layers", "hpa", "optimal", "hpa+vsm", "optimal+vsm")
STRATEGIES_COMPARED = (*TIERS_ALONE, *RIVALS, *OURS)

_TILED = "+vsm"
_PUBLISHED = "*"


class Way(msgspec.Struct, frozen=True):
    """`published`: the input is the float32 tensor."""

    strategy: str
    tiling: str = "none"
    published: bool = False

    @property
    def name(self) -> str:
        """As in `dads*` or `hpa+vsm`."""
        return self.strategy + _TILED * (self.tiling == "vsm") + _PUBLISHED * self.published


def ways(names: Sequence[str]) -> tuple[Way, ...]:
    """The ways of these strategies, rivals twice, in the order given. Raises `ConfigError`."""
    found = []
    for name in dict.fromkeys(names):
        strategy = name.removesuffix(_TILED)
        if strategy not in STRATEGIES or (name != strategy and name not in OURS):
            known = ", ".join(STRATEGIES_COMPARED)
            raise ConfigError("--strategies", name, "cannot be compared", f"known: {known}")
        found.append(Way(strategy, "none" if name == strategy else "vsm"))
        if name in RIVALS:
            found.append(Way(strategy, published=True))
    return tuple(found)


class Single(msgspec.Struct, frozen=True, kw_only=True):
    """Frames one at a time. Times in seconds; measured ones null where nothing ran.

    `low_s` and `high_s` are quartiles of the frames' latency. Bytes are of one frame, by link between
    tiers, both directions; the backbone is what leads to the cloud or from it. `compute_s` is per tier.
    `plan` is its text, `vertices` how many each tier has. `same_as`: the way whose plan is the same one, and
    whose measurement this is. `identical`: whether every answer had the undivided model's bits.
    """

    predicted_s: float
    median_s: float | None = None
    low_s: float | None = None
    high_s: float | None = None
    frames: int = 0
    compute_s: dict[Tier, float]
    link_bytes: dict[str, float]
    plan: str
    vertices: dict[Tier, int]
    tiles: int = 0
    same_as: str = ""
    identical: bool | None = None

    @property
    def latency_s(self) -> float:
        """Measured if it is."""
        return self.predicted_s if self.median_s is None else self.median_s

    @property
    def backbone_bytes(self) -> float:
        return _backbone(self.link_bytes)

    @property
    def alone(self) -> Tier | None:
        """The one tier that does it all, if one does."""
        used = [tier for tier, count in self.vertices.items() if count - (tier is Tier.DEVICE)]
        return used[0] if len(used) == 1 else None


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """Frames that come at `rate_per_s`, or (null) faster than anything keeps up with: then `per_s` is the
    highest rate that is sustained. `predicted_per_s` is what the plan's busiest stage, or the mix, allows; no
    more than what comes. `alone_s` is what a frame is predicted to take under it, on its own, and `plans` how
    many take turns. Latency is the median, `low_s` and `high_s` quartiles.
    """

    rate_per_s: float | None
    predicted_per_s: float
    alone_s: float | None = None
    per_s: float | None = None
    seconds: float = 0.0
    frames: int = 0
    dropped: int = 0
    median_s: float | None = None
    low_s: float | None = None
    high_s: float | None = None
    plans: int = 1
    link_bytes: dict[str, float]
    plan: str
    same_as: str = ""
    identical: bool | None = None

    @property
    def sustained_per_s(self) -> float:
        """Measured if it is."""
        return self.predicted_per_s if self.per_s is None else self.per_s

    @property
    def backbone_bytes(self) -> float:
        return _backbone(self.link_bytes)


def _backbone(link_bytes: dict[str, float]) -> float:
    return sum(size for link, size in link_bytes.items() if "cloud" in link)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One way in one cell. `refused`: why it has no plan. `commit`, `at` and `load` are those of the
    measurement: the code's commit, the time (UTC), the machine's load average."""

    model: str
    network: str
    way: Way
    single: Single | None = None
    stream: Stream | None = None
    refused: str = ""
    commit: str | None = None
    at: str = ""
    load: float | None = None

    @property
    def cell(self) -> tuple[str, str]:
        return self.model, self.network


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the grid is, and how it is run. `frames` null: no frames one at a time; `streams`: streams are
    run, at `rate_per_s`, or overrun."""

    models: tuple[str, ...]
    networks: tuple[str, ...]
    strategies: tuple[str, ...]
    edges: int
    frames: int | None
    streams: bool
    rate_per_s: float | None = None
    testbed: str

    @property
    def cells(self) -> tuple[tuple[str, str], ...]:
        return tuple((model, network) for model in self.models for network in self.networks)


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """`results.json`. `machine` says on what, and with which versions; `emulated` what did not happen as on
    real boards, a sentence each; `complete`: every row that was asked for is there."""

    format: str = "d3bed.compare/1"
    how: str
    asked: Asked
    machine: dict[str, Any]
    emulated: tuple[str, ...]
    rows: tuple[Row, ...]
    complete: bool = True
    taken_s: float = 0.0

    def row(self, model: str, network: str, way: str) -> Row | None:
        return self.table.get((model, network, way))

    @property
    def table(self) -> dict[tuple[str, str, str], Row]:
        return {(row.model, row.network, row.way.name): row for row in self.rows}
