// Links, agents, epochs and events in words and numbers.

import { html, say, set, swatch } from "./dom.js";
import { bytes, deviation, duration, left, rate, speed, text, timeOfDay } from "./format.js";
import { TIERS } from "./store.js";

const OFF_BY = 0.02;
const EPOCHS_SHOWN = 12;
const EVENTS_SHOWN = 100;

// Rows are kept and only changed texts are touched, so that a selection survives the next update.
// `columns`: [(item) => text, or {text, title, class, mark}].
const fill = (body, items, columns, empty) => {
  if (!items.length) {
    if (!body.querySelector(".empty"))
      body.replaceChildren(html("tr", {}, html("td", { class: "empty", colspan: columns.length }, empty)));
    return;
  }
  body.querySelector(".empty")?.closest("tr").remove();
  while (body.rows.length > items.length) body.lastElementChild.remove();
  items.forEach((item, n) => {
    const row = body.rows[n] ?? body.appendChild(html("tr"));
    columns.forEach((column, c) => {
      const made = column(item);
      const { text: words, title, class: name, mark } = typeof made === "string" ? { text: made } : made;
      const cell = row.cells[c] ?? row.appendChild(html("td", {}, html("span")));
      set(cell, { title, class: name });
      if ((cell.dataset.mark ?? "") !== (mark ?? "")) {
        cell.querySelector("svg")?.remove();
        if (mark) cell.prepend(swatch(mark));
        cell.dataset.mark = mark ?? "";
      }
      say(cell.lastElementChild, words);
    });
  });
};

// Draws only when one of the values it was given is another one.
const whenChanged = (draw) => {
  let last = [];
  return (...values) => {
    if (values.length === last.length && values.every((value, n) => value === last[n])) return;
    last = values;
    draw(...values);
  };
};

const offTarget = (link) => {
  if (link.deviation === null || link.deviation === undefined) return text(null);
  const off = Math.abs(link.deviation) > OFF_BY;
  return {
    text: `${off ? "⚠ " : ""}${deviation(link.deviation)}`,
    class: off ? "flag" : "fine",
    title: off ? "more than 2 % off the target rate" : "within 2 % of the target rate",
  };
};

export const createLinks = (body) =>
  whenChanged((links) =>
    fill(
      body,
      [...links].sort((a, b) => (b.bytes > 0) - (a.bytes > 0)), // what carries something comes first
      [
        (link) => `${link.from} → ${link.to}`,
        (link) => ({
          text: rate(link.estimate_bytes_per_s ?? link.bytes_per_s),
          title: `as plans take it now; the last probe found ${rate(link.bytes_per_s)}`,
        }),
        (link) =>
          link.target_bytes_per_s ? rate(link.target_bytes_per_s) : { text: "unshaped", class: "muted" },
        (link) => rate(link.achieved_bytes_per_s),
        offTarget,
        (link) => ({ text: duration(link.latency_s), title: `round trip ${duration(link.rtt_s)}` }),
        (link) => bytes(link.bytes),
      ],
      "No link has been measured yet.",
    ),
  );

const boardLoad = ({ board }) =>
  board
    ? {
        text: `${Math.round(board.load * 100)} %`,
        title:
          `of its board; this agent keeps ${board.own_cores.toFixed(2)} cores busy, telling the server ` +
          `${(board.report_cores * 100).toFixed(1)} % of one; ${Math.round(board.memory * 100)} % of its memory is used`,
      }
    : text(null);

const boardTemperature = ({ board }) => {
  const words = board?.temperature_c == null ? text(null) : `${Math.round(board.temperature_c)} °C`;
  if (!board?.throttled) return { text: words, title: "the hottest sensor of its board" };
  return { text: `⚠ ${words} slowed`, class: "flag", title: board.throttled };
};

