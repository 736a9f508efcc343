// Joins the feed to the views. Messages only queue; `pace.js` says when what is drawn. What is not on the first
// screen (charts, frames, past runs, dialogs) comes when it is needed, or when the page has nothing else to do.

import { createControls } from "./controls.js";
import { createDecisions } from "./decisions.js";
import { byId, html, markup, say, set } from "./dom.js";
import { openFeed } from "./feed.js";
import { count, duration, exactness, speed, text } from "./format.js";
import { createGraph } from "./graph.js";
import { createOrders } from "./orders.js";
import { createPace } from "./pace.js";
import { EMPTY, isAlone, pipelineOf, reduce, unpacked } from "./store.js";
import { createEpochs, createLinks } from "./tables.js";
import { createTestbed } from "./testbed.js";
import { hasCharts } from "./uplot.js";

const CONNECTION = {
  live: ["●", "live"],
  reconnecting: ["◌", "reconnecting"],
  paused: ["‖", "paused"],
};

const IDLE_AFTER_MS = 2_500;
const AWAY_AFTER_MS = 700; // a socket that is opened anew at once is no server that is away
const QUEUE_MOST = 100; // messages; a page that is not drawn takes them in all the same

let live = EMPTY; // what the server says now
let replayed = null; // {state, timeS, pipeline} of a past run, while one is watched
let state = EMPTY; // what is shown: one of the two
let chosen = null;
let queue = [];
let leftMs = null; // when the feed broke off; null while it is live

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
const orders = createOrders();
const controls = createControls(orders);
const testbed = createTestbed({
  tiers: byId("tiers"),
  caption: byId("testbed-caption"),
  change: (name) => openDialog("agent", () => state.agents.find((agent) => agent.agent === name)),
});
const links = createLinks(byId("links"), ([from, to]) =>
  openDialog("link", () => state.links.find((link) => link.from === from && link.to === to)),
);
const epochs = createEpochs(byId("epochs"));
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
    // What runs where is drawn.
    pipeline ? [pipeline.phase, (pipeline.phase !== "running" || isAlone(pipeline)) && pipeline.phase_text].filter(Boolean).join(": ") : "no pipeline yet",
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
  set(byId("unstored"), { hidden: !state.unstored, title: state.unstored });
  document.title = pipeline ? `${text(pipeline.model)} · ${pipeline.phase} · d3bed` : "d3bed";
};

const choice = byId("pipeline");
choice.addEventListener("change", () => {
  chosen = choice.value;
  pace.ask();
  pace.now();
});
const offerPipelines = (pipeline) => {
  set(byId("pipeline-choice"), { hidden: state.pipelines.length < 2 });
  const ids = state.pipelines.map((each) => each.id);
  if (ids.join("\n") !== [...choice.options].map((option) => option.value).join("\n"))
    choice.replaceChildren(...ids.map((id) => html("option", { value: id }, id)));
  choice.value = pipeline?.id ?? "";
};

