// What users asked for: who, what, and what became of it. The page shows no state of its own making: a button
// that was pressed waits for the server to say that the order is done, by the word of who it is for.

import { byId, html, markup, say, set } from "./dom.js";
import { age, left, text } from "./format.js";

const NAME_KEY = "d3bed.name";
const SHOWN = 6;
const MARKS = { pending: ["◌", "pending"], done: ["✓", "done"], failed: ["✖", "failed"] };

const askToken = async () => {
  if (!byId("token-dialog")) {
    await import("./apart.js");
    document.body.append(...(await markup("token")));
  }
  const [dialog, field] = [byId("token-dialog"), byId("token")];
  field.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  return dialog.returnValue === "use" ? field.value.trim() : "";
};

const send = (path, body) =>
  fetch(
    path,
    body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) },
  ).catch(() => {
    throw new Error("The server cannot be reached.");
  });

const toldBy = async (answer) => {
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(told.error ?? `The server answered ${answer.status}.`);
  return told;
};

// POST as JSON, or GET without a body; where the server wants its token, asks for it once and logs in: the
// session is a cookie that no script can read. Throws an Error with the server's words.
export const post = async (path, body) => {
  const answer = await send(path, body);
  if (answer.status !== 401) return toldBy(answer);
  const token = await askToken();
  if (!token) throw new Error("This needs the server's token.");
  await toldBy(await send("/api/login", { token }));
  return toldBy(await send(path, body));
};

// Who the changes of this browser are by: a name that others will read.
export const me = () => localStorage.getItem(NAME_KEY) || "the page";
export const callMe = (name) => localStorage.setItem(NAME_KEY, name.trim().slice(0, 60));

export const createOrders = () => {
  let known = new Map();
  const waiting = new Map();

  // Posts for a button: it is busy until the order has ended, and `said` tells how. With `begun` it is enough
  // that the order was taken.
  const perform = async (button, said, path, body = {}, { begun = false } = {}) => {
    if (button.getAttribute("aria-busy")) return;
    set(button, { "aria-busy": "true" });
    set(said, { class: "said" });
    say(said, "asking …");
    try {
      const { order, message } = await post(path, { ...body, by: me() });
      if (!order || begun) {
        finish(button, said, "done", message);
        return;
      }
      waiting.set(order, [button, said]);
      settle();
    } catch (error) {
      finish(button, said, "failed", error.message);
    }
  };

  const finish = (button, said, state, words) => {
    set(button, { "aria-busy": null });
    set(said, { class: `said ${state}` });
    say(said, `${MARKS[state][0]} ${words}`);
  };

  const settle = () => {
    for (const [order, [button, said]] of waiting) {
      const found = known.get(order);
      if (!found) continue;
      if (found.state === "pending") {
        say(said, `◌ ${found.what}: waiting for it to be confirmed`);
        continue;
      }
      finish(button, said, found.state, `${found.what}: ${found.answer}`);
      waiting.delete(order);
    }
  };

  const see = (orders) => {
    known = new Map(orders.map((order) => [order.id, order]));
    settle();
  };
  return { perform, see };
};

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
