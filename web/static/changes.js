// What users asked for lately, and what is changed at present, by whomever: two lists that come with the first entry.

import "./apart.js";
import { html, say, set } from "./dom.js";
import { age, left, text } from "./format.js";
import { MARKS } from "./orders.js";

const SHOWN = 6;

// The list of the last ones, newest first; rows are kept, as ages change every second.
export const createOrderList = (part, list) => (orders, nowS) => {
  const shown = orders.slice(-SHOWN).reverse();
  set(part, { hidden: !shown.length });
  while (list.children.length > shown.length) list.lastElementChild.remove();
  shown.forEach((order, n) => {
    const item =
      list.children[n] ??
      list.appendChild(
        html("li", {}, html("span", { role: "img" }), html("span", { class: "what" }), html("span", { class: "muted" })),
      );
    const [mark, word] = MARKS[order.state];
    const [sign, what, by] = item.children;
    set(item, { "data-state": order.state, title: order.answer || null });
    set(sign, { "aria-label": word });
    say(sign, mark);
    say(what, order.what);
    const ended = order.state === "failed" ? `: ${text(order.answer)}` : "";
    say(by, `by ${order.by}, ${age(nowS, order.at_s)}${ended}`);
  });
};

// What is changed at present, each with its time left and a way back.
export const createConditions = (part, list, orders) => (conditions, nowS) => {
  set(part, { hidden: !conditions.length });
  while (list.children.length > conditions.length) list.lastElementChild.remove();
  conditions.forEach((condition, n) => {
    let item = list.children[n];
    if (!item) {
      const undo = html("button", { type: "button", class: "small" }, "Undo");
      const said = html("p", { class: "said", role: "status" });
      item = list.appendChild(
        html("li", {}, html("span", { class: "what" }), html("span", { class: "muted" }), undo, said),
      );
      undo.addEventListener("click", () => {
        const [path, body] = undoing(item.condition);
        orders.perform(undo, said, path, body);
      });
    }
    if (item.condition?.since_s !== condition.since_s) say(item.lastElementChild, "");
    item.condition = condition;
    const [what, by, undo] = item.children;
    say(what, `${condition.subject}: ${condition.what}${condition.emulated ? ", emulated" : ""}`);
    say(by, `${left(condition.until_s, nowS)}, by ${condition.by}`);
    set(undo, { "aria-label": `Undo ${condition.subject}: ${condition.what}` });
  });
};

const undoing = ({ agents, values }) => {
  if (agents.length === 2) return ["/api/links/reset", { from: agents[0], to: agents[1] }];
  const agent = `/api/agents/${encodeURIComponent(agents[0])}`;
  return "load" in values ? [`${agent}/load`, { processes: 0 }] : [`${agent}/speed`, { speed: null }];
};
