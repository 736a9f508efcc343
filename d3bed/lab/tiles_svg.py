"""A block's tiles as a picture: what each agent reads and makes, drawn over a photo."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from d3bed.core.errors import ConfigError
from d3bed.core.regions import ALL, Region
from d3bed.core.tiles import Tiling, tiling
from d3bed.lab.tiling import Sharing, TiledRow

if TYPE_CHECKING:
    from d3bed.core.graph import Graph, Value

__all__ = ["draw", "tiles_svg"]

#: Told apart also by people who see colours otherwise; tiles carry their agent's name as well.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999")
_INK, _MUTED, _PAPER = "#1d2733", "#66717f", "#ffffff"

#: Pixels: the photo's longer side, what is left around it, and lines of words above and below.
_PHOTO, _MARGIN, _HEAD, _FOOT = 420.0, 28.0, 96.0, 64.0


def draw(sharing: Sharing, block: int, photo: Path | None, path: Path) -> str:
    """Write the picture of one block (counted from 1); returns what was drawn, in words.

    Raises `ConfigError` if there is no such block, the photo cannot be read or the file not written.
    """
    way = sharing.ways[0]
    if not way.rows:
        reason = "; ".join(choice.reason for choice in way.choices) or "no layer can be tiled"
        raise ConfigError("tiles", "", f"nothing is tiled: {reason}", "try more --edges or another --network")
    if block > len(way.rows):
        raise ConfigError("--block", str(block), f"there are {len(way.rows)} blocks", "use one of these")
    row = way.rows[block - 1]
    text = tiles_svg(sharing.graph, row, _embedded(sharing.graph, photo), f"{sharing.about}, block {block}")
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError("--svg", str(path), f"{error.strerror}", "choose another place") from error
    return f"block {block} of {len(way.rows)}, {row.layers}, in {row.tiled.grid} tiles: drawn in {path}"


def _embedded(graph: Graph, photo: Path | None) -> str:
    """A photo as the model gets it, as a data URL."""
    from PIL import Image

    from d3bed.model.images import decode, shipped

    _, _, height, width = graph.vertices[0].outputs[0].shape
    pixels = decode(photo or shipped()[0], height, width)[0].permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def tiles_svg(graph: Graph, row: TiledRow, photo: str, about: str) -> str:
    """SVG text: on the left what tiles read of each of the block's sources, on the right what they make."""
    return _Picture(graph, row, photo).document(about)


