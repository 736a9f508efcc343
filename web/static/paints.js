// Colours and textures for canvases, the same as those of the page: read from its style, again when the
// scheme changes.

const TEXTURES = { device: null, edge: "stripes", cloud: "dots", transfer: null, queue: "bars", wait: null };

let known = null;
let patterns = new WeakMap(); // context → part → what it is filled with

const read = () => {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const names = ["device", "edge", "cloud", "rest", "text", "muted", "line", "accent", "warn", "good", "card"];
  const found = Object.fromEntries(names.map((name) => [name, colour(name)]));
  return { ...found, transfer: found.rest, queue: found.warn, wait: found.line, texture: colour("texture") };
};

export const paints = () => (known ??= read());

// Calls `draw` after the colour scheme changed.
export const onScheme = (draw) =>
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    known = null;
    patterns = new WeakMap();
    draw();
  });

// What a canvas fills an area of this part with: its colour, with a texture where it has one.
export const fillOf = (context, part) => {
  if (!patterns.has(context)) patterns.set(context, {});
  return (patterns.get(context)[part] ??= made(context, part));
};

const made = (context, part) => {
  const kind = TEXTURES[part];
  const colours = paints();
  if (!kind) return colours[part];
  const tile = new OffscreenCanvas(6, 6);
  const pen = tile.getContext("2d");
  pen.fillStyle = colours[part];
  pen.fillRect(0, 0, 6, 6);
  pen.fillStyle = pen.strokeStyle = colours.texture;
  if (kind === "dots") pen.fillRect(2, 2, 2, 2);
  else if (kind === "bars") pen.fillRect(0, 0, 1.5, 6);
  else {
    pen.lineWidth = 1.4;
    for (const shift of [-6, 0, 6]) {
      pen.beginPath();
      pen.moveTo(shift, 6);
      pen.lineTo(shift + 6, 0);
      pen.stroke();
    }
  }
  return context.createPattern(tile, "repeat");
};