export const createAgents = (body) =>
  whenChanged((agents) =>
    fill(
      body,
      [...agents].sort(
        (a, b) => TIERS.indexOf(a.tier) - TIERS.indexOf(b.tier) || a.agent.localeCompare(b.agent),
      ),
      [
        (agent) => ({
          text: agent.agent,
          mark: agent.tier,
          title: `on ${text(agent.host)}, process ${text(agent.pid)}`,
        }),
        (agent) => agent.tier,
        (agent) =>
          agent.state === "connected"
            ? { text: "● connected", class: "fine" }
            : { text: "○ lost", class: "flag" },
        (agent) => ({
          text: agent.cpus == null ? speed(agent.speed) : `${agent.cpus} cores`,
          title:
            agent.cpus != null
              ? "a control group gives it so much of this machine"
              : agent.speed === 1
                ? "nothing is held"
                : "tensors are held back to act as a machine of this speed",
        }),
        (agent) => ({
          text: agent.factor == null ? "–" : `${agent.factor.toFixed(2)}×`,
          title: "compute time now, over what the profile says",
          class: agent.factor > 1.25 ? "flag" : "",
        }),
        (agent) => ({
          text: text(agent.engine),
          title: `d3bed ${text(agent.version)}, fingerprint ${text(agent.fingerprint)}`,
        }),
        (agent) => text(agent.threads),
        boardLoad,
        boardTemperature,
        (agent) => bytes(agent.rss_bytes),
        (agent) => text(agent.queued),
        (agent) => text(agent.data_address),
      ],
      "No agent has registered yet.",
    ),
  );

export const createEpochs = (body) =>
  whenChanged((epochs) =>
    fill(
      body,
      [...epochs].sort((a, b) => b.epoch - a.epoch).slice(0, EPOCHS_SHOWN),
      [
        (epoch) => text(epoch.epoch),
        (epoch) => ({
          text: epoch.state === "active" ? "▶ active" : text(epoch.state),
          class: epoch.state === "active" ? "fine" : epoch.state === "failed" ? "flag" : "muted",
        }),
        (epoch) => text(epoch.strategy),
        (epoch) => ({ text: text(epoch.cause), title: text(epoch.cause), class: "words" }),
        (epoch) => text(epoch.moved),
        (epoch) => duration(epoch.predicted_s),
        (epoch) => duration(epoch.measured_s),
      ],
      "No plan has been made yet.",
    ),
  );

// What users changed, each with its time left; rows are kept, since the time changes every second.
export const createConditions = (part, list) => (conditions, nowS) => {
  set(part, { hidden: !conditions.length });
  while (list.children.length > conditions.length) list.lastElementChild.remove();
  conditions.forEach((condition, n) => {
    const item = list.children[n] ?? list.appendChild(html("li", {}, html("span"), html("span", { class: "muted" })));
    say(item.firstElementChild, `${condition.subject}: ${condition.what}${condition.emulated ? ", emulated" : ""}`);
    say(item.lastElementChild, `${left(condition.until_s, nowS)}, by ${condition.by}`);
  });
};

const LEVELS = { info: ["·", "note"], warn: ["▲", "warning"], error: ["✖", "error"] };

const at = (event) => event.time_s ?? event.at_s; // of a note, of a decision

export const createEvents = (list) => {
  let shown = new Map();
  return whenChanged((notes, decisions, nowS, nowMs) => {
    const items = [...notes, ...decisions].sort((a, b) => at(b) - at(a)).slice(0, EVENTS_SHOWN);
    const kept = new Map();
    for (const note of items) {
      const [mark, level] = LEVELS[note.level] ?? LEVELS.info;
      kept.set(
        note,
        shown.get(note) ??
          html(
            "li",
            { class: note.level },
            html("time", {}, timeOfDay(at(note), nowS, nowMs)),
            html("span", { class: "mark", role: "img", "aria-label": level }, mark),
            html("span", { class: "words" }, text(note.text)),
            ...(note.cause_id
              ? [
                  html(
                    "span",
                    { class: "cause", title: "what belongs together shares this cause" },
                    `cause ${note.cause_id}`,
                  ),
                ]
              : []),
          ),
      );
    }
    shown = kept;
    list.replaceChildren(
      ...(kept.size ? kept.values() : [html("li", { class: "empty" }, "Nothing has happened yet.")]),
    );
  });
};
