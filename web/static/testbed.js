// The boards: a card per agent, by tier, with its health from heartbeats and from work that came through,
// what board it is and how that does.

import { html, say, set, swatch } from "./dom.js";
import { age, bytes, speed, text } from "./format.js";
import { TIERS, isAlone } from "./store.js";

// The server counts an agent as lost after 2 s of silence; while it loads or measures it may be silent longer.
const SILENT_S = 2.5;
const WORKED_S = 3;
const SLOWER = 1.25;

const HEALTH = {
  unknown: ["?", "not known", "the server cannot be reached; agents go on under the plan that they have"],
  off: ["○", "off", "its connection is gone; frames go on without it"],
  silent: ["◌", "silent", "connected, but nothing was heard for a while"],
  stalled: ["▲", "no work done", "it is in the plan and frames flow, but it has told of no finished work lately"],
  working: ["●", "working", "it answers, and its work comes through"],
  idle: ["●", "idle", "it answers; no work of the present plan is for it, or no frames flow"],
};

// Agents that compute in the plan in force: those of the route that have vertices, and those with tiles.
export const workers = (pipeline) => {
  if (isAlone(pipeline)) return new Set([pipeline.route?.device]);
  const tiers = new Set(pipeline?.plan ?? []);
  const route = TIERS.filter((tier) => tiers.has(tier)).map((tier) => pipeline.route?.[tier]);
  return new Set([...route, ...(pipeline?.tiles ?? []).flatMap((block) => block.agents)]);
};

// `unknown`, `off`, `silent`, `stalled`, `working` or `idle`; `away`: the server, `flows`: frames are being answered.
export const health = (agent, nowS, works, flows, away = false) => {
  if (away) return "unknown";
  if (agent.state !== "connected") return "off";
  if (agent.heard_s !== null && nowS - agent.heard_s > SILENT_S) return "silent";
  if (!works || !flows) return "idle";
  return agent.worked_s !== null && nowS - agent.worked_s < WORKED_S ? "working" : "stalled";
};

const boardOf = ({ facts, host }) => {
  if (!facts) return text(host);
  const known = facts.name && facts.name !== host ? `${facts.name} · ` : "";
  return `${known}${facts.cores} ${facts.cores === 1 ? "core" : "cores"} · ${bytes(facts.memory_bytes)}`;
};

const boardTitle = ({ facts, host, pid, engine, version, threads, fingerprint, data_address }) =>
  [
    `on ${text(host)}, process ${text(pid)}`,
    facts?.processor,
    `${text(engine)}, ${text(threads)} thread(s), d3bed ${text(version)}`,
    `fingerprint ${text(fingerprint)}`,
    `data at ${text(data_address)}`,
  ]
    .filter(Boolean)
    .join("\n");

// What stands out: emulated, slower than planned, throttled.
const marks = (agent) => {
  const found = [];
  if (typeof agent.speed === "number" && agent.speed !== 1)
    found.push(["emulated", speed(agent.speed), "tensors are held back to act as a board of this speed"]);
  if (agent.cpus != null)
    found.push(["emulated", `${agent.cpus} cores emulated`, "a control group gives it so much of this machine"]);
  if (agent.factor > SLOWER)
    found.push(["slow", `▲ takes ${agent.factor.toFixed(1)}×`, "compute time now, over what its profile says"]);
  if (agent.board?.throttled) found.push(["slow", "▲ throttled", agent.board.throttled]);
  if (agent.rejected > 0) found.push(["slow", `▲ ${agent.rejected} refused`, "connections of bad peers"]);
  return found;
};

// What its board does not tell (null) is left out.
const readings = ({ board, rss_bytes }) => [
  ["load", board ? `${Math.round(board.load * 100)} %` : text(null), "of all cores of its board"],
  ["mem.", bytes(rss_bytes), "resident memory of the agent"],
  ["temp.", board?.temperature_c == null ? null : `${Math.round(board.temperature_c)} °C`, "the hottest sensor of its board"],
  ["freq.", board?.frequency_hz == null ? null : `${(board.frequency_hz / 1e9).toFixed(1)} GHz`, "of its board's first core"],
];

