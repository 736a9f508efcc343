// The last minutes: latency in its parts, percentiles, link rates, throughput, and what it saves. One axis
// of time, with a mark wherever something changed or another plan took over.
//
// Drawn by uPlot, once a second and while it is on the screen; where its file is missing, `chart.js` draws
// the last frames instead.

import { byId, html, onWidth, say, set, swatch } from "./dom.js";
import { bytes, deviation, duration, rate } from "./format.js";
import { fillOf, onScheme, paints } from "./paints.js";
import { PARTS, PART_NAMES, columns, latencyOf, marks, stacked } from "./series.js";
import { hasCharts, loadCharts } from "./uplot.js";

const HEIGHT = { parts: 268, other: 150 };
const NARROW = 420; // pixels: half of the labels
const WINDOWS_S = [60, 180, 600];
const DASHES = [[], [6, 3], [2, 3], [8, 3, 2, 3], [1, 3], [10, 4]];

// ── what all charts share ─────────────────────────────────────────────────────────────────────────

// "−2 min", "−30 s", "now": whole steps back from the right end.
const ago = (untilS) => (_, splits) =>
  splits.map((atS) => {
    const back = Math.round(untilS() - atS);
    return back <= 0 ? "now" : back % 60 === 0 ? `−${back / 60} min` : `−${back} s`;
  });

const stepsBack = (untilS, windowS) => (chart) => {
  const steps = chart.width < NARROW ? 3 : 6;
  const step = windowS() / steps;
  return Array.from({ length: steps + 1 }, (_, n) => untilS() - (steps - n) * step);
};

const axis = (more = {}) => ({
  stroke: () => paints().muted,
  font: "11px system-ui, sans-serif",
  grid: { stroke: () => paints().line, width: 1 },
  ticks: { show: false },
  ...more,
});

// Vertical lines with their words on top, where there is room.
const drawMarks = (chart, found, named) => {
  const { ctx, bbox } = chart;
  const dense = devicePixelRatio;
  ctx.save();
  ctx.font = `${11 * dense}px system-ui, sans-serif`;
  ctx.textAlign = "left";
  let free = -Infinity;
  for (const mark of found) {
    const x = chart.valToPos(mark.atS, "x", true);
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    const isSwitch = mark.kind === "switch";
    ctx.strokeStyle = ctx.fillStyle = isSwitch ? paints().accent : paints().warn;
    ctx.lineWidth = (isSwitch && named ? 1.5 : 1) * dense;
    ctx.setLineDash(isSwitch ? [] : [2 * dense, 3 * dense]);
    ctx.globalAlpha = named ? 1 : 0.6;
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    const wide = ctx.measureText(mark.short).width;
    if (!named || !mark.short || x < free || x + wide > bbox.left + bbox.width) continue;
    const at = [mark.short, x + 3 * dense, bbox.top + 10 * dense];
    ctx.strokeStyle = paints().card;
    ctx.lineWidth = 3 * dense;
    ctx.setLineDash([]);
    ctx.strokeText(...at);
    ctx.fillText(...at);
    free = x + wide + 10 * dense;
  }
  ctx.restore();
};

// A chart that fills `host`; `onCursor(index)` hears which second is pointed at (null: none).
let uPlot = null;
const make = (host, { height, series, bands, values, most = 1, marked, named, untilS, windowS, onCursor }) =>
  new uPlot(
    {
      width: Math.max(200, host.clientWidth),
      height,
      legend: { show: false },
      cursor: { y: false, sync: { key: "time" }, points: { show: false } },
      padding: [12, 14, 0, 0],
      scales: { x: { time: false }, y: { range: (_, low, high) => [0, (high || most) * 1.08] } },
      axes: [
        axis({ splits: stepsBack(untilS, windowS), values: ago(untilS), size: 26 }),
        axis({ values: (_, splits) => splits.map((value) => (value === 0 ? "0" : values(value))), size: 66 }),
      ],
      series: [{}, ...series],
      bands,
      hooks: {
        draw: [(chart) => drawMarks(chart, marked(), named)],
        setCursor: [(chart) => onCursor(chart.cursor.left >= 0 ? chart.cursor.idx : null)],
      },
    },
    [[0], ...series.map(() => [null])],
    host,
  );

