"""How often things are done, told and shown: at once where there are few agents and pipelines, more seldom
where there are hundreds, so that the server answers whoever asks meanwhile. Pure.

Nothing that calls for another plan waits for these: where something jumps, its plan is looked at at once.
"""

from __future__ import annotations

__all__ = ["batch_s", "count_s", "ripen_s", "save_s", "second_s", "shown_per_s", "watch_s"]

#: What agents tell of frames waits for so long to be told together; longer where they are many.
BATCH_S, BATCH_MOST_S, BATCH_AN_AGENT_S = 0.1, 0.5, 0.004
#: Statistics are published this often, and runs stored; a second that is over is told of within so much.
STATISTICS_S, SAVE_S, SECOND_S = 0.5, 1.0, 0.5
#: This often a pipeline's plan is held against conditions, and its frames are shown: but no more than one
#: pipeline's in `WATCH_S` and `RIPE_S`. Where that is seldom, so are statistics published, and runs stored,
#: one in `SAVE_RUN_S`.
LOOK_S, WATCH_S, RIPE_S, SAVE_RUN_S = 0.1, 0.01, 0.0015, 0.02
#: So many frames of one pipeline are shown a second, and of all together, but one of each pipeline: a page
#: keeps the last hundred.
SHOWN_PER_S, ALL_SHOWN_PER_S, LEAST_SHOWN_PER_S = 20.0, 100.0, 1.0


def batch_s(agents: int) -> float:
    """How often each of so many agents shall tell of frames."""
    return min(BATCH_MOST_S, max(BATCH_S, BATCH_AN_AGENT_S * agents))


def watch_s(pipelines: int) -> float:
    """In how long each of so many pipelines is looked at once."""
    return max(LOOK_S, WATCH_S * pipelines)


def count_s(pipelines: int) -> float:
    """In how long the numbers of each are published."""
    return max(STATISTICS_S, WATCH_S * pipelines)


def save_s(pipelines: int) -> float:
    """In how long the run of each is stored, if it has changed."""
    return max(SAVE_S, SAVE_RUN_S * pipelines)


def ripen_s(pipelines: int) -> float:
    """In how long frames of each that are complete are shown."""
    return max(LOOK_S, RIPE_S * pipelines)


def second_s(pipelines: int) -> float:
    """Within how long after a second each tells of it."""
    return min(SECOND_S, RIPE_S * pipelines)


def shown_per_s(pipelines: int) -> float:
    """How many frames of each are shown in a second."""
    return max(LEAST_SHOWN_PER_S, min(SHOWN_PER_S, ALL_SHOWN_PER_S / max(1, pipelines)))