class _Picture:
    def __init__(self, graph: Graph, row: TiledRow, photo: str) -> None:
        self.graph, self.row, self.photo = graph, row, photo
        self.made: Tiling = tiling(graph, row.tiled.block, row.tiled.grid)
        agents = list(dict.fromkeys(row.tiled.agents))
        self.colours = [_COLOURS[agents.index(agent) % len(_COLOURS)] for agent in row.tiled.agents]
        height, width = graph.vertices[0].outputs[0].shape[2:]
        self.scale = _PHOTO / max(height, width)
        self.width, self.height = width * self.scale, height * self.scale

    def document(self, about: str) -> str:
        panels = len(self.row.tiled.block.sources) + 1
        width, height = panels * (self.width + _MARGIN) + _MARGIN, self.height + _HEAD + _FOOT
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="system-ui, sans-serif" font-size="13" '
            f'fill="{_INK}">\n<title>{escape(about)}</title>\n'
            '<defs><pattern id="shared" width="7" height="7" patternUnits="userSpaceOnUse" '
            'patternTransform="rotate(45)"><path d="M0 0V7" stroke="#fff" stroke-width="3"/></pattern>'
            f'<image id="photo" href="{self.photo}" width="{self.width:.1f}" height="{self.height:.1f}"/>'
            f'</defs>\n<rect width="100%" height="100%" fill="{_PAPER}"/>\n'
            + "\n".join(self._parts(about))
            + "\n</svg>\n"
        )

    def _parts(self, about: str) -> Iterator[str]:
        row, block = self.row, self.row.tiled.block
        yield _text(_MARGIN, 28, row.layers, font_size=17, font_weight=600)
        yield _text(_MARGIN, 49, about, fill=_MUTED)
        left = right = _MARGIN
        for source, *takes in zip(block.sources, *self.made.takes, strict=True):
            yield _text(right, _HEAD - 12, f"read: {self._named(source, takes)}", font_weight=600)
            yield from self._panel(right, source, takes, shared=True)
            right += _MARGIN + self.width
        yield _text(right, _HEAD - 12, f"made: {self._named(block.sink, self.made.makes)}", font_weight=600)
        yield from self._panel(right, block.sink, self.made.makes, shared=False)
        below = _HEAD + self.height + 24
        yield f'<rect x="{left}" y="{below - 11:.1f}" width="26" height="14" fill="{_MUTED}"/>'
        yield f'<rect x="{left}" y="{below - 11:.1f}" width="26" height="14" fill="url(#shared)"/>'
        yield _text(left + 34, below, "read by more than one tile: halos")
        figures = (
            f"{row.redundancy - 1:.1%} computed twice · {row.taken_bytes / 1e3:.0f} kB from other agents"
        )
        if row.gathered_bytes:
            figures += f" · {row.gathered_bytes / 1e3:.0f} kB gathered"
        yield _text(left, below + 22, figures, fill=_MUTED)
        yield _text(right, below, "Maps are laid over the photo, whatever their size.", fill=_MUTED)

    def _named(self, value: Value, regions: list[Region]) -> str:
        _, channels, height, width = self.graph.spec(value).shape
        words = f"{self.graph.vertices[value.vertex].name}, {width}×{height}"
        return words + f", {channels} channels, side by side" * any(r.channels != ALL for r in regions)

    def _panel(self, left: float, value: Value, regions: list[Region], shared: bool) -> Iterator[str]:
        yield f'<g transform="translate({left:.1f} {_HEAD:.1f})"><use href="#photo"/>'
        size = self.graph.spec(value).shape[1:]
        held: dict[Region, list[str]] = {}
        for region, agent in zip(regions, self.row.tiled.agents, strict=True):
            held.setdefault(region, []).append(agent)
        for region, colour in zip(regions, self.colours, strict=True):
            yield self._rectangle(size, region, f'fill="{colour}" fill-opacity="{0.32 / len(held[region])}"')
        if shared:
            for one, other in itertools.combinations(held, 2):
                if both := one.overlap(other):
                    yield self._rectangle(size, both, 'fill="url(#shared)" fill-opacity="0.75"')
        for region, colour in zip(regions, self.colours, strict=True):
            yield self._rectangle(size, region, f'fill="none" stroke="{colour}" stroke-width="3"', inset=1.5)
        for region, agents in held.items():
            x, y, width, height = self._place(size, region)
            words = [", ".join(agents), f"{region.columns.length}×{region.rows.length}"]
            if region.channels != ALL:
                words[1] = f"{region.channels.start}–{region.channels.stop - 1}"
            for line, word in enumerate(words if height > 40 else [" ".join(words)]):
                yield _text(
                    x + width / 2,
                    y + height / 2 + 5 + (line * 18 - 9 if height > 40 else 0),
                    word,
                    text_anchor="middle",
                    font_weight=600 if line == 0 else 400,
                    stroke=_PAPER,
                    stroke_width=4,
                    paint_order="stroke",
                )
        yield "</g>"

    def _place(self, size: tuple[int, ...], region: Region) -> tuple[float, float, float, float]:
        """x, y, width and height over the photo, of a region of a map of `size` (channels, height, width).
        Channels lie behind each other; shares of them are drawn side by side."""
        across, down = self.width / size[2], self.height / size[1]
        x, width = region.columns.start * across, region.columns.length * across
        if region.channels != ALL:
            x += width * region.channels.start / size[0]
            width *= region.channels.length / size[0]
        return x, region.rows.start * down, width, region.rows.length * down

    def _rectangle(self, size: tuple[int, ...], region: Region, style: str, inset: float = 0.0) -> str:
        x, y, width, height = self._place(size, region)
        return (
            f'<rect x="{x + inset:.1f}" y="{y + inset:.1f}" width="{max(0.0, width - 2 * inset):.1f}" '
            f'height="{max(0.0, height - 2 * inset):.1f}" {style}/>'
        )


def _text(x: float, y: float, words: str, **attributes: str | float) -> str:
    given = "".join(f' {key.replace("_", "-")}="{value}"' for key, value in attributes.items())
    return f'<text x="{x:.1f}" y="{y:.1f}"{given}>{escape(words)}</text>'
