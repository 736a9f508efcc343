// The last frames across agents and links on one axis of time, and one of them in full.
//
// The canvas shows the newest frames as they come; a click, the arrow keys or the buttons choose one, which
// then stays. Chosen or not, one frame is shown below with its spans, its photo, its answer and whether it
// is exact.

import { html, onWidth, say, set, swatch } from "./dom.js";
import { duration, error, text } from "./format.js";
import { createGantt, rowsOf } from "./gantt.js";
import { fillOf, onScheme, paints } from "./paints.js";
import { PARTS, PART_NAMES, ticks } from "./series.js";
import { median } from "./store.js";

const ROW = 22;
const TOP = 6;
const AXIS = 20;
const SHOWN = 8; // about so many frames fit
const BAR = { compute: 14, transfer: 10, serialise: 14, queue: 5, wait: 2 };
const HOLD_MS = 1_000; // the newest frame stays below long enough to be read

const endOf = (frame) => frame.started_s + frame.latency_s;
const idOf = (frame) => frame && `${frame.run} ${frame.frame}`;

// What is drawn of `frames`: those that end within a window of about `SHOWN` latencies before the newest.
export const windowOf = (frames) => {
  const told = frames.filter((frame) => frame.spans?.length);
  const newest = told.at(-1);
  if (!newest) return null;
  const gaps = told.slice(1).map((frame, n) => frame.started_s - told[n].started_s);
  const usual = Math.max(median(told.slice(-20).map((frame) => frame.latency_s)), median(gaps.slice(-20)) ?? 0);
  const untilS = endOf(newest);
  const fromS = untilS - Math.min(30, Math.max(0.02, SHOWN * usual));
  return { fromS, untilS, frames: told.filter((frame) => endOf(frame) > fromS) };
};

// Which frame's bar is at (x, y); bars are [x, y, width, height, frame].
export const hit = (bars, x, y) =>
  bars.findLast(([left, top, wide, high]) => x >= left - 2 && x <= left + wide + 2 && y >= top - 2 && y <= top + high + 2)?.[4] ??
  null;

