"""What users send to the JSON API: one body a route. Pure data; decoding it checks every limit."""

from __future__ import annotations

from typing import Annotated

import msgspec

from d3bed.core.ids import CauseId

__all__ = [
    "Changed",
    "EndOrder",
    "LinkOrder",
    "LinkReset",
    "LoadOrder",
    "ModelOrder",
    "NetworkOrder",
    "RateOrder",
    "RunOrder",
    "SceneOrder",
    "SpeedOrder",
    "StopOrder",
    "StrategyOrder",
]

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=300)]
_Count = Annotated[int, msgspec.Meta(ge=1, le=10**9)]
_InFlight = Annotated[int, msgspec.Meta(ge=1, le=64)]
_Size = Annotated[int, msgspec.Meta(ge=1, le=8192)]
_Seconds = Annotated[float, msgspec.Meta(gt=0, le=7 * 24 * 3600)]
_Who = Annotated[str, msgspec.Meta(min_length=1, max_length=60)]


class StrategyOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`tiling`: how edge agents share stacks of layers; null leaves it as it is."""

    strategy: _Text
    tiling: _Text | None = None
    by: _Who = "api"


class ModelOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`input` is [C, H, W]; `weights` as in the model zoo: `pretrained`, `random:SEED` or a file."""

    model: _Text
    weights: _Text = "random:0"
    input: tuple[_Size, _Size, _Size] | None = None
    by: _Who = "api"


class RunOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`frames` null: until stopped; `in_flight` null: as configured."""

    frames: _Count | None = None
    in_flight: _InFlight | None = None
    by: _Who = "api"


class LinkOrder(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"source": "from", "target": "to"}
):
    """Only links that a network preset shapes can be changed; what is null stays as it is. `for_s` null:
    until undone."""

    source: _Text
    target: _Text
    mbit_per_s: Annotated[float, msgspec.Meta(ge=0.01, le=100_000)] | None = None
    latency_ms: Annotated[float, msgspec.Meta(ge=0, le=10_000)] | None = None
    loss_percent: Annotated[float, msgspec.Meta(ge=0, le=50)] | None = None
    for_s: _Seconds | None = None
    by: _Who = "api"


class LinkReset(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"source": "from", "target": "to"}
):
    source: _Text
    target: _Text
    by: _Who = "api"


class LoadOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`processes`: so many busy ones on the agent's board, 0 for none; where its speed is emulated, that
    drops instead. `for_s` null: until undone."""

    processes: Annotated[int, msgspec.Meta(ge=0, le=64)]
    for_s: _Seconds | None = None
    by: _Who = "api"


class SpeedOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Emulated speed: 0.2 is five times slower than the agent's machine; null: as configured. `for_s` null:
    until undone."""

    speed: Annotated[float, msgspec.Meta(ge=0.001, le=1)] | None
    for_s: _Seconds | None = None
    by: _Who = "api"


class EndOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    by: _Who = "api"


class Changed(msgspec.Struct, frozen=True):
    """What was noted; it is on its way to the agent. What becomes of `order` is in the feed."""

    message: str
    order: CauseId | None = None


class RateOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Frames a second; 0: paused, null: each as soon as one before it is answered."""

    rate_per_s: Annotated[float, msgspec.Meta(ge=0, le=1000)] | None
    by: _Who = "api"


class NetworkOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A preset by name; it must shape the links that are shaped now."""

    network: _Text
    by: _Who = "api"


class SceneOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A scenario by name; it is played on the testbed that is there."""

    scenario: _Text
    by: _Who = "api"


class StopOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    by: _Who = "api"
