// Tiled blocks: a small map each, cut as it is computed, with the number of the agent in every tile.

import "./apart.js";
import { html, say, set, svg } from "./dom.js";
import { bytes, duration, text } from "./format.js";

const SIZE = 60;

// [0, 28, 56] → [[0, 0.5], [0.5, 0.5]]: start and length of each band, as shares.
export const bands = (cuts) => {
  const whole = cuts.at(-1);
  return cuts.slice(1).map((end, n) => [cuts[n] / whole, (end - cuts[n]) / whole]);
};

// The agents in order of their first tile: the first one is number 1.
export const numbered = (tiles) => [...new Set(tiles.flatMap((block) => block.agents))];

const map = (block, agents) => {
  const drawing = svg("svg", {
    viewBox: `0 0 ${SIZE} ${SIZE}`,
    width: SIZE,
    height: SIZE,
    role: "img",
    "aria-label": `${block.grid.join(" × ")} tiles on ${[...new Set(block.agents)].join(", ")}`,
  });
  bands(block.rows).forEach(([top, height], row) =>
    bands(block.columns).forEach(([left, width], column) => {
      const agent = block.agents[row * (block.columns.length - 1) + column];
      const number = agents.indexOf(agent);
      drawing.append(
        svg(
          "g",
          {},
          say(svg("title"), `row ${row + 1}, column ${column + 1}: ${agent}`),
          svg("rect", {
            class: "tile",
            x: left * SIZE,
            y: top * SIZE,
            width: width * SIZE,
            height: height * SIZE,
            "fill-opacity": 0.9 - 0.6 * (number / Math.max(1, agents.length - 1)),
          }),
          say(
            svg("text", {
              class: "tile-number",
              x: (left + width / 2) * SIZE,
              y: (top + height / 2) * SIZE,
            }),
            String(number + 1),
          ),
        ),
      );
    }),
  );
  return drawing;
};

// Vertex numbers of a tiled block, by the names in which it is told: "features.3 … features.5".
export const tiledVertices = (graph, block) => {
  const [first, last] = [block.block.split(" … ")[0], block.block.split(" … ").at(-1)].map((name) =>
    graph.vertices.findIndex((vertex) => vertex.name === name.trim()),
  );
  return first < 0 || last < first ? [] : Array.from({ length: last - first + 1 }, (_, n) => first + n);
};

// What goes around the tiled vertices of a graph, in each of its rows: `place` has its geometry.
export const tiledFrames = (tiles, graph, place, rowOf) =>
  tiles.flatMap((block) => {
    const inside = tiledVertices(graph, block).map((v) => graph.vertices[v]);
    if (!inside.length) return [];
    const byRow = new Map();
    for (const { x, y } of inside) {
      const row = rowOf(y);
      const box = byRow.get(row) ?? { left: Infinity, right: -Infinity, top: Infinity, bottom: -Infinity };
      byRow.set(row, {
        left: Math.min(box.left, x),
        right: Math.max(box.right, x),
        top: Math.min(box.top, y),
        bottom: Math.max(box.bottom, y),
      });
    }
    const who = [...new Set(block.agents)].join(", ");
    const grid = block.grid.join("×");
    return [...byRow.values()].map((box, n) => {
      const pad = place.r + 5;
      const [x, y] = [place.x(box.left) - pad, place.y(box.top) - pad];
      const wide = place.x(box.right) - place.x(box.left) + 2 * pad;
      const group = svg(
        "g",
        { class: "tiled" },
        say(svg("title"), `${block.block}: ${block.grid.join(" × ")} tiles on ${who}`),
        svg("rect", { x, y, width: wide, height: place.y(box.bottom) - place.y(box.top) + 2 * pad, rx: 6 }),
      );
      const below = place.y(box.bottom) + pad + (place.named ? 34 : 11);
      const words = wide > 66 + 6 * who.length ? `${grid} tiles: ${who}` : `${grid}${wide > 54 ? " tiles" : ""}`;
      if (n === 0) group.append(say(svg("text", { x: x + wide / 2, y: below, "text-anchor": "middle" }), words));
      return group;
    });
  });

const described = (block) => {
  const more = block.redundancy - 1;
  const parts = [
    block.grid.join(" × "),
    `${bytes(block.exchanged_bytes)} exchanged`,
    more > 0.005 ? `${(more * 100).toFixed(0)} % computed twice` : "nothing computed twice",
  ];
  if (block.fallbacks) parts.push(`${block.fallbacks} layers on whole maps to stay exact`);
  return parts.join(" · ");
};

export const createTiles = ({ card, list, caption, legend }) => {
  let shown = null;
  return (pipeline) => {
    const tiles = pipeline?.tiles ?? [];
    if (tiles === shown) return;
    shown = tiles;
    set(card, { hidden: !tiles.length });
    const agents = numbered(tiles);
    const parts = new Map(tiles.map((block) => [block.part, block.predicted_s]));
    say(
      caption,
      [...parts].map(([part, seconds]) => `${text(part)}: predicted ${duration(seconds)}`).join("; ") +
        "; between blocks agents exchange only the rows and columns that the other needs",
    );
    list.replaceChildren(
      ...tiles.map((block) =>
        html(
          "li",
          { title: described(block) },
          map(block, agents),
          html("span", { class: "words" }, text(block.block)),
          html("span", { class: "muted" }, described(block)),
        ),
      ),
    );
    legend.replaceChildren(...agents.map((agent, n) => html("li", {}, `${n + 1} ${agent}`)));
  };
};
