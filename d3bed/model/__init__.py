"""The network as something that runs: loaded, exported to a graph, cut into callables.

`load` gives a `LoadedModel` (the undivided eager module and its `Graph`), `compile_step` turns any set
of its vertices into one function, `to_wire` and `from_wire` take tensors to bytes and back with their
strides. Knows torch; knows nothing of plans' making, links or servers.
"""

from __future__ import annotations

from d3bed.core.models import ZOO
from d3bed.model.exact import PreparedTile, prepare_tiles, prepared_before
from d3bed.model.loading import LoadedModel, fingerprint, load, write_file
from d3bed.model.segment import compile_step
from d3bed.model.tensors import from_wire, relative_error, to_wire

__all__ = [
    "ZOO",
    "LoadedModel",
    "PreparedTile",
    "compile_step",
    "fingerprint",
    "from_wire",
    "load",
    "prepare_tiles",
    "prepared_before",
    "relative_error",
    "to_wire",
    "write_file",
]
