// Joins the feed to the views. Messages only queue; everything is drawn on animation frames.

import { createChart } from "./chart.js";
import { createAgentDialog, createControls, createLinkDialog } from "./controls.js";
import { createDecisions } from "./decisions.js";
import { byId, html, say, set } from "./dom.js";
import { openFeed } from "./feed.js";
import { count, duration, exactness, speed, text } from "./format.js";
import { createFrames } from "./frames.js";
import { createGraph } from "./graph.js";
import { createHistory } from "./history.js";
import { createConditions, createOrderList, createOrders } from "./orders.js";
import { createReplayBar } from "./replay.js";
import { EMPTY, pipelineOf, reduce } from "./store.js";
import { createEpochs, createLinks } from "./tables.js";
import { createTestbed, createWelcome } from "./testbed.js";
import { createTiles } from "./tiles.js";
import { createTime, hasCharts } from "./time.js";

const CONNECTION = {
  live: ["●", "live"],
  reconnecting: ["◌", "reconnecting"],
  paused: ["‖", "paused"],
};

let live = EMPTY; // what the server says now
let replayed = null; // what it said at a moment of a past run, while one is watched
let replayedS = null;
let state = EMPTY; // what is shown: one of the two
let chosen = null;
let queue = [];
let asked = false;

const graph = createGraph({
  canvas: byId("graph"),
  details: byId("details"),
  legend: byId("legend"),
  summary: byId("cuts"),
  moved: byId("moved"),
  search: byId("search"),
  why: byId("why"),
  zoom: { near: byId("zoom-in"), far: byId("zoom-out"), fit: byId("zoom-fit") },
});
const chart = createChart({
  canvas: byId("chart"),
  numbers: byId("numbers"),
  caption: byId("numbers-caption"),
});
const time = createTime(byId("time-card"));
const frameViews = createFrames(byId("gantt-card"));
const tiles = createTiles({
  card: byId("tiles-card"),
  list: byId("tiles"),
  caption: byId("tiles-caption"),
  legend: byId("tiles-legend"),
});
const orders = createOrders();
const controls = createControls(orders);
const agentDialog = createAgentDialog(orders);
const linkDialog = createLinkDialog(orders);
const testbed = createTestbed({
  tiers: byId("tiers"),
  caption: byId("testbed-caption"),
  change: (name) => !replayed && agentDialog.open(state.agents.find((agent) => agent.agent === name)),
});
const welcome = createWelcome({ card: byId("welcome"), list: byId("arrivals"), hint: byId("welcome-hint") });
const links = createLinks(byId("links"), ([from, to]) =>
  !replayed && linkDialog.open(state.links.find((link) => link.from === from && link.to === to)),
);
const epochs = createEpochs(byId("epochs"));
const conditions = createConditions(byId("conditions-part"), byId("conditions"), orders);
const orderList = createOrderList(byId("orders-part"), byId("orders"));
const decisions = createDecisions({
  list: byId("events"),
  filters: byId("filters"),
  search: byId("event-search"),
  count: byId("events-caption"),
});

// A slice of one pipeline that stays the same array while nothing in it changes.
const ofPipeline = () => {
  let [from, id, kept] = [null, null, []];
  return (items, pipeline) => {
    if (items !== from || pipeline?.id !== id) {
      const now = items.filter((item) => item.pipeline === pipeline?.id);
      if (now.length !== kept.length || now.some((item, n) => item !== kept[n])) kept = now;
      [from, id] = [items, pipeline?.id];
    }
    return kept;
  };
};
const framesOf = ofPipeline();
const epochsOf = ofPipeline();
const decisionsOf = ofPipeline();

const slowed = (agents) => agents.filter((agent) => typeof agent.speed === "number" && agent.speed !== 1);

const header = (pipeline) => {
  for (const name of ["model", "epoch"]) say(byId(`fact-${name}`), text(pipeline?.[name]));
  set(byId("report-link"), { href: pipeline?.run ? `/report/${encodeURIComponent(pipeline.run)}` : null });
  say(
    byId("phase"),
    pipeline ? [pipeline.phase, pipeline.phase_text].filter(Boolean).join(": ") : "no pipeline yet",
  );
  set(byId("phase"), { "data-phase": pipeline?.phase });
  const { sent, answered, lost, dropped } = pipeline?.frames ?? {};
  say(byId("answered"), `${count(answered)} of ${count(sent)}`);
  const missed = [lost && `${count(lost)} lost`, dropped && `${count(dropped)} dropped`].filter(Boolean);
  say(byId("lost"), missed.join(", "));
  say(byId("rate-now"), rates(pipeline));
  say(byId("median"), duration(pipeline?.latency_s?.median));
  say(byId("p95"), duration(pipeline?.latency_s?.p95));
  say(byId("predicted"), duration(pipeline?.predicted?.latency_s));

  const judged = exactness(pipeline?.exact, pipeline?.same_fingerprint);
  set(byId("exact"), { "data-level": judged.level });
  say(byId("exact-mark"), judged.mark);
  say(byId("exact-text"), judged.text);

  const emulation = slowed(state.agents).map((agent) => `${agent.agent} runs at ${speed(agent.speed)}`);
  for (const agent of state.agents) if (agent.cpus != null) emulation.push(`${agent.agent} has ${agent.cpus} cores`);
  if (state.links.some((link) => link.target_bytes_per_s)) emulation.push("links are held to target rates");
  set(byId("emulated"), {
    hidden: !pipeline?.emulated && !emulation.length,
    title: emulation.join("; ") || null,
  });
  document.title = pipeline ? `${text(pipeline.model)} · ${pipeline.phase} · d3bed` : "d3bed";
};

