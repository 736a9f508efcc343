"""Whether any frame is lost, answered twice or answered under mixed epochs while strategies change at random.

Frames come one after the other, and each switch is waited for, so that some are under way at every one. Each
answer is compared with the undivided network's: what was computed under two epochs would not be its bits.
How long plans take to be in force is told as well: by the end all that these need is resident.
"""

from __future__ import annotations

import random
from typing import Any

import msgspec
from rich.console import Console

from d3bed.bench.activations import TARGET_S, activations_s, spread
from d3bed.config import Config
from d3bed.lab.player import Stage
from d3bed.lab.testbed import open_testbed
from d3bed.server.history import RunHistory

__all__ = ["SWITCHES", "switching"]

SWITCHES = 200
_STRATEGIES = ("device", "edge", "cloud", "optimal")
_SEED = 3
#: So many answers of the planner the server lists at least.
_PLANS_LISTED = 50


async def switching(config: Config, console: Console) -> dict[str, Any]:
    """Print and return the figures of `SWITCHES` switches."""
    async with open_testbed(config, ["--port", "0", "--fixed"]) as bed:
        stage = Stage(bed.base, bed=bed, config=config)
        await stage.post(f"pipelines/{bed.pipeline}/start", {})
        decided_s: dict[str, float] = {}
        dice, chosen = random.Random(_SEED), ""
        for number in range(SWITCHES):
            chosen = dice.choice([name for name in _STRATEGIES if name != chosen])
            await bed.switch(strategy=chosen)
            if number % _PLANS_LISTED == 0 or number == SWITCHES - 1:
                decided_s |= {plan["cause_id"]: plan["at_s"] for plan in reversed(await stage.get("plans"))}
        await stage.post(f"pipelines/{bed.pipeline}/stop", {})
        view = await bed.stopped()
        await bed.frames()  # all of them are stored by then
        history = msgspec.convert(await stage.get(f"runs/{view['run']}/history"), RunHistory)
    frames, counts = history.frames, history.report.frames
    resident_s, first_s = activations_s(history.epochs, decided_s, 0.0, float("inf"))
    result = {
        "switches": SWITCHES,
        "epochs": len(set(frames.epoch)),
        "sent": counts.sent,
        "answered": counts.answered,
        "lost": counts.sent - counts.answered,
        "repeated": len(frames.frame) - len(set(frames.frame)),
        "inexact": sum(identical is False for identical in frames.identical),
        "rerun": sum(attempts > 1 for attempts in frames.attempts),
        "activation_s": spread(resident_s),
        "activation_first_s": spread(first_s),
    }
    met = {
        "no frame lost, repeated or inexact": not (result["lost"] or result["repeated"] or result["inexact"]),
        "150 ms from decision to epoch, with what it needs resident": max(resident_s, default=0.0)
        <= TARGET_S,
    }
    console.print(
        f"switches: {SWITCHES}, {counts.answered} of {counts.sent} frames answered under {result['epochs']} "
        f"epochs: {result['repeated']} twice, {result['inexact']} inexact, {result['rerun']} run again",
        highlight=False,
        soft_wrap=True,
    )
    for text, found in (("what it needs resident", spread(resident_s)), ("first", spread(first_s))):
        if found is not None:
            words = f"{found['median'] * 1e3:.0f} ms, at most {found['max'] * 1e3:.0f}"
            console.print(f"from decision to epoch, {text}: {words} ({found['count']})", highlight=False)
    for target, held in met.items():
        console.print(f"{target}: {'met' if held else 'missed'}", style=None if held else "red")
    return result | {"met": met}
