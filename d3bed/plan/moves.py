"""Moving vertices of a plan from tier to tier, priced exactly.

A plan is kept with what a move changes: every vertex's rank and how many readers it has on each tier.
So a move costs as much to price as it touches, whatever the graph's size, and by the definition of the
cost: a cheaper direct device–cloud link included. A vertex moves with its *closure*, the ancestors
that would stand behind it or the descendants that would stand before it, so that a plan stays monotone.
This module must not know in which order moves are tried, but for `settle`: at the boundaries, until
nothing improves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from d3bed.plan.cuts import Costs, Shape

__all__ = ["Placement"]

#: An improvement of less than this part of the cost is rounding.
_ROUNDING = 1e-12


class Placement:
    """A plan, as the rank of every vertex, and its cost."""

    def __init__(self, shape: Shape, costs: Costs, rank: list[int]) -> None:
        self.shape, self.rank = shape, rank
        self.price(costs)
        #: Readers per vertex on rank 1 and 2; results per rank.
        self.edge_readers, self.cloud_readers = shape.readers_on(rank)
        self.results = [0, 0, 0]
        for v in shape.sinks:
            self.results[rank[v]] += 1
        self.cost_s = self.total_s()
        self.seen: set[int] = set()

    def price(self, costs: Costs) -> None:
        """Take the prices of another problem on the same graph; `cost_s` is the caller's to mend."""
        self.costs = costs
        self.unary, self.near, self.far, self.alone, self.both = costs.lists
        self.back = costs.back
        self.highest = len(costs.tiers) - 1

    def total_s(self) -> float:
        """The cost, added up anew."""
        unary = self.unary
        times_s = sum([unary[r][v] for v, r in enumerate(self.rank)])
        return times_s + self.crossings_s(self.crossing()) + self.back_s()

    def crossing(self) -> list[int]:
        """The vertices whose tensor crosses a link."""
        edge, cloud = self.edge_readers, self.cloud_readers
        return [v for v, r in enumerate(self.rank) if r < 2 and (cloud[v] or (edge[v] and not r))]

    def crossings_s(self, crossing: Iterable[int]) -> float:
        """What their crossings cost."""
        rank, edge, cloud = self.rank, self.edge_readers, self.cloud_readers
        return sum([self._tensor_s(v, rank[v], edge[v], cloud[v]) for v in crossing])

    def back_s(self) -> float:
        """What the result's way back costs."""
        return self.back[self._latest(self.results)]

    def _tensor_s(self, v: int, rank: int, edge_readers: int, cloud_readers: int) -> float:
        """What the crossings of a vertex's tensor cost."""
        if rank == 0:
            if cloud_readers:
                return self.both[v] if edge_readers else self.alone[v]
            return self.near[v] if edge_readers else 0.0
        return self.far[v] if rank == 1 and cloud_readers else 0.0

    @staticmethod
    def _latest(results: list[int]) -> int:
        return 2 if results[2] else 1 if results[1] else 0

    @property
    def splits(self) -> bool:
        """Whether it uses more than one tier, the input's apart."""
        return len(set(self.rank[1:])) > 1

    # ── closures ──────────────────────────────────────────────────────────────────────────────────

    def later(self, start: Iterable[int], target: int, limit: int) -> list[int] | None:
        """These vertices and the descendants that must go with them to rank `target`, if not too many."""
        rank, after = self.rank, self.shape.successors
        found = [v for v in start if rank[v] < target]
        inside = set(found)
        for v in found:
            for w in after[v]:
                if rank[w] < target and w not in inside:
                    inside.add(w)
                    found.append(w)
            if len(found) > limit:
                return None
        return found

    def earlier(self, start: Iterable[int], target: int, limit: int) -> list[int] | None:
        """These vertices and the ancestors that must go with them to rank `target`, if not too many."""
        rank, before = self.rank, self.shape.predecessors
        found = [v for v in start if rank[v] > target]
        inside = set(found)
        for v in found:
            for u in before[v]:
                if rank[u] > target and u not in inside:
                    inside.add(u)
                    found.append(u)
            if len(found) > limit:
                return None
        return found

    # ── moves ─────────────────────────────────────────────────────────────────────────────────────

    def change_s(self, group: Sequence[int], target: int) -> float:
        """What the cost would change by if a closed `group` moved to rank `target`."""
        rank, to = self.rank, self.unary[target]
        inside = set(group)
        readers: dict[int, list[int]] = {}
        total = 0.0
        results = None
        for v in group:
            here = rank[v]
            total += to[v] - self.unary[here][v]
            for u in self.shape.predecessors[v]:
                counts = readers.get(u)
                if counts is None:
                    counts = readers[u] = [0, self.edge_readers[u], self.cloud_readers[u]]
                counts[here] -= 1
                counts[target] += 1
            if not self.shape.successors[v]:
                if results is None:
                    results = self.results.copy()
                results[here] -= 1
                results[target] += 1
        for v in group:
            edge, cloud = self.edge_readers[v], self.cloud_readers[v]
            if edge or cloud:
                total -= self._tensor_s(v, rank[v], edge, cloud)
            counts = readers.get(v)
            if counts is not None:
                edge, cloud = counts[1], counts[2]
            if edge or cloud:
                total += self._tensor_s(v, target, edge, cloud)
        for u, (_, edge, cloud) in readers.items():
            if u not in inside:
                r = rank[u]
                if r < 2:
                    total += self._tensor_s(u, r, edge, cloud)
                    total -= self._tensor_s(u, r, self.edge_readers[u], self.cloud_readers[u])
        if results is not None:
            total += self.back[self._latest(results)] - self.back[self._latest(self.results)]
        return total

    def move(self, group: Sequence[int], target: int, change_s: float) -> None:
        """Move a closed group; `change_s` is what it changes the cost by."""
        for v in group:
            here, self.rank[v] = self.rank[v], target
            for u in self.shape.predecessors[v]:
                for r, step in ((here, -1), (target, 1)):
                    if r == 1:
                        self.edge_readers[u] += step
                    elif r == 2:
                        self.cloud_readers[u] += step
            if not self.shape.successors[v]:
                self.results[here] -= 1
                self.results[target] += 1
        self.cost_s += change_s

    def attempt(self, group: Sequence[int] | None, target: int) -> bool:
        """Move the group if that is cheaper, and allowed."""
        if not group:
            return False
        self.seen.update(group)
        change_s = self.change_s(group, target)
        if not change_s < -_ROUNDING * self.cost_s:
            return False
        if self.costs.limited:
            trial = self.rank.copy()
            for v in group:
                trial[v] = target
            if not self.costs.within_limits(trial):
                return False
        self.move(group, target, change_s)
        return True

    def boundary(self) -> list[int]:
        """Producers and readers of the tensors that cross, and the ends: the boundary of an empty tier."""
        rank, found = self.rank, {0, *self.shape.sinks}
        for v, before in enumerate(self.shape.predecessors):
            here = rank[v]
            for u in before:
                if rank[u] != here:
                    found.add(u)
                    found.add(v)
        return sorted(found)

    def settle(self, seeds: Iterable[int], limit: int = 8, reach: int = 1) -> int:
        """Closure and sibling moves outward from the seeds until nothing improves: how many vertices moved.

        Of the vertices that are tried, neighbours up to `reach` steps away are tried too; where
        something moves, its neighbours are tried (again). `limit` bounds a closure.
        """
        before, after = self.shape.predecessors, self.shape.successors
        far = {v: reach for v in seeds}
        queue = deque(far)
        waiting = set(queue)
        moved = 0

        def near(v: int, steps: int) -> None:
            for w in (*before[v], *after[v]):
                if far.get(w, -1) < steps:
                    far[w] = steps
                    if w not in waiting:
                        waiting.add(w)
                        queue.append(w)

        while queue:
            v = queue.popleft()
            waiting.discard(v)
            group = self._improve(v, limit)
            if group:
                moved += len(group)
                for w in group:
                    far[w] = reach
                    if w not in waiting:
                        waiting.add(w)
                        queue.append(w)
                    for x in (*before[w], *after[w]):
                        far[x] = -1
                    near(w, reach - 1)
            elif far[v] > 0:
                near(v, far[v] - 1)
        return moved

    def _improve(self, v: int, limit: int) -> Sequence[int]:
        """Move `v` and its closure, or its readers and theirs, if any such move is cheaper."""
        here, readers = self.rank[v], self.shape.successors[v]
        for target in range(self.highest + 1):
            if target > here:
                group = self.later((v,), target, limit)
            elif target < here:
                group = self.earlier((v,), target, limit)
            else:
                group = None
            if group and self.attempt(group, target):
                return group
        if len(readers) > 1:
            for target in range(here, self.highest + 1):
                for find in (self.earlier, self.later):
                    group = find(readers, target, limit)
                    if group and self.attempt(group, target):
                        return group
        if len(readers) > 2:
            for target in range(here + 1, self.highest + 1):
                group = self._worthwhile(v, target, limit)
                if group and self.attempt(group, target):
                    return group
        return ()

    def _worthwhile(self, v: int, target: int, limit: int) -> list[int] | None:
        """The closures of those readers that would gain by moving if the tensor of `v`, and the result,
        crossed anyway."""
        edge, cloud = self.edge_readers[v], self.cloud_readers[v]
        reached = (edge or target == 1, cloud or target == 2)
        crossing_s = self._tensor_s(v, self.rank[v], *map(int, reached))
        crossing_s -= self._tensor_s(v, self.rank[v], edge, cloud)
        back_s = self.back[target] - self.back[self._latest(self.results)]
        if crossing_s <= 0 >= back_s:
            return None
        start: list[int] = []
        for w in self.shape.successors[v]:
            group = self.later((w,), target, limit)
            if not group:
                continue
            ends = back_s > 0 and any(not self.shape.successors[x] for x in group)
            if self.change_s(group, target) < crossing_s + ends * back_s:
                start.append(w)
        return self.later(start, target, 2 * limit)
