// Tiled blocks: a small map each, cut as it is computed, with the number of the agent in every tile.

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