const line = (colour, dash = [], width = 1.8) => ({
  stroke: () => paints()[colour],
  width,
  dash,
  points: { show: false },
});

const key = (name, colour, dash) =>
  html(
    "li",
    {},
    Object.assign(html("span", { class: `dash ${colour}`, "aria-hidden": "true" }), {
      textContent: dash.length ? "┄┄" : "━━",
    }),
    name,
  );

// ── the card ──────────────────────────────────────────────────────────────────────────────────────

export const createTime = (root) => {
  const find = (name) => root.querySelector(`[data-time="${name}"]`);
  const choice = find("window");
  for (const seconds of WINDOWS_S)
    choice.append(html("option", { value: seconds }, seconds < 120 ? `${seconds} s` : `${seconds / 60} min`));
  choice.value = String(WINDOWS_S[1]);
  set(root, { "data-charts": hasCharts() ? "uplot" : "plain" });

  let untilS = 0;
  let shown = null;
  let found = [];
  let charts = null;
  let drawn = [];
  let linkNames = "";
  let isSeen = false;
  let behind = false; // the charts are, of the numbers
  let picked = false; // how far back they show, by somebody

  const windowS = () => Number(choice.value);
  const shared = () => ({ marked: () => found, untilS: () => untilS, windowS, onCursor: tell });

  const lineUp = () => {
    // From top to bottom: each area is drawn down to the axis and covered by the next one.
    const areas = PARTS.map((part) => ({
      stroke: () => (part === "wait" ? paints().muted : paints()[part]),
      width: 0.6,
      fill: (chart) => fillOf(chart.ctx, part),
      points: { show: false },
    })).reverse();
    const bands = PARTS.slice(1).map((_, n) => ({ series: [n + 1, n + 2] }));
    const parts = make(find("parts"), {
      ...shared(),
      height: HEIGHT.parts,
      named: true,
      series: [...areas, { ...line("text", [6, 3]), label: "predicted" }],
      bands,
      values: duration,
    });
    const percentiles = make(find("percentiles"), {
      ...shared(),
      height: HEIGHT.other,
      series: [line("accent"), line("warn", DASHES[1]), line("muted", DASHES[2])],
      values: duration,
    });
    const throughput = make(find("throughput"), {
      ...shared(),
      height: HEIGHT.other,
      series: [line("good")],
      values: (value) => `${+value.toPrecision(3)}/s`,
    });
    charts = { parts, percentiles, throughput, links: null };
  };

  const lineUpLinks = (links) => {
    const names = links.map(({ name }) => name).join("\n");
    if (names === linkNames && charts.links) return;
    linkNames = names;
    charts.links?.destroy();
    const colours = ["device", "edge", "cloud", "accent", "warn", "good"];
    charts.links = make(find("links"), {
      ...shared(),
      height: HEIGHT.other,
      series: links.flatMap((_, n) => [
        line(colours[n], DASHES[n]),
        { ...line(colours[n], [1, 4], 1), label: "target" },
      ]),
      values: rate,
      most: 1e6, // where nothing was sent yet
    });
    find("links-key").replaceChildren(
      ...links.map(({ name }, n) => key(name, colours[n], DASHES[n])),
      ...(links.length ? [html("li", { class: "muted" }, "dotted: its target")] : []),
    );
  };

  // Numbers of one second: of the one that is pointed at, else of the newest that has some.
  const tell = (index) => {
    const at = index ?? null;
    const second = at === null ? shown?.newest : shown?.byTime.get(shown.times[at]);
    const total = latencyOf(second);
    const off = total && second.predicted_s ? total / second.predicted_s - 1 : null;
    for (const part of PARTS) say(find(`value-${part}`), duration(second?.parts_s[part]));
    say(find("value-total"), duration(total));
    say(find("value-predicted"), duration(second?.predicted_s));
    say(find("value-off"), deviation(off));
    for (const name of ["p50", "p95", "p99"]) say(find(`value-${name}`), duration(second?.[`${name}_s`]));
    const latest = at === null ? shown?.latest : second;
    say(find("value-rate"), latest ? `${latest.frames_per_s}/s` : duration(null));
    const back = second ? Math.round(untilS - second.at_s) : null;
    say(find("when"), back === null ? "no frames yet" : back <= 1 ? "last second" : `${back} s ago`);
    if (!second || !shown) return;
    const near = found.filter((mark) => Math.abs(mark.atS - second.at_s) <= windowS() / 120 + 0.5).at(-1);
    say(find("mark"), near?.text ?? "");
  };

  const saved = () => {
    const { backboneBytes: used, cloudOnlyBytes: all } = shown;
    const share = all ? 1 - used / all : null;
    say(find("saved"), share === null ? "–" : `${bytes(Math.max(0, all - used))} (${Math.round(100 * share)} %)`);
    say(find("backbone"), all ? `${bytes(used)} sent, ${bytes(all)} by cloud-only` : "");
  };

  const draw = () => {
    if (!drawn.length) return;
    const [seconds, pipeline, epochs, decisions] = drawn;
    const mine = seconds.filter((second) => second.pipeline === pipeline?.id);
    untilS = mine.at(-1)?.at_s ?? 0;
    // A run of seconds would be a sliver of minutes.
    if (!picked) choice.value = String(WINDOWS_S[mine.length && untilS - mine[0].at_s < WINDOWS_S[0] ? 0 : 1]);
    shown = columns(mine, untilS, windowS());
    shown.byTime = new Map(mine.map((second) => [second.at_s, second]));
    found = marks(epochs, decisions, shown.times[0], untilS + 1);
    tell(null);
    saved();
    behind = !isSeen;
    if (!isSeen || !hasCharts()) return;
    if (!uPlot) {
      behind = true;
      loadCharts().then((found) => {
        uPlot = found;
        draw();
      }, () => set(root, { "data-charts": "plain" }));
      return;
    }
    if (!find("parts").clientWidth) return;
    if (!charts) lineUp();
    lineUpLinks(shown.links);
    const x = [shown.times];
    charts.parts.setData([...x, ...stacked(shown.parts).reverse(), shown.predicted]);
    charts.percentiles.setData([...x, shown.p50, shown.p95, shown.p99]);
    charts.throughput.setData([...x, shown.framesPerS]);
    charts.links.setData([...x, ...shown.links.flatMap(({ achieved, target }) => [achieved, target])]);
    const newest = latencyOf(shown.newest);
    set(find("parts"), {
      "aria-label": `Latency by parts over ${choice.selectedOptions[0].textContent}; latest ${duration(newest)}`,
    });
  };

  find("key").replaceChildren(
    ...PARTS.map((part) =>
      html(
        "tr",
        {},
        html("th", { scope: "row" }, swatch(part), PART_NAMES[part]),
        html("td", { "data-time": `value-${part}` }),
      ),
    ),
  );
  choice.addEventListener("change", () => {
    picked = true;
    draw();
  });
  const again = () => {
    Object.values(charts ?? {}).forEach((chart) => chart?.destroy());
    charts = null;
    draw();
  };
  onScheme(again);
  onWidth(find("parts"), () => {
    if (!charts) return draw();
    for (const [name, chart] of Object.entries(charts))
      chart?.setSize({
        width: Math.max(200, find(name).clientWidth),
        height: name === "parts" ? HEIGHT.parts : HEIGHT.other,
      });
  });

  // Of a pipeline only its name counts here; its numbers change all the time.
  return (seconds, pipeline, epochs, decisions, seen) => {
    isSeen = seen;
    const [before, its, planned, decided] = drawn;
    const same = seconds === before && epochs === planned && decisions === decided && !(seen && behind);
    if (same && pipeline?.id === its?.id && drawn.length) return;
    drawn = [seconds, pipeline, epochs, decisions];
    draw();
  };
};
