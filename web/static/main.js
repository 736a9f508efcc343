// Joins the feed to the views. Messages only queue; everything is drawn on animation frames.

import { createChart } from "./chart.js";
import { createControls } from "./controls.js";
import { byId, html, say, set } from "./dom.js";
import { openFeed } from "./feed.js";
import { count, duration, exactness, speed, text } from "./format.js";
import { createGantt } from "./gantt.js";
import { createGraph } from "./graph.js";
import { EMPTY, pipelineOf, reduce } from "./store.js";
import { createAgents, createConditions, createEpochs, createEvents, createLinks } from "./tables.js";
import { createTiles } from "./tiles.js";

const CONNECTION = {
  live: ["●", "live"],
  reconnecting: ["◌", "reconnecting"],
  paused: ["‖", "paused"],
};

let state = EMPTY;
let chosen = null;
let queue = [];
let asked = false;

const graph = createGraph({
  canvas: byId("graph"),
  details: byId("details"),
  legend: byId("legend"),
  summary: byId("cuts"),
});
const chart = createChart({
  canvas: byId("chart"),
  numbers: byId("numbers"),
  caption: byId("numbers-caption"),
});
const gantt = createGantt({ canvas: byId("gantt"), caption: byId("gantt-caption") });
const tiles = createTiles({
  card: byId("tiles-card"),
  list: byId("tiles"),
  caption: byId("tiles-caption"),
  legend: byId("tiles-legend"),
});
const links = createLinks(byId("links"));
const agents = createAgents(byId("agents"));
const epochs = createEpochs(byId("epochs"));
const conditions = createConditions(byId("conditions-part"), byId("conditions"));
const events = createEvents(byId("events"));
const controls = createControls();

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

const slowed = (agents) => agents.filter((agent) => typeof agent.speed === "number" && agent.speed !== 1);

const header = (pipeline) => {
  for (const name of ["model", "strategy", "network", "epoch"])
    say(byId(`fact-${name}`), text(pipeline?.[name]));
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
  for (const message of queue) state = reduce(state, message);
  queue = [];
  const pipeline = pipelineOf(state, chosen);
  const frames = framesOf(state.frames, pipeline);
  const history = epochsOf(state.epochs, pipeline);
  offerPipelines(pipeline);
  header(pipeline);
  plan(pipeline);
  controls(state, pipeline);
  graph(pipeline);
  chart(pipeline, frames, history, slowed(state.agents).length > 0);
  gantt(frames, performance.now());
  tiles(pipeline);
  links(state.links);
  agents(state.agents);
  epochs(history);
  conditions(state.conditions, clock.nowS + (Date.now() - clock.nowMs) / 1e3);
  // The offset of the clocks is taken once a snapshot: times of day must not flicker.
  events(state.notes, state.decisions, clock.nowS, clock.nowMs);
};

const ask = () => {
  if (asked) return;
  asked = true;
  requestAnimationFrame(draw);
};

const clock = { nowS: null, nowMs: null };
const receive = (message) => {
  if (message.type === "snapshot" || clock.nowS === null)
    Object.assign(clock, { nowS: message.now, nowMs: Date.now() });
  queue.push(message);
  ask();
};

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
