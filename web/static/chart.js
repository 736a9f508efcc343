// Latency of the last frames in its parts, stacked, against what the planner predicted.

import "./apart.js";
import { html, onWidth, say, set, svg, swatch } from "./dom.js";
import { deviation, duration } from "./format.js";
import { ticks } from "./series.js";
import { TIERS, median, parts } from "./store.js";

const SHOWN = 100;
const HEIGHT = 264;
const EDGE = { left: 52, right: 10, top: 18, bottom: 22 };
// One slow frame must not flatten the others: bars end at this multiple of the usual latency.
const CLIP = 2;
const LATELY = 10;

export const PARTS = [...TIERS, "rest"];
export const PART_NAMES = {
  device: "device compute",
  edge: "edge compute",
  cloud: "cloud compute",
  rest: "transfer, waiting",
};

const bars = (frames, totals, x, y, slot, top) => {
  const below = frames.map(() => 0);
  return PARTS.map((_, part) =>
    frames
      .map((_, n) => {
        const from = Math.min(top, below[n]);
        below[n] += totals[n][part];
        const to = Math.min(top, below[n]);
        return to > from ? `M${x(n)} ${y(from)}V${y(to)}h${slot}V${y(from)}Z` : "";
      })
      .join(""),
  );
};

export const createChart = ({ canvas, numbers, caption }) => {
  let width = 0;
  let last = {};

  const draw = () => {
    const { frames = [], predicted = new Map() } = last;
    canvas.replaceChildren();
    if (!width) return;
    set(canvas, { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}` });
    if (!frames.length) {
      canvas.append(
        say(
          svg("text", { class: "empty", x: width / 2, y: HEIGHT / 2, "text-anchor": "middle" }),
          "no frames yet",
        ),
      );
      set(canvas, { "aria-label": "Latency per frame: no frames yet" });
      return;
    }
    const totals = frames.map(parts);
    const sums = totals.map((each) => each.reduce((sum, s) => sum + s, 0));
    const expected = frames.map((frame) => predicted.get(frame.epoch) ?? null);
    const usual = Math.max(median(sums), median(sums.slice(-LATELY)));
    const scale = ticks(Math.min(Math.max(...sums, ...expected), CLIP * usual) || 1e-3);
    const top = scale.at(-1);
    const slot = (width - EDGE.left - EDGE.right) / SHOWN;
    const x = (n) => +(width - EDGE.right - (frames.length - n) * slot).toFixed(1);
    const y = (s) => +(HEIGHT - EDGE.bottom - (s / top) * (HEIGHT - EDGE.top - EDGE.bottom)).toFixed(1);

    for (const s of scale)
      canvas.append(
        svg("path", { class: "grid", d: `M${EDGE.left} ${y(s)}H${width - EDGE.right}` }),
        say(
          svg("text", { class: "tick", x: EDGE.left - 6, y: y(s) + 4, "text-anchor": "end" }),
          s ? duration(s) : "0",
        ),
      );
    const wide = Math.max(1, slot - (slot > 5 ? 1 : 0));
    bars(frames, totals, x, y, +wide.toFixed(1), top).forEach((d, part) =>
      canvas.append(svg("path", { class: "bar", d, fill: `url(#paint-${PARTS[part]})` })),
    );
    let line = "";
    frames.forEach((frame, n) => {
      if (sums[n] > top)
        canvas.append(
          svg("path", {
            class: "clipped",
            d: `M${x(n) - 1} ${EDGE.top - 2}l${wide / 2 + 1} -6l${wide / 2 + 1} 6Z`,
          }),
        );
      if (frame.identical === false && frame.max_rel_err !== 0)
        canvas.append(
          say(
            svg("text", { class: "inexact", x: x(n) + wide / 2, y: EDGE.top - 6, "text-anchor": "middle" }),
            "≠",
          ),
        );
      if (expected[n] !== null)
        line += `${line && expected[n - 1] !== null ? "L" : "M"}${x(n)} ${y(Math.min(top, expected[n]))}h${slot.toFixed(1)}`;
      if (n && frames[n - 1].epoch !== frame.epoch)
        canvas.append(
          svg("path", { class: "switch", d: `M${x(n)} ${EDGE.top - 8}V${HEIGHT - EDGE.bottom}` }),
          say(svg("text", { class: "tick", x: x(n) + 3, y: EDGE.top - 6 }), `epoch ${frame.epoch}`),
        );
    });
    canvas.append(
      svg("path", { class: "predicted", d: line || null }),
      say(
        svg("text", { class: "tick", x: width - EDGE.right, y: HEIGHT - 6, "text-anchor": "end" }),
        "latest",
      ),
      say(svg("text", { class: "tick", x: EDGE.left, y: HEIGHT - 6 }), `last ${SHOWN} frames`),
    );
    const newest = frames.at(-1);
    set(canvas, {
      "aria-label": `Latency per frame, stacked by part. Latest: ${duration(newest.latency_s)}.`,
    });
  };

  onWidth(canvas.parentNode, (w) => {
    width = w;
    draw();
  });

  // Medians are over this epoch's frames: across a switch they would mean nothing.
  const tell = (pipeline, frames, epochs, slowed) => {
    const newest = frames.at(-1);
    const lastParts = newest ? parts(newest) : [];
    const epoch = epochs.find((each) => each.epoch === pipeline?.epoch);
    const current = frames.filter((frame) => frame.epoch === epoch?.epoch).map(parts);
    const predicted = pipeline?.predicted;
    const row = (name, mark, ...cells) =>
      html(
        "tr",
        {},
        html("th", { scope: "row" }, ...(mark ? [mark] : []), name),
        ...cells.map((s) => html("td", {}, duration(s))),
      );
    numbers.replaceChildren(
      ...PARTS.map((part, n) =>
        row(
          PART_NAMES[part],
          swatch(part),
          lastParts[n],
          median(current.map((each) => each[n])),
          predicted?.compute_s?.[part],
        ),
      ),
      row("latency", null, newest?.latency_s, epoch?.measured_s, predicted?.latency_s),
    );
    const held = slowed ? "Compute times include emulated slowness." : "";
    const off = epoch?.measured_s && epoch.predicted_s ? epoch.measured_s / epoch.predicted_s - 1 : null;
    const judged = off === null ? "" : `Epoch ${epoch.epoch} is ${deviation(off)} off its prediction. `;
    say(caption, judged + held);
  };

  return (pipeline, frames, epochs, slowed) => {
    if (
      pipeline === last.pipeline &&
      frames === last.frames &&
      epochs === last.epochs &&
      slowed === last.slowed
    )
      return;
    const predicted = new Map(epochs.map((epoch) => [epoch.epoch, epoch.predicted_s]));
    last = { pipeline, frames, epochs, slowed, predicted };
    draw();
    tell(pipeline, frames, epochs, slowed);
  };
};
