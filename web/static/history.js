// Past runs: listed from the store, watched again, two of them compared.

import "./apart.js";
import { html, say, set } from "./dom.js";
import { bytes, count, duration, text } from "./format.js";
import { paints } from "./paints.js";
import { TIERS, median } from "./store.js";
import { hasCharts, loadCharts } from "./uplot.js";

const LISTED = 12;
const BINS = 240;

const get = async (path) => {
  const answer = await fetch(path).catch(() => {
    throw new Error("The server cannot be reached.");
  });
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.error ?? `The server answered ${answer.status}.`);
  return told;
};

const lengthOf = (run, nowS) => {
  const seconds = Math.max(0, (run.ended_s ?? nowS) - run.started_s);
  if (seconds < 100) return `${Math.round(seconds)} s`;
  return seconds < 6000 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
};

const backbone = (report) => {
  const clouds = new Set(report.agents.filter((agent) => agent.tier === "cloud").map((agent) => agent.agent));
  return report.links.filter((link) => clouds.has(link.to)).reduce((sum, link) => sum + link.bytes, 0);
};

// Medians of `BINS` equal slices of time since the start, null where there is no frame.
export const binned = ({ started_s: starts, latency_s: latencies }, startedS, lengthS) => {
  const found = Array.from({ length: BINS }, () => []);
  starts.forEach((s, n) => {
    const bin = Math.floor(((s - startedS) / (lengthS || 1)) * BINS);
    if (bin >= 0 && bin < BINS) found[bin].push(latencies[n]);
  });
  return found.map(median);
};

// Rows of a comparison: [name, how it is shown, of the one, of the other, whether less is better].
export const compared = (one, other) => {
  const { latency_s: a, frames: f } = one.report;
  const { latency_s: b, frames: g } = other.report;
  const rate = ({ started_s: starts }) => (starts.length > 1 ? (starts.length - 1) / (starts.at(-1) - starts[0]) : null);
  const per = (all, frames) => (frames ? all / frames : null);
  const switches = (report) => Math.max(0, report.epochs.length - 1);
  const exact = ({ exact }) => (exact.checked ? `${exact.identical} of ${exact.checked}` : "–");
  return [
    ["latency, median of the last plan", duration, a.median, b.median, true],
    ["latency, 95th percentile", duration, a.p95, b.p95, true],
    ["predicted", duration, a.predicted, b.predicted, true],
    ["latency over the whole run, median", duration, median(one.frames.latency_s), median(other.frames.latency_s), true],
    ...TIERS.map((tier) => [`compute, ${tier}`, duration, one.report.compute_s[tier], other.report.compute_s[tier], true]),
    ["backbone bytes a frame", bytes, per(backbone(one.report), f.answered), per(backbone(other.report), g.answered), true],
    ["frames a second", (n) => (n === null ? text(n) : n.toPrecision(3)), rate(one.frames), rate(other.frames), false],
    ["frames answered", count, f.answered, g.answered, null],
    ["frames lost", count, f.lost, g.lost, true],
    ["plan switches", count, switches(one.report), switches(other.report), null],
    ["bit-identical", text, exact(one.report), exact(other.report), null],
  ];
};

const change = (from, to, lessIsBetter) => {
  if (typeof from !== "number" || typeof to !== "number" || lessIsBetter === null || !from) return ["–", "muted"];
  const share = to / from - 1;
  const words = `${share < 0 ? "−" : "+"}${Math.abs(100 * share).toFixed(Math.abs(share) < 0.1 ? 1 : 0)} %`;
  if (Math.abs(share) < 0.005) return ["same", "muted"];
  const better = share < 0 === lessIsBetter;
  return [`${words} ${better ? "better" : "worse"}`, better ? "fine" : "flag"];
};

