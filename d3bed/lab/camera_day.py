"""The scenario `camera-day`: a day of a camera in four minutes, drawn from a seed. Pure.

Forty changes at random times, at least two seconds apart. Each picks one of: the Wi-Fi, to both edge boxes;
the backbone, from both; other work on an edge box; other work on the device. Rates are drawn evenly on a
logarithmic scale, loads from none to three processes, each unlike the present one. Ours, not the paper's.
"""

from __future__ import annotations

import random

from d3bed.lab.scenario import Event, Link, Load, Scenario

__all__ = ["CHANGES", "DURATION_S", "SEED", "camera_day"]

SEED, CHANGES, DURATION_S = 2021, 40, 240.0
_LEAST_GAP_S = 2.0
_WIFI_MBIT_PER_S, _BACKBONE_MBIT_PER_S = (2.0, 100.0), (1.0, 60.0)
_EDGES, _DEVICE, _CLOUD = ("edge-1", "edge-2"), "pi-1", "cloud-1"
_MOST_PROCESSES = 3
#: What changes, and how often beside the others: a device's other work is rare.
_SUBJECTS = {"wifi": 4, "backbone": 3, "edge-1": 3, "edge-2": 2, "pi-1": 1}


def camera_day(seed: int = SEED) -> Scenario:
    """Equal seeds make equal scenarios."""
    draw = random.Random(seed)
    loads = dict.fromkeys((*_EDGES, _DEVICE), 0)
    events: list[Event] = []
    for at_s in _times(draw):
        subject = draw.choices(list(_SUBJECTS), list(_SUBJECTS.values()))[0]
        if subject in loads:
            processes = draw.choice([n for n in range(_MOST_PROCESSES + 1) if n != loads[subject]])
            loads[subject] = processes
            events.append(Load(at_s=at_s, agent=subject, processes=processes))
            continue
        low, high = _WIFI_MBIT_PER_S if subject == "wifi" else _BACKBONE_MBIT_PER_S
        rate = round(low * (high / low) ** draw.random(), 1)
        for edge in _EDGES:
            source, target = (_DEVICE, edge) if subject == "wifi" else (edge, _CLOUD)
            events.append(
                Link(at_s=at_s, source=source, target=target, both=subject == "wifi", mbit_per_s=rate)
            )
    return Scenario(
        name="camera-day",
        where="camera-day.toml",
        description=f"a day of a camera: {CHANGES} changes in {DURATION_S / 60:g} minutes",
        duration_s=DURATION_S,
        events=tuple(events),
        config="../unpinned.toml",
        seed=seed,
    )


def _times(draw: random.Random) -> list[float]:
    """Evenly spread but for the least gap; nothing in the first gap, nor the last."""
    free_s = DURATION_S - (CHANGES + 1) * _LEAST_GAP_S
    drawn = sorted(draw.uniform(0, free_s) for _ in range(CHANGES))
    return [round(s + (n + 1) * _LEAST_GAP_S, 1) for n, s in enumerate(drawn)]
