// Zooming and dragging a drawing: by buttons, by + − 0, by Ctrl or pinch and wheel, by dragging once zoomed.
// A wheel alone scrolls the page, as everywhere.

import { set } from "./dom.js";

const MOST = 8;
const STEP = 1.4;

// The part of a drawing of `width` × `height` that is seen at a zoom, around a centre, kept inside.
export const seen = (width, height, scale, [x, y]) => {
  const [w, h] = [width / scale, height / scale];
  const left = Math.min(width - w, Math.max(0, x - w / 2));
  const top = Math.min(height - h, Math.max(0, y - h / 2));
  return [left, top, w, h];
};

// `buttons`: {near, far, fit}.
export const createZoom = (canvas, buttons) => {
  let [width, height, scale, centre] = [0, 0, 1, [0, 0]];
  let drag = null;
  let anchor = null; // what was looked for last stays in sight

  const apply = () => {
    const [left, top, w, h] = seen(width, height, scale, centre);
    centre = [left + w / 2, top + h / 2];
    set(canvas, { viewBox: width ? [left, top, w, h].map((n) => +n.toFixed(1)).join(" ") : null });
    set(canvas, { "data-zoomed": scale > 1 ? true : null });
    set(buttons.far, { disabled: scale <= 1 });
    set(buttons.near, { disabled: scale >= MOST || !width });
    set(buttons.fit, { disabled: scale <= 1 });
  };
  const by = (factor, around = centre) => {
    const next = Math.min(MOST, Math.max(1, scale * factor));
    // What is under the pointer stays there.
    centre = centre.map((c, n) => around[n] + ((c - around[n]) * scale) / next);
    scale = next;
    apply();
  };
  const fit = () => {
    [scale, anchor] = [1, null];
    apply();
  };
  const point = (event) => {
    const box = canvas.getBoundingClientRect();
    const [left, top, w, h] = seen(width, height, scale, centre);
    return [left + ((event.clientX - box.left) / box.width) * w, top + ((event.clientY - box.top) / box.height) * h];
  };

  // Around what was looked for, or the middle of what is seen where the drawing is larger than its card.
  const step = (factor) => {
    const { left, top, width: w, height: h } = canvas.parentNode.getBoundingClientRect();
    by(factor, anchor ?? point({ clientX: left + w / 2, clientY: top + h / 2 }));
  };

  buttons.near.addEventListener("click", () => step(STEP));
  buttons.far.addEventListener("click", () => step(1 / STEP));
  buttons.fit.addEventListener("click", fit);
  canvas.addEventListener("keydown", (event) => {
    const act = { "+": () => step(STEP), "=": () => step(STEP), "-": () => step(1 / STEP), 0: fit }[event.key];
    if (!act || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    act();
  });
  canvas.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      by(event.deltaY < 0 ? 1.15 : 1 / 1.15, point(event));
    },
    { passive: false },
  );
  canvas.addEventListener("pointerdown", (event) => {
    if (scale > 1 && event.button === 0) drag = { at: [event.clientX, event.clientY], centre, id: event.pointerId };
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!drag || event.pointerId !== drag.id) return;
    if (!canvas.hasPointerCapture(drag.id)) canvas.setPointerCapture(drag.id);
    anchor = null;
    const box = canvas.getBoundingClientRect();
    const [, , w, h] = seen(width, height, scale, centre);
    centre = [
      drag.centre[0] - ((event.clientX - drag.at[0]) / box.width) * w,
      drag.centre[1] - ((event.clientY - drag.at[1]) / box.height) * h,
    ];
    apply();
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => (drag = null));
  apply();

  return {
    // Where in the drawing an event is.
    point,
    // The drawing is now this large; a new one is seen whole.
    of: (w, h) => {
      if (w !== width || h !== height) [scale, centre, anchor] = [1, [w / 2, h / 2], null];
      [width, height] = [w, h];
      apply();
    },
    // Bring a point into view.
    show: (x, y) => {
      anchor = [x, y];
      const [left, top, w, h] = seen(width, height, scale, centre);
      if (x < left || x > left + w || y < top || y > top + h) {
        centre = [x, y];
        apply();
      }
    },
  };
};