// What the camera takes, or where no rate is set what was answered lately; and what the plan keeps up with.
const LATELY_S = 10;
const rates = (pipeline) => {
  const most = pipeline?.sustains_per_s;
  if (typeof most !== "number") return "–";
  if (pipeline.rate_per_s === 0) return "paused";
  const lately = state.seconds.filter(({ pipeline: id, at_s: atS }) => id === pipeline.id && atS > shown.nowS - LATELY_S);
  const answered = lately.length && lately.reduce((sum, second) => sum + second.frames_per_s, 0) / lately.length;
  const taken = pipeline.rate_per_s ?? answered;
  return `${taken ? `${+taken.toPrecision(2)}/s, ` : ""}up to ${+most.toPrecision(2)}/s`;
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

// ── what is drawn, and how often ────────────────────────────────────────────────────────────────────

let shown = null; // what all views of one frame are drawn from
const takeIn = () => {
  for (const message of queue) live = reduce(live, message);
  queue = [];
  state = replayed?.state ?? live;
  const pipeline = pipelineOf(state, replayed ? replayed.pipeline : chosen);
  shown = {
    pipeline,
    nowS: replayed?.timeS ?? clock.aheadS + Date.now() / 1e3,
    frames: framesOf(state.frames, pipeline),
    epochs: epochsOf(state.epochs, pipeline),
    decisions: decisionsOf(state.decisions, pipeline),
  };
};
// Who measures the page hears how far it is drawn.
const pace = createPace({
  begin: takeIn,
  ended: () => document.dispatchEvent(new CustomEvent("drawn", { detail: live.seq })),
});

// A view in a module of its own: nothing is drawn until that is here.
const apart = (load) => {
  let [view, coming] = [null, null];
  const come = () =>
    (coming ??= load().then(
      (made) => {
        view = made;
        pace.ask();
        pace.now();
      },
      () => (coming = null), // tried again when it is next wanted
    ));
  return { come, draw: (...values) => view?.(...values) };
};
// It comes when its card comes near the screen, or the page is idle …
const idle = new Promise((resolve) => setTimeout(resolve, IDLE_AFTER_MS));
const later = (card, load) => {
  const { come, draw } = apart(load);
  pace.near(card, come);
  idle.then(come);
  return draw;
};
// … or when it is first drawn …
const needed = (load) => {
  const { come, draw } = apart(load);
  return (...values) => {
    come();
    draw(...values);
  };
};

const time = later(byId("time-card"), async () => (await import("./time.js")).createTime(byId("time-card")));
const frameViews = later(byId("gantt-card"), async () =>
  (await import("./frames.js")).createFrames(byId("gantt-card")),
);
// … or when it is opened, as all that is in it.
const opened = (card, load) => {
  const { come, draw } = apart(async () => {
    const [{ create }, parts] = await Promise.all([load(), markup(card.id)]);
    card.append(...parts);
    return create(card, { onReplay: (run) => watch(run) });
  });
  card.addEventListener("toggle", come);
  return draw;
};
opened(byId("care"), () => import("./care.js"));
const pastRuns = opened(byId("history"), () => import("./history.js"));

let dialogs = null;
const openDialog = async (kind, find) => {
  if (replayed) return;
  dialogs ??= import("./dialogs.js")
    .then(({ createDialogs }) => createDialogs(orders))
    .catch(() => (dialogs = null)); // the server is away, as the page's head says
  (await dialogs)?.[kind].open(find());
};

const chart = needed(async () => {
  const [{ createChart }, parts] = await Promise.all([import("./chart.js"), markup("chart")]);
  byId("plain").append(...parts);
  return createChart({ canvas: byId("chart"), numbers: byId("numbers"), caption: byId("numbers-caption") });
});
const welcome = needed(async () =>
  (await import("./welcome.js")).createWelcome({
    card: byId("welcome"),
    list: byId("arrivals"),
    hint: byId("welcome-hint"),
  }),
);
const tiles = needed(async () =>
  (await import("./tiles.js")).createTiles({
    card: byId("tiles-card"),
    list: byId("tiles"),
    caption: byId("tiles-caption"),
    legend: byId("tiles-legend"),
  }),
);
const changes = needed(async () => {
  const { createConditions, createOrderList } = await import("./changes.js");
  const conditions = createConditions(byId("conditions-part"), byId("conditions"), orders);
  const list = createOrderList(byId("orders-part"), byId("orders"));
  return (now, asked, nowS) => {
    conditions(now, nowS);
    list(asked, nowS);
  };
});
const isMissing = (name) => !state.agents.some(({ agent }) => agent === name);

pace.add(null, 150, 150, () => {
  const { pipeline, nowS } = shown;
  offerPipelines(pipeline);
  header(pipeline);
  plan(pipeline);
  orders.see(live.orders);
  controls(state, pipeline, nowS);
  if (!byId("welcome").hidden || Object.keys(pipeline?.members ?? {}).some(isMissing)) welcome(state, pipeline);
});
pace.add(byId("graph-card"), 300, 1_000, () => {
  graph(shown.pipeline, state.links, state.agents);
  if (!byId("tiles-card").hidden || shown.pipeline?.tiles?.length) tiles(shown.pipeline);
});
const isAway = () => !replayed && leftMs !== null && performance.now() - leftMs > AWAY_AFTER_MS;
pace.add(byId("testbed-card"), 450, 1_500, () => testbed(state, state.pipelines, shown.nowS, isAway()));
pace.add(byId("side"), 450, 1_500, () => {
  if (state.conditions.length || state.orders.length || !byId("orders-part").hidden)
    changes(state.conditions, state.orders, shown.nowS);
});
// The offset of the clocks is taken once a snapshot: times of day must not flicker.
pace.add(byId("events-card"), 450, 1_500, () =>
  decisions(state.notes, state.decisions, state.orders, clock.nowS, clock.nowMs),
);
pace.add(byId("time-card"), 900, 1_500, (isSeen) => {
  time(state.seconds, shown.pipeline, shown.epochs, shown.decisions, isSeen);
  if (!hasCharts()) chart(shown.pipeline, shown.frames, shown.epochs, slowed(state.agents).length > 0);
});
pace.add(byId("gantt-card"), 450, 1_500, (isSeen) => frameViews(shown.frames, shown.pipeline, performance.now(), isSeen));
pace.add(byId("links-card"), 450, 1_500, () => links(state.links, state.agents));
pace.add(byId("epochs-card"), 450, 1_500, () => epochs(shown.epochs));
pace.add(byId("history"), 1_500, 1_500, () => pastRuns(live.pipelines));

// While a past run is watched the views are as they were then, and nothing can be steered.
const bar = byId("replay-bar");
const openBar = async () => {
  const [{ createReplayBar }, parts] = await Promise.all([import("./replay.js"), markup("replay")]);
  bar.replaceChildren(...parts);
  return createReplayBar(bar, (then) => {
    replayed = then;
    set(document.body, { "data-replay": then ? "" : null });
    set(byId("side"), { inert: Boolean(then) });
    pace.ask();
    pace.now();
  });
};
let replayBar = null;
const watch = async (run) => (replayBar ??= await openBar()).open(run);

// `aheadS`: the server's clock, less this browser's; messages only ever arrive late, so the most counts.
const clock = { nowS: null, nowMs: null, aheadS: -Infinity };
const receive = (message) => {
  if (message.type === "snapshot" || clock.nowS === null)
    Object.assign(clock, { nowS: message.now, nowMs: Date.now(), aheadS: -Infinity });
  clock.aheadS = Math.max(clock.aheadS, message.now - Date.now() / 1e3);
  queue.push(message);
  if (queue.length > QUEUE_MOST) takeIn();
  pace.ask();
  if (message.type === "snapshot") setTimeout(askSeconds);
};

// The last ten minutes, which are no part of a snapshot: the page is drawn before they come.
const askSeconds = () =>
  fetch("/api/seconds")
    .then((answer) => answer.json())
    .then((seconds) => {
      queue.push({ type: "seconds", seconds });
      pace.ask();
    })
    .catch(() => {}); // they are asked for again with the next snapshot; the charts grow from now on

// The page carries what it shows at first; the feed begins with all the rest.
const first = JSON.parse(byId("snapshot").textContent || "null");
if (first) receive(unpacked(first));
pace.ask();
openFeed({
  lastSeq: null,
  onMessage: receive,
  onState: (name) => {
    leftMs = name === "reconnecting" ? (leftMs ?? performance.now()) : null;
    const [mark, words] = CONNECTION[name];
    set(byId("connection"), { "data-state": name });
    say(byId("connection-mark"), mark);
    say(byId("connection-text"), words);
  },
});
setInterval(pace.ask, 1_000); // ages go on, and a frame that was held back in the Gantt becomes due
