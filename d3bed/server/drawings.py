"""Networks as they are drawn: each is laid out once and encoded once, however many pipelines run it.

Pure. With 167 pipelines of one network, its graph is a third of what there is to tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from d3bed.core.graph import Graph
from d3bed.server.views import GraphView, PipelineView, StateView, graph_view

__all__ = ["Drawings"]

#: The latest networks; one that is drawn again costs milliseconds.
_KEPT = 32
_encoder = msgspec.json.Encoder()


class _Drawing(NamedTuple):
    view: GraphView
    text: msgspec.Raw


class Drawings:
    """Of a whole server."""

    def __init__(self) -> None:
        self._known: dict[str, _Drawing] = {}

    def of(self, graph: Graph) -> GraphView:
        """Of equal graphs the same object."""
        found = self._known.get(graph.digest)
        if found is None:
            view = graph_view(graph)
            found = self._known[graph.digest] = _Drawing(view, msgspec.Raw(_encoder.encode(view)))
            if len(self._known) > _KEPT:
                del self._known[next(iter(self._known))]
        return found.view

    def spliced(self, pipelines: Iterable[PipelineView]) -> Sequence[PipelineView]:
        """Views that encode as these do, with graphs as the text that they become."""
        texts = {id(drawing.view): drawing.text for drawing in self._known.values()}
        return tuple(
            view
            if view.graph is None or id(view.graph) not in texts
            else msgspec.structs.replace(view, graph=texts[id(view.graph)])
            for view in pipelines
        )

    def spliced_state(self, state: StateView) -> StateView:
        return msgspec.structs.replace(state, pipelines=self.spliced(state.pipelines))
