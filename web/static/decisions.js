// What happened and what the planner did about it, in words: moves, plans that were kept, failures, notes, and
// what users asked for; newest first, filtered, each decision with its evidence.

import { html, keep, say, set } from "./dom.js";
import { duration, plural, text, timeOfDay } from "./format.js";

const SHOWN = 120;
const LEVELS = { info: ["·", "note"], warn: ["▲", "warning"], error: ["✖", "error"] };
const CHOICES = { move: ["⇄", "moved"], keep: ["=", "kept"], fail: ["✖", "failed"] };
const STATES = { pending: ["◌", "asked, pending"], done: ["✓", "asked, done"], failed: ["✖", "asked, failed"] };

const moved = (moves) =>
  moves.map(({ from, to, count }) => `${plural(count, "vertex", "vertices")} ${from} → ${to}`).join(", ");

const signed = (share) => `${share >= 0 ? "+" : "−"}${Math.abs(share * 100).toFixed(0)} %`;

// What a decision came to: "moved 4 vertices edge → device", "predicted 412 → 265 ms", "measured 405 → 271 ms, 1.5× as fast".
export const outcome = (decision) => {
  const { choice, moves = [], kept_s: kept, predicted_s: predicted, measured_s: measured, error } = decision;
  if (choice === "fail") return [decision.plan ? `epoch ${decision.epoch} goes on` : "the device answers alone"];
  if (choice === "keep") return [`epoch ${decision.epoch} kept: ${decision.reason}`];
  const parts = [`epoch ${decision.epoch}`];
  if (moves.length) parts.push(`moved ${moved(moves)}`);
  parts.push(`predicted ${kept === null ? "" : `${duration(kept)} → `}${duration(predicted)}`);
  if (measured !== null) {
    const before = decision.before_s ?? null;
    const gain = before === null ? 0 : before / measured;
    const judged = gain >= 1.05 ? `, ${gain.toFixed(1)}× as fast` : error === null ? "" : ` (${signed(error)})`;
    parts.push(`measured ${before === null ? "" : `${duration(before)} → `}${duration(measured)}${judged}`);
  }
  return parts;
};

const line = (kind, [mark, word], time, ...content) =>
  html(
    "li",
    { class: kind },
    html("time", {}, time),
    html("span", { class: "mark", role: "img", "aria-label": word }, mark),
    html("div", { class: "words" }, ...content),
  );

const decisionItem = (decision, time) => {
  const summary = html(
    "summary",
    {},
    html("span", { class: "cause" }, decision.cause),
    ...outcome(decision).map((part) => html("span", { class: "part" }, ` · ${part}`)),
  );
  const details = html("details", {}, summary);
  details.addEventListener("toggle", async () => {
    const { evidence } = await import("./evidence.js");
    if (details.open && details.children.length === 1) details.append(...evidence(decision));
  });
  return line(`decision ${decision.choice}`, CHOICES[decision.choice], time, details);
};

const noteItem = (note, time) => line(note.level, LEVELS[note.level] ?? LEVELS.info, time, text(note.text));

const orderItem = (order, time) =>
  line(
    `order ${order.state}`,
    STATES[order.state],
    time,
    html("span", { class: "cause" }, `${order.by}: ${order.what}`),
    html("span", { class: "part" }, ` · ${order.answer || "pending"}`),
  );

// [name, label, which items it shows]
export const FILTERS = [
  ["all", "All", () => true],
  ["moves", "Moves", ({ type, item }) => type === "decision" && item.choice === "move"],
  ["kept", "Kept", ({ type, item }) => type === "decision" && item.choice === "keep"],
  ["trouble", "Trouble", ({ type, item }) => item.level === "warn" || item.level === "error" || item.choice === "fail" || (type === "order" && item.state === "failed")],
  ["asked", "Asked", ({ type }) => type === "order"],
  ["notes", "Notes", ({ type }) => type === "note"],
];

const MAKE = { decision: decisionItem, note: noteItem, order: orderItem };
const timeOf = { decision: "at_s", note: "time_s", order: "at_s" };
const wordsOf = ({ type, item }) =>
  (type === "decision" ? `${item.cause} ${outcome(item).join(" ")} ${item.plan}` : type === "note" ? item.text : `${item.by} ${item.what} ${item.answer}`).toLowerCase();

export const createDecisions = ({ list, filters, search, count }) => {
  let shown = new Map();
  let given = [];
  let chosen = "all";
  let [clockS, clockMs] = [null, null];
  const buttons = FILTERS.map(([name, label]) =>
    html("button", { type: "button", class: "small", value: name, "aria-pressed": String(name === chosen) }, label),
  );
  filters.append(...buttons);

  const draw = () => {
    const [notes, decisions, orders] = given;
    const fits = FILTERS.find(([name]) => name === chosen)[2];
    const wanted = search.value.trim().toLowerCase();
    // What is told twice is shown once: a change by its order, unless it took the place of somebody's, a plan that
    // was asked for by its decision.
    const asked = new Set(orders.map((order) => order.id));
    const decided = new Set(decisions.map((decision) => decision.cause_id));
    const twice = ({ type, item }) =>
      chosen === "all" &&
      (type === "note"
        ? asked.has(item.cause_id) && !item.text.includes(" in place of ")
        : type === "order" && decided.has(item.id));
    const items = [
      ...notes.map((item) => ({ type: "note", item })),
      ...decisions.map((item) => ({ type: "decision", item })),
      ...orders.map((item) => ({ type: "order", item })),
    ]
      .filter((each) => fits(each) && !twice(each) && (!wanted || wordsOf(each).includes(wanted)))
      .sort((a, b) => b.item[timeOf[b.type]] - a.item[timeOf[a.type]]);
    const kept = new Map();
    for (const { type, item } of items.slice(0, SHOWN))
      kept.set(item, shown.get(item) ?? MAKE[type](item, timeOfDay(item[timeOf[type]], clockS, clockMs)));
    // What a decision has open stays open when its measured result arrives.
    for (const [item, node] of shown)
      if (!kept.has(item) && node.querySelector("details[open]")) {
        const newer = [...kept.keys()].find((each) => each.cause_id && each.cause_id === item.cause_id && each.choice);
        if (newer) kept.get(newer).querySelector("details").open = true;
      }
    shown = kept;
    keep(
      list,
      kept.size
        ? [...kept.values()]
        : [html("li", { class: "empty" }, wanted || chosen !== "all" ? "Nothing of that kind." : "Nothing has happened yet.")],
    );
    say(count, items.length > SHOWN ? `newest ${SHOWN} of ${items.length}` : "newest first");
  };

  filters.addEventListener("click", ({ target }) => {
    const button = target.closest("button");
    if (!button) return;
    chosen = button.value;
    for (const each of buttons) set(each, { "aria-pressed": String(each === button) });
    draw();
  });
  search.addEventListener("input", draw);

  return (notes, decisions, orders, nowS, nowMs) => {
    const now = [notes, decisions, orders];
    if (now.every((items, n) => items === given[n]) && clockS === nowS) return;
    if (clockS !== nowS) shown = new Map();
    [given, clockS, clockMs] = [now, nowS, nowMs];
    draw();
  };
};