const choice = byId("pipeline");
choice.addEventListener("change", () => {
  chosen = choice.value;
  ask();
});
const offerPipelines = (pipeline) => {
  set(byId("pipeline-choice"), { hidden: state.pipelines.length < 2 });
  const ids = state.pipelines.map((each) => each.id);
  if (ids.join("\n") !== [...choice.options].map((option) => option.value).join("\n"))
    choice.replaceChildren(...ids.map((id) => html("option", { value: id }, id)));
  choice.value = pipeline?.id ?? "";
};

// What the camera takes, and what the plan keeps up with; without a rate only the latter tells something.
const rates = (pipeline) => {
  const most = pipeline?.sustains_per_s;
  if (typeof most !== "number") return "–";
  const wanted = pipeline.rate_per_s;
  if (wanted === 0) return "paused";
  const upTo = `up to ${most.toPrecision(3)}/s`;
  return typeof wanted === "number" ? `${+wanted.toPrecision(3)}/s, ${upTo}` : upTo;
};

const plan = (pipeline) => {
  if (pipeline?.mix?.length) {
    const parts = pipeline.mix.map(({ epoch, share, text }) =>
      [`${Math.round(100 * share)} % of frames (epoch ${epoch}):`, text].join("\n"),
    );
    say(byId("plan"), parts.join("\n\n"));
    return;
  }
  // Tiles have a drawing of their own.
  const lines = pipeline?.plan_text?.split("\n").filter((line) => !line.startsWith("tiles "));
  say(byId("plan"), lines?.join("\n") ?? "No plan yet.");
};

const draw = () => {
  asked = false;
  for (const message of queue) live = reduce(live, message);
  queue = [];
  state = replayed ?? live;
  const nowS = replayedS ?? clock.aheadS + Date.now() / 1e3;
  const pipeline = pipelineOf(state, replayed ? replayBar.pipeline() : chosen);
  const frames = framesOf(state.frames, pipeline);
  const history = epochsOf(state.epochs, pipeline);
  const decided = decisionsOf(state.decisions, pipeline);
  offerPipelines(pipeline);
  header(pipeline);
  plan(pipeline);
  orders.see(live.orders);
  controls(state, pipeline, nowS);
  time(state.seconds, pipeline, history, decided);
  frameViews(frames, pipeline, performance.now());
  if (performance.now() - listedMs < LIST_MS) {
    listing ??= setTimeout(ask, LIST_MS);
    return;
  }
  clearTimeout(listing);
  [listedMs, listing] = [performance.now(), null];
  list(pipeline, frames, history, nowS);
};

// What people read rather than watch changes four times a second at most.
const LIST_MS = 250;
let listedMs = -Infinity;
let listing = null;
const list = (pipeline, frames, history, nowS) => {
  welcome(state, pipeline);
  testbed(state, state.pipelines, nowS);
  graph(pipeline, state.links, state.agents);
  if (!hasCharts()) chart(pipeline, frames, history, slowed(state.agents).length > 0);
  tiles(pipeline);
  links(state.links, state.agents);
  epochs(history);
  conditions(state.conditions, nowS);
  orderList(state.orders, nowS);
  // The offset of the clocks is taken once a snapshot: times of day must not flicker.
  decisions(state.notes, state.decisions, state.orders, clock.nowS, clock.nowMs);
  pastRuns(live.pipelines);
};

const ask = () => {
  if (asked) return;
  asked = true;
  requestAnimationFrame(draw);
};

// While a past run is watched the views are as they were then, and nothing can be steered.
const replayBar = createReplayBar(byId("replay-bar"), (then, timeS) => {
  [replayed, replayedS] = [then, timeS];
  set(document.body, { "data-replay": then ? "" : null });
  set(byId("side"), { inert: Boolean(then) });
  ask();
});
const pastRuns = createHistory(byId("history"), { onReplay: replayBar.open });

// `aheadS`: the server's clock, less this browser's; messages only ever arrive late, so the most counts.
const clock = { nowS: null, nowMs: null, aheadS: -Infinity };
const receive = (message) => {
  if (message.type === "snapshot" || clock.nowS === null)
    Object.assign(clock, { nowS: message.now, nowMs: Date.now(), aheadS: -Infinity });
  clock.aheadS = Math.max(clock.aheadS, message.now - Date.now() / 1e3);
  queue.push(message);
  ask();
  if (message.type === "snapshot") setTimeout(askSeconds);
};

// The last ten minutes, which are no part of a snapshot: the page is drawn before they come.
const askSeconds = () =>
  fetch("/api/seconds")
    .then((answer) => answer.json())
    .then((seconds) => {
      queue.push({ type: "seconds", seconds });
      ask();
    })
    .catch(() => {}); // they are asked for again with the next snapshot; the charts grow from now on

const first = JSON.parse(byId("snapshot").textContent || "null");
if (first) receive(first);
draw();
openFeed({
  lastSeq: first?.seq ?? null,
  onMessage: receive,
  onState: (name) => {
    const [mark, words] = CONNECTION[name];
    set(byId("connection"), { "data-state": name });
    say(byId("connection-mark"), mark);
    say(byId("connection-text"), words);
  },
});
setInterval(ask, 1_000); // a frame that was held back in the Gantt becomes due