const card = (agent, change) => {
  const parts = {
    mark: html("span", { "aria-hidden": "true" }),
    state: html("span"),
    ages: html("p", { class: "ages muted" }),
    board: html("p", { class: "board muted" }),
    readings: html("dl", { class: "readings" }),
    marks: html("p", { class: "marks" }),
    change: html("button", { type: "button", class: "small" }, "⋯"),
  };
  parts.change.addEventListener("click", () => change(agent.agent));
  set(parts.change, {
    "aria-label": `Change ${agent.agent}`,
    title: "change its load or speed, stop or kill it",
    "data-agent": agent.agent,
  });
  parts.node = html(
    "article",
    { class: "agent", "data-agent": agent.agent, "aria-label": `${agent.agent}, ${agent.tier}` },
    html(
      "div",
      { class: "name" },
      swatch(agent.tier),
      html("strong", {}, agent.agent),
      html("span", { class: "state" }, parts.mark, " ", parts.state),
      parts.change,
    ),
    parts.ages,
    parts.board,
    parts.readings,
    parts.marks,
  );
  return parts;
};

const fill = (parts, agent, nowS, works, flows, away) => {
  const kind = health(agent, nowS, works, flows, away);
  const [mark, word, title] = HEALTH[kind];
  set(parts.node, { "data-health": kind });
  set(parts.state.parentNode, { title });
  say(parts.mark, mark);
  say(parts.state, word);
  const ages = [
    `heard ${age(nowS, agent.heard_s)}`,
    agent.worked_s == null ? "no work yet" : `worked ${age(nowS, agent.worked_s)}`,
    agent.queued > 0 && `${agent.queued} queued`, // steps that wait for its compute thread
  ];
  say(parts.ages, ages.filter(Boolean).join(" · "));
  say(parts.board, boardOf(agent));
  set(parts.board, { title: boardTitle(agent) });
  readings(agent).forEach(([name, value, why], n) => {
    const pair =
      parts.readings.children[n] ??
      parts.readings.appendChild(html("div", {}, html("dt", {}, name), html("dd")));
    set(pair, { title: why, hidden: value === null });
    say(pair.lastElementChild, text(value));
  });
  const found = marks(agent);
  while (parts.marks.children.length > found.length) parts.marks.lastElementChild.remove();
  found.forEach(([kindOfMark, words, why], n) => {
    const chip = parts.marks.children[n] ?? parts.marks.appendChild(html("span"));
    set(chip, { class: `mark ${kindOfMark}`, title: why });
    say(chip, words);
  });
  set(parts.change, { disabled: away || agent.state !== "connected" });
};

const TIER_WORDS = { device: "device", edge: "edge", cloud: "cloud" };

export const createTestbed = ({ tiers, caption, change }) => {
  const cards = new Map();
  const columns = new Map(
    TIERS.map((tier) => {
      const list = html("div", { class: "agents" });
      tiers.append(
        html("div", { class: "tier", "data-tier": tier }, html("h3", {}, swatch(tier), TIER_WORDS[tier]), list),
      );
      return [tier, list];
    }),
  );
  return (state, pipelines, nowS, away) => {
    const works = new Set(pipelines.flatMap((pipeline) => [...workers(pipeline)]));
    const flows = pipelines.some(
      ({ phase, counting, rate_per_s: wanted, frames }) =>
        (phase === "running" || counting) && wanted !== 0 && frames.answered > 0,
    );
    const agents = [...state.agents].sort((a, b) => a.agent.localeCompare(b.agent));
    for (const [name, parts] of cards)
      if (!agents.some((agent) => agent.agent === name)) {
        parts.node.remove();
        cards.delete(name);
      }
    for (const agent of agents) {
      let parts = cards.get(agent.agent);
      if (!parts) {
        cards.set(agent.agent, (parts = card(agent, change)));
        columns.get(agent.tier)?.append(parts.node);
      }
      fill(parts, agent, nowS, works.has(agent.agent), flows, away);
    }
    for (const [tier, list] of columns)
      set(list.parentNode, { hidden: agents.length > 0 && !agents.some((agent) => agent.tier === tier) });
    const up = agents.filter((agent) => agent.state === "connected").length;
    const here = away ? `the server is away, heard ${age(nowS, state.nowS)}` : `${up} of ${agents.length} agents are here`;
    say(caption, agents.length ? here : "");
    set(tiers, { hidden: !agents.length });
  };
};