export const create = (root, { onReplay }) => {
  const find = (name) => root.querySelector(`[data-history="${name}"]`);
  const chosen = new Set();
  let runs = [];
  let chart = null;
  let latest = null;

  const fail = (error) => say(find("problem"), error.message);

  const list = () => {
    const nowS = Date.now() / 1e3;
    find("runs").replaceChildren(
      ...runs.slice(0, LISTED).map((run) => {
        const box = html("input", { type: "checkbox", "aria-label": `compare run ${run.id}` });
        box.checked = chosen.has(run.id);
        box.addEventListener("change", () => {
          if (box.checked) chosen.add(run.id);
          else chosen.delete(run.id);
          if (chosen.size > 2) chosen.delete(chosen.values().next().value);
          list();
        });
        const replay = html("button", { type: "button", "aria-label": `replay run ${run.id}` }, "▶ Replay");
        replay.addEventListener("click", async () => {
          say(find("problem"), "");
          set(replay, { "aria-busy": "true" });
          await onReplay(run).catch(fail);
          set(replay, { "aria-busy": null });
        });
        const state = run.ended_s === null ? "going on" : run.cut ? "cut short" : "";
        return html(
          "tr",
          {},
          html("td", {}, box),
          html("td", {}, html("span", {}, run.id)),
          html("td", {}, new Date(run.started_s * 1e3).toLocaleString([], { dateStyle: "short", timeStyle: "medium" })),
          html("td", {}, [lengthOf(run, nowS), state].filter(Boolean).join(", ")),
          html("td", {}, text(run.model)),
          html("td", {}, text(run.strategy)),
          html("td", {}, text(run.network)),
          html("td", { class: run.frames.lost ? "flag" : "" }, `${count(run.frames.answered)} of ${count(run.frames.sent)}`),
          html("td", {}, replay),
        );
      }),
      ...(runs.length ? [] : [html("tr", {}, html("td", { class: "empty", colspan: 9 }, "No run has been recorded yet."))]),
    );
    set(find("compare"), { disabled: chosen.size !== 2 });
    say(find("compare"), chosen.size === 2 ? "Compare the two" : "Compare two: tick them");
  };

  const draw = async (two) => {
    chart?.destroy();
    chart = null;
    if (!hasCharts()) return;
    const uPlot = await loadCharts();
    const lengthS = Math.max(...two.map(({ run, frames }) => (frames.started_s.at(-1) ?? run.started_s) - run.started_s), 1);
    const times = Array.from({ length: BINS }, (_, n) => (n / BINS) * lengthS);
    const colours = ["accent", "warn"];
    const axis = (more) => ({
      stroke: () => paints().muted,
      font: "11px system-ui, sans-serif",
      grid: { stroke: () => paints().line, width: 1 },
      ticks: { show: false },
      ...more,
    });
    chart = new uPlot(
      {
        width: Math.max(260, find("chart").clientWidth),
        height: 190,
        legend: { show: false },
        cursor: { show: false },
        scales: { x: { time: false }, y: { range: (_, low, high) => [0, (high || 1) * 1.08] } },
        axes: [
          axis({ values: (_, splits) => splits.map((s) => (s < 120 ? `${s} s` : `${+(s / 60).toFixed(1)} min`)), size: 26 }),
          axis({ values: (_, splits) => splits.map((s) => (s ? duration(s) : "0")), size: 66 }),
        ],
        series: [
          {},
          ...two.map((_, n) => ({
            stroke: () => paints()[colours[n]],
            width: 1.8,
            dash: n ? [6, 3] : [],
            spanGaps: true,
            points: { show: false },
          })),
        ],
      },
      [times, ...two.map(({ run, frames }) => binned(frames, run.started_s, lengthS))],
      find("chart"),
    );
  };

  find("compare").addEventListener("click", async () => {
    say(find("problem"), "");
    const button = find("compare");
    set(button, { "aria-busy": "true" });
    try {
      const [two] = [runs.filter((run) => chosen.has(run.id)).sort((a, b) => a.started_s - b.started_s)];
      const full = await Promise.all(
        two.map(async (run) => {
          const path = `/api/runs/${encodeURIComponent(run.id)}`;
          const [report, frames] = await Promise.all([get(`${path}/report`), get(`${path}/frames`)]);
          return { run, report, frames };
        }),
      );
      const [one, other] = full;
      const describe = ({ run, report }) => `${run.id}: ${report.model}, ${report.strategy}, ${report.network}`;
      say(find("first"), describe(one));
      say(find("second"), describe(other));
      find("rows").replaceChildren(
        ...compared(one, other).map(([name, show, a, b, less]) => {
          const [words, kind] = change(a, b, less);
          return html(
            "tr",
            {},
            html("th", { scope: "row" }, name),
            html("td", {}, show(a)),
            html("td", {}, show(b)),
            html("td", { class: kind }, words),
          );
        }),
      );
      set(find("comparison"), { hidden: false });
      await draw(full);
    } catch (error) {
      fail(error);
    } finally {
      set(button, { "aria-busy": null });
    }
  });

  const load = () =>
    get("/api/runs").then((found) => {
      runs = found;
      list();
    }, fail);
  root.addEventListener("toggle", () => root.open && load());
  list();

  // The list is asked for again when another run begins or the present one ends, if somebody looks.
  return (pipelines) => {
    const now = pipelines.map(({ run, phase }) => `${run} ${phase}`).join("\n");
    if (now === latest) return;
    latest = now;
    if (root.open) load();
  };
};
