"""Names of the ways of tiling; `choose` holds what each may do, and its paper."""

from __future__ import annotations

__all__ = ["METHODS"]

METHODS: dict[str, str] = {
    "vsm": "blocks in tiles or shares of channels, exchanged between them",
    "aofl": "fused blocks, gathered after each",
    "deepthings": "one fused block in a grid, gathered at its end",
    "modnn": "one layer at a time in strips, gathered after each",
}
