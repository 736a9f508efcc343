"""What an agent is told on its command line or in a config file."""

from __future__ import annotations

from pathlib import Path

import msgspec

from d3bed.core.ids import AgentId, Tier
from d3bed.core.models import TORCH

__all__ = ["AgentSettings"]


class AgentSettings(msgspec.Struct, frozen=True):
    """One agent process. A board that joined has an `identity` file, and from it its `token`, and the
    `authority` (PEM) where the server speaks TLS.

    `server` is the control plane's base address (`http://host:port`). `listen_host` is where the data
    listener binds and what peers are told, unless there is an `address` for that (beyond a NAT that
    forwards a port); port 0 takes a free one. `speed` < 1 emulates a board that
    is 1/speed times slower than this machine. `photos` (device only) is a folder of images; None means
    the photos that ship inside installed packages. `cache_dir` keeps profiles and exported networks.
    `shaped`: its links will be held to emulated rates, which needs an event loop with finer timers (and
    rules out uvloop). `tc`: the kernel holds them, not user space. `cpus`: its control group lets the
    process have so many cores, or will once it is ready; None: all there are. `engine`: what runs its
    part of a network, one of `ENGINES`. `models_bytes`: how much of the disk files of models may take.
    `weights_bytes`: how much of the memory weights may take that no plan needs now; None: an eighth of it.
    """

    agent: AgentId
    tier: Tier
    server: str
    listen_host: str = "127.0.0.1"
    listen_port: int = 0
    speed: float = 1.0
    token: str | None = None
    photos: Path | None = None
    cache_dir: Path = Path(".d3bed/cache")
    shaped: bool = False
    address: str | None = None
    identity: Path | None = None
    authority: str = ""
    tc: bool = False
    cpus: float | None = None
    engine: str = TORCH
    models_bytes: int = 4_000_000_000
    weights_bytes: int | None = None

    @property
    def pace(self) -> float:
        """By how much of this machine's quiet profile the agent computes on its one thread, when unloaded."""
        return self.speed * min(1.0, self.cpus or 1.0)
