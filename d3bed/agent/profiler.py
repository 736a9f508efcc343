"""Seconds per vertex on this machine, measured in situ, and kept on disk.

A vertex is timed inside whole passes through the network: caches are as warm, and memory as full, as
when a segment runs. Timing each vertex alone in a hot loop is wrong by up to a factor of two.

With one intra-op thread the clock is that thread's CPU time: on a quiet machine it is the wall's, and on
a busy one a profile, which is kept, does not remember what else was running.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch

from d3bed.core.graph import Value
from d3bed.core.program import Step
from d3bed.model import LoadedModel, compile_step

__all__ = ["ProfileCache", "is_outdated", "measure"]

#: Passes that are timed: as many as fit the budget after one warm-up, within these bounds.
_MOST_RUNS, _LEAST_RUNS = 15, 3
_BUDGET_S = 6.0

#: A kept profile whose sum is this many times what the network takes now is measured again. (In quiet, sum
#: over whole is 0.98–1.12.)
OUTDATED = 1.3

_FORMAT = "d3bed.profile/1"


def measure(model: LoadedModel, runs: int | None = None) -> tuple[float, ...]:
    """Median seconds per vertex number, freeing of dead tensors included; 0 for the input.

    Call it on the compute thread. One warm-up pass, then `runs` timed ones; None takes 15, or as many as
    fit about 6 s, at least 3.
    """
    graph = model.graph
    takes: dict[int, list[Value]] = defaultdict(list)
    last_reader: dict[Value, int] = {}
    for value, readers in graph.consumers.items():
        last_reader[value] = max(readers)
        for reader in readers:
            takes[reader].append(value)
    wanted = set(graph.consumers) | set(graph.results)
    steps = []
    for vertex in range(1, len(graph.vertices)):
        outputs = (Value(vertex, o) for o in range(len(graph.vertices[vertex].outputs)))
        step = Step((vertex,), tuple(takes[vertex]), tuple(v for v in outputs if v in wanted))
        dead = [v for v in step.takes if last_reader[v] == vertex and v not in graph.results]
        steps.append((step, compile_step(model, step), dead))

    photo = torch.randint(
        256, model.input.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    samples: list[list[float]] = [[] for _ in graph.vertices]

    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter

    def one_pass() -> float:
        values = {Value(0): photo}
        began_s = clock_s = clock()
        for step, call, dead in steps:
            made = call(*[values[value] for value in step.takes])
            values.update(zip(step.makes, made, strict=True))
            del made
            for value in dead:
                del values[value]
            now_s = clock()
            samples[step.vertices[0]].append(now_s - clock_s)
            clock_s = now_s
        return clock_s - began_s

    with torch.inference_mode():
        one_pass()
        for taken in samples:
            taken.clear()
        spent_s = 0.0
        for done in range(runs or _MOST_RUNS):
            if runs is None and done >= _LEAST_RUNS and spent_s > _BUDGET_S:
                break
            spent_s += one_pass()
    return (0.0, *(statistics.median(taken) for taken in samples[1:]))


def is_outdated(model: LoadedModel, times_s: Sequence[float]) -> bool:
    """Whether the whole network runs clearly faster now than a kept profile says: it was taken while the
    machine was busy. (Slower now says nothing: the machine may be busy now.) Takes two runs."""
    photo = torch.zeros(model.input.shape, dtype=torch.uint8)
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    runs_s = []
    for _ in range(2):
        began_s = clock()
        model.whole(photo)
        runs_s.append(clock() - began_s)
    return sum(times_s) > OUTDATED * min(runs_s)


class ProfileCache:
    """One JSON file per graph, fingerprint and thread count. Losing it costs a measurement."""

    def __init__(self, directory: Path) -> None:
        self._directory = Path(directory)

    def profile(
        self, model: LoadedModel, fingerprint: str, threads: int, *, fresh: bool = False
    ) -> tuple[tuple[float, ...], bool]:
        """Seconds per vertex, and whether they were kept: measured if they are not, or are outdated.

        Call it on the compute thread.
        """
        kept = None if fresh else self.get(model.graph.digest, fingerprint, threads)
        if kept is not None and not is_outdated(model, kept):
            return kept, True
        times_s = measure(model)
        self.put(model.graph.digest, fingerprint, threads, times_s)
        return times_s, False

    def get(self, digest: str, fingerprint: str, threads: int) -> tuple[float, ...] | None:
        """The profile kept for this key, or None; an unreadable or foreign file counts as none."""
        try:
            kept = json.loads(self._file(digest, fingerprint, threads).read_text(encoding="utf-8"))
            if kept["key"] != [_FORMAT, digest, fingerprint, threads]:
                return None
            times_s = tuple(float(number) for number in kept["times_s"])
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return times_s if times_s and all(0 <= t < math.inf for t in times_s) else None

    def put(self, digest: str, fingerprint: str, threads: int, times_s: tuple[float, ...]) -> None:
        """Keep a profile. The file appears whole or not at all; a full disk is not worth an error."""
        file = self._file(digest, fingerprint, threads)
        kept = {"key": [_FORMAT, digest, fingerprint, threads], "times_s": times_s}
        with contextlib.suppress(OSError):
            self._directory.mkdir(parents=True, exist_ok=True)
            handle, draft = tempfile.mkstemp(dir=self._directory, prefix=".profile-", suffix=".json")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as stream:
                    json.dump(kept, stream)
                os.replace(draft, file)
            except OSError:
                Path(draft).unlink(missing_ok=True)
                raise

    def _file(self, digest: str, fingerprint: str, threads: int) -> Path:
        key = hashlib.sha256(f"{fingerprint}|{threads}".encode()).hexdigest()[:12]
        return self._directory / f"profile-{digest}-{key}.json"
