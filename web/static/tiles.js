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

// "2 × 2 tiles", or "4 shares of the channels".
const divided = (block) => {
  const grid = block.grid.join(" × ");
  const shares = block.channels.length - 1;
  if (shares < 1) return `${grid} tiles`;
  return (block.grid.some((n) => n > 1) ? `${grid} tiles in ` : "") + `${shares} shares of the channels`;
};

const map = (block, agents) => {
  const drawing = svg("svg", {
    viewBox: `0 0 ${SIZE} ${SIZE}`,
    width: SIZE,
    height: SIZE,
    role: "img",
    "aria-label": `${divided(block)} on ${[...new Set(block.agents)].join(", ")}`,
  });
  const { channels } = block;
  const cells = bands(block.rows).flatMap((down) => bands(block.columns).map((across) => [down, across]));
  // Channels lie behind each other: shares of them are leaning slices of their cell.
  const shares = channels.length ? bands(channels) : [[0, 1]];
  block.agents.forEach((agent, n) => {
    const [[top, height], [left, width]] = cells[Math.floor(n / shares.length)];
    const k = n % shares.length;
    const lean = channels.length ? (width * SIZE) / 6 : 0;
    const at = (share) => left * SIZE + lean + share * (width * SIZE - lean);
    const [from, to] = [at(shares[k][0]), at(shares[k][0] + shares[k][1])];
    const [y, low] = [top * SIZE, (top + height) * SIZE];
    const number = agents.indexOf(agent);
    const where = channels.length
      ? `channels ${channels[k]}–${channels[k + 1] - 1}`
      : `row ${Math.floor(n / block.grid[1]) + 1}, column ${(n % block.grid[1]) + 1}`;
    drawing.append(
      svg(
        "g",
        {},
        say(svg("title"), `${where}: ${agent}`),
        svg("polygon", {
          class: "tile",
          points: `${from},${y} ${to},${y} ${to - lean},${low} ${from - lean},${low}`,
          "fill-opacity": 0.9 - 0.6 * (number / Math.max(1, agents.length - 1)),
        }),
        say(
          svg("text", { class: "tile-number", x: (from + to - lean) / 2, y: (y + low) / 2 }),
          String(number + 1),
        ),
      ),
    );
  });
  return drawing;
};

// What goes around the tiled vertices of a graph, in each of its rows: `place` has its geometry.
export const tiledFrames = (tiles, graph, place, rowOf) =>
  tiles.flatMap((block) => {
    const inside = block.vertices.map((v) => graph.vertices[v]).filter(Boolean);
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
    return [...byRow.values()].map((box, n) => {
      const pad = place.r + 5;
      const [x, y] = [place.x(box.left) - pad, place.y(box.top) - pad];
      const wide = place.x(box.right) - place.x(box.left) + 2 * pad;
      const group = svg(
        "g",
        { class: "tiled" },
        say(svg("title"), `${block.block}: ${divided(block)} on ${who}`),
        svg("rect", { x, y, width: wide, height: place.y(box.bottom) - place.y(box.top) + 2 * pad, rx: 6 }),
      );
      const below = place.y(box.bottom) + pad + (place.named ? 34 : 11);
      const some = block.channels.length ? `${block.agents.length} shares` : `${block.grid.join("×")} tiles`;
      const words = wide > 66 + 6 * who.length ? `${some}: ${who}` : wide > 54 ? some : some.split(" ")[0];
      if (n === 0) group.append(say(svg("text", { x: x + wide / 2, y: below, "text-anchor": "middle" }), words));
      return group;
    });
  });

const described = (block) => {
  const more = block.redundancy - 1;
  const parts = [
    divided(block),
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
        "; between blocks agents exchange only what of the map the other needs",
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