export const createFrames = (root) => {
  const find = (name) => root.querySelector(`[data-frames="${name}"]`);
  const canvas = find("canvas");
  const gantt = createGantt({ canvas: find("gantt"), caption: find("caption") });
  let width = 0;
  let frames = [];
  let pipeline = null;
  let chosen = null; // a frame that stays
  let pointed = null;
  let bars = [];
  let fills = null;
  let drawn = null;
  let detailed = null;
  let detailedMs = -Infinity;

  // ── the canvas ──────────────────────────────────────────────────────────────────────────────

  const paint = () => {
    if (!width) return;
    const view = windowOf(chosen && !frames.includes(chosen) ? [chosen] : frames);
    const rows = view ? rowsOf(view.frames.flatMap((frame) => frame.spans.map((span) => ({ ...span, frame })))) : [];
    const height = view ? TOP + rows.length * ROW + AXIS : 90;
    const dense = devicePixelRatio;
    if (canvas.width !== Math.round(width * dense) || canvas.height !== Math.round(height * dense)) {
      [canvas.width, canvas.height] = [Math.round(width * dense), Math.round(height * dense)];
      canvas.style.height = `${height}px`;
      fills = null;
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(dense, 0, 0, dense, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.font = "11px system-ui, sans-serif";
    const colours = paints();
    bars = [];
    if (!view) {
      pen.fillStyle = colours.muted;
      pen.textAlign = "center";
      pen.fillText("no frames yet", width / 2, 48);
      return;
    }
    fills ??= Object.fromEntries(PARTS.map((part) => [part, fillOf(pen, part)]));
    const names = rows.map((row) => row.label);
    const gutter = Math.min(width * 0.4, 16 + Math.max(...names.map((name) => pen.measureText(name).width)));
    const span = view.untilS - view.fromS;
    const x = (s) => gutter + ((s - view.fromS) / span) * (width - gutter - 12);

    pen.textAlign = "center";
    for (const back of ticks(span).filter((s) => s <= span)) {
      const at = x(view.untilS - back);
      pen.fillStyle = colours.line;
      pen.fillRect(at, TOP, 1, height - TOP - AXIS);
      pen.fillStyle = colours.muted;
      const words = back ? `−${duration(back)}` : "latest";
      pen.textAlign = back ? "center" : "right";
      if (at > gutter + 24) pen.fillText(words, back ? at : width - 4, height - 6);
    }
    const strong = pointed ?? chosen;
    rows.forEach((row, n) => {
      const top = TOP + n * ROW;
      pen.globalAlpha = 1;
      pen.fillStyle = row.link ? colours.muted : colours.text;
      pen.textAlign = "right";
      pen.fillText(row.label, gutter - 8, top + ROW / 2 + 4, gutter - 10);
      for (const each of row.spans) {
        const left = Math.max(gutter, x(each.start_s));
        const wide = Math.max(1, x(each.end_s) - left);
        if (x(each.end_s) < gutter) continue;
        const high = BAR[each.kind] ?? 8;
        const y = top + (ROW - high) / 2;
        pen.globalAlpha = strong && idOf(each.frame) !== idOf(strong) ? 0.25 : 1;
        const part = each.kind === "compute" ? each.tier : each.kind === "queue" ? "queue" : "transfer";
        pen.fillStyle = each.kind === "wait" || each.kind === "serialise" ? colours.muted : fills[part];
        const held = each.kind === "compute" ? wide * Math.min(1, (each.held_s ?? 0) / (each.end_s - each.start_s || 1)) : 0;
        pen.fillRect(left, y, Math.max(1, wide - held), high);
        if (held > 1) {
          pen.strokeStyle = colours[part];
          pen.setLineDash([3, 2]);
          pen.strokeRect(left + wide - held + 0.5, y + 2.5, held - 1, high - 5);
          pen.setLineDash([]);
        }
        bars.push([left, y, wide, high, each.frame]);
      }
    });
    pen.globalAlpha = 1;
    set(canvas, { "aria-label": `Spans of the last ${view.frames.length} frames over ${duration(span)}` });
  };

  // ── one frame ───────────────────────────────────────────────────────────────────────────────

  const judged = (frame) => {
    if (frame.identical === true) return "✓ bit-identical with the undivided network";
    if (frame.identical === false) return `≠ off by ${error(frame.max_rel_err)} of the largest value`;
    return "not compared with the undivided network";
  };

  const detail = (frame) => {
    detailed = frame;
    gantt(frame);
    const photo = find("photo");
    const known = frame && pipeline?.photos?.includes(frame.photo);
    const source = known
      ? `/api/pipelines/${encodeURIComponent(pipeline.id)}/photos/${encodeURIComponent(frame.photo)}`
      : null;
    if (photo.getAttribute("src") !== source) {
      set(photo, { src: source, alt: frame?.photo });
      say(find("photo-name"), frame ? text(frame.photo) : "");
      set(photo.parentNode, { hidden: !source });
    }
    set(find("detail"), { hidden: !frame });
    if (!frame) return;
    const top = frame.top?.length ? frame.top : [[text(frame.answer), null]];
    find("top").replaceChildren(
      ...top.map(([name, score]) =>
        html("li", {}, html("span", {}, name), html("span", { class: "muted" }, score === null ? "" : score.toPrecision(3))),
      ),
    );
    say(find("exact"), judged(frame));
    set(find("exact"), { class: frame.identical === true ? "fine" : frame.identical === false ? "flag" : "muted" });
    const sizes = PARTS.map((part) => [part, frame.parts_s?.[part] ?? 0]).filter(([, s]) => s > 0);
    find("shares").replaceChildren(
      ...sizes.map(([part, s]) => html("li", {}, swatch(part), `${PART_NAMES[part]} `, html("b", {}, duration(s)))),
      ...(frame.attempts > 1 ? [html("li", { class: "flag" }, `${frame.attempts} attempts`)] : []),
    );
    const run = encodeURIComponent(frame.run);
    set(find("trace"), {
      href: `/api/runs/${run}/frames/${frame.frame}/trace`,
      download: `${frame.run}-frame-${frame.frame}.json`,
    });
    set(find("trace-run"), { href: `/api/runs/${run}/trace`, download: `${frame.run}.json` });
  };

  // ── choosing ────────────────────────────────────────────────────────────────────────────────

  const choose = (frame) => {
    chosen = frame;
    set(find("follow"), { "aria-pressed": String(!frame) });
    detail(frame ?? frames.findLast((each) => each.spans?.length) ?? null);
    paint();
  };
  const step = (by) => {
    const told = frames.filter((frame) => frame.spans?.length);
    if (!told.length) return;
    const at = told.findIndex((frame) => idOf(frame) === idOf(chosen ?? told.at(-1)));
    choose(told[Math.max(0, Math.min(told.length - 1, (at < 0 ? told.length - 1 : at) + by))]);
  };
  find("older").addEventListener("click", () => step(-1));
  find("newer").addEventListener("click", () => step(1));
  find("follow").addEventListener("click", () => choose(null));
  canvas.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 }[event.key];
    if (by) step(by);
    else if (event.key === "Escape" || event.key === "End") choose(null);
    else return;
    event.preventDefault();
  });
  const at = (event) => hit(bars, event.offsetX, event.offsetY);
  canvas.addEventListener("click", (event) => {
    const frame = at(event);
    if (frame) choose(frame);
  });
  canvas.addEventListener("pointermove", (event) => {
    const frame = at(event);
    if (idOf(frame) === idOf(pointed)) return;
    pointed = frame;
    canvas.style.cursor = frame ? "pointer" : "";
    paint();
  });
  canvas.addEventListener("pointerleave", () => {
    pointed = null;
    paint();
  });
  onWidth(canvas.parentNode, (w) => {
    width = w;
    paint();
  });
  onScheme(() => {
    fills = null;
    paint();
  });

  return (now, its, nowMs, isSeen) => {
    if (its?.id !== pipeline?.id) chosen = null;
    [frames, pipeline] = [now, its];
    if (isSeen && frames !== drawn && !pointed) {
      drawn = frames;
      paint();
    }
    if (chosen) return;
    const newest = frames.findLast((frame) => frame.spans?.length) ?? null;
    if (newest === detailed || (newest && detailed && nowMs - detailedMs < HOLD_MS)) return;
    if (find("gantt").matches(":hover")) return;
    detailedMs = nowMs;
    detail(newest);
  };
};
