// Asking the server for a change: posts it, with the server's token where that is wanted, and follows what becomes
// of it. It comes with the first button that is pressed.

import "./apart.js";
import { byId, markup, say, set } from "./dom.js";
import { MARKS, me } from "./orders.js";

const askToken = async () => {
  if (!byId("token-dialog")) document.body.append(...(await markup("token")));
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

export const createAsking = () => {
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
