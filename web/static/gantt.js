// Who did what when for one frame: a row per agent and per link used, on one time axis.

import { onWidth, say, set, svg } from "./dom.js";
import { duration, text } from "./format.js";
import { TIERS } from "./store.js";
import { ticks } from "./series.js";

const ROW = 26;
const TOP = 6;
const AXIS = 22;

// Spans → rows [{label, tier, link, spans}] in the order of a frame's way: agents from device to cloud,
// each with its links onward, then the links that bring the result back.
export const rowsOf = (spans) => {
  const rows = new Map();
  const tiers = new Map(spans.map((span) => [span.agent, span.tier]));
  for (const span of spans) {
    if (span.kind === "tiled") continue; // it spans computing and sending of several agents
    const transfer = span.kind === "transfer";
    const among = transfer && tiers.get(span.peer) === span.tier; // pieces of tiles: one row for all of them
    const label = among
      ? `among ${span.tier} agents`
      : transfer
        ? `${span.agent} → ${text(span.peer)}`
        : span.agent;
    const row = rows.get(label) ?? { label, tier: span.tier, link: span.kind === "transfer", spans: [] };
    row.spans.push(span);
    rows.set(label, row);
  }
  const tierOf = new Map(spans.map((span) => [span.agent, TIERS.indexOf(span.tier)]));
  const rank = ({ tier, link, spans: [span] }) => {
    const here = TIERS.indexOf(tier);
    const back = link && (tierOf.get(span.peer) ?? Infinity) < here;
    return back ? 100 - here : here * 2 + (link ? 1 : 0);
  };
  return [...rows.values()].sort((a, b) => rank(a) - rank(b) || a.label.localeCompare(b.label));
};

const title = (span) => {
  const [first, last] = span.vertices ?? [];
  const tile = span.tile ? `, tile ${span.tile.map((n) => n + 1).join("/")}` : "";
  const layers =
    (first === undefined ? "" : first === last ? `, vertex ${first}` : `, vertices ${first}–${last}`) + tile;
  const held = span.held_s > 0 ? `, of that ${duration(span.held_s)} held (emulated)` : "";
  const where = span.kind === "transfer" ? `${span.agent} → ${text(span.peer)}` : span.agent;
  return `${where}: ${span.kind} ${duration(span.end_s - span.start_s)}${layers}${held}`;
};

export const createGantt = ({ canvas, caption }) => {
  let width = 0;
  let frame = null;

  const bar = (span, x, y) => {
    const left = x(span.start_s);
    const wide = Math.max(1, x(span.end_s) - left);
    const height = { compute: 16, transfer: 12, serialise: 16, queue: 6, wait: 2 }[span.kind] ?? 8;
    const top = y + (ROW - height) / 2;
    const paint = span.kind === "compute" ? `url(#paint-${span.tier})` : null;
    const group = svg("g", { class: `span ${span.kind}` }, say(svg("title"), title(span)));
    const real = span.kind === "compute" ? Math.max(0, x(span.end_s - (span.held_s ?? 0)) - left) : wide;
    if (real > 0 || wide <= 1)
      group.append(svg("rect", { x: left, y: top, width: Math.max(1, real), height, rx: 1.5, fill: paint }));
    if (real < wide)
      group.append(
        svg("rect", {
          class: "held",
          "data-tier": span.tier,
          x: left + real,
          y: top + 2.5,
          width: wide - real,
          height: height - 5,
        }),
      );
    return group;
  };

  const draw = () => {
    canvas.replaceChildren();
    if (!width) return;
    if (!frame) {
      set(canvas, { width, height: 90, viewBox: `0 0 ${width} 90`, "aria-label": "Last frame: none yet" });
      canvas.append(
        say(svg("text", { class: "empty", x: width / 2, y: 48, "text-anchor": "middle" }), "no frames yet"),
      );
      say(caption, "");
      return;
    }
    const rows = rowsOf(frame.spans);
    const gutter = Math.min(width * 0.4, 18 + 6.4 * Math.max(...rows.map((row) => row.label.length)));
    const start = frame.started_s ?? Math.min(...frame.spans.map((span) => span.start_s));
    const end = Math.max(start + (frame.latency_s ?? 0), ...frame.spans.map((span) => span.end_s));
    const scale = ticks(end - start || 1e-3);
    const x = (s) => +(gutter + ((s - start) / (end - start || 1)) * (width - gutter - 14)).toFixed(1);
    const height = TOP + rows.length * ROW + AXIS;
    set(canvas, { width, height, viewBox: `0 0 ${width} ${height}` });
    for (const s of scale.filter((s) => s <= end - start))
      canvas.append(
        svg("path", { class: "grid", d: `M${x(start + s)} ${TOP}V${height - AXIS}` }),
        say(
          svg("text", { class: "tick", x: x(start + s), y: height - 6, "text-anchor": "middle" }),
          s ? duration(s) : "0",
        ),
      );
    rows.forEach((row, n) => {
      const y = TOP + n * ROW;
      canvas.append(
        say(
          svg("text", {
            class: row.link ? "rowname link" : "rowname",
            x: gutter - 8,
            y: y + ROW / 2 + 4,
            "text-anchor": "end",
          }),
          row.label,
        ),
        ...row.spans.map((span) => bar(span, x, y)),
      );
    });
    const checked =
      frame.identical === true ? " · bit-identical" : frame.identical === false ? " · not bit-identical" : "";
    const again = frame.attempts > 1 ? ` · ${frame.attempts} attempts` : "";
    const what = `frame ${frame.frame} · ${text(frame.photo)} → ${text(frame.answer)} · ${duration(frame.latency_s)} · epoch ${text(frame.epoch)}${checked}${again}`;
    say(caption, what);
    set(canvas, {
      "aria-label": `${what}. ${rows.map((row) => row.spans.map(title).join("; ")).join("; ")}`,
    });
  };

  onWidth(canvas.parentNode, (w) => {
    width = w;
    draw();
  });

  return (now) => {
    if (now === frame) return;
    frame = now;
    draw();
  };
};
