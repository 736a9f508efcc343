// What users ask for: who, and what becomes of it. The page shows no state of its own making: a button
// that was pressed waits for the server to say that the order is done, by the word of who it is for.

import { say } from "./dom.js";

const NAME_KEY = "d3bed.name";
export const MARKS = { pending: ["◌", "pending"], done: ["✓", "done"], failed: ["✖", "failed"] };

// Who the changes of this browser are by: a name that others will read.
export const me = () => localStorage.getItem(NAME_KEY) || "the page";
export const callMe = (name) => localStorage.setItem(NAME_KEY, name.trim().slice(0, 60));

// `perform(button, said, path, body, {begun})` asks (see `asking.js`, which comes with the first press);
// `see(orders)` hears what became of all that was asked.
export const createOrders = () => {
  let orders = [];
  let asking = null;
  return {
    perform: async (button, said, ...asked) => {
      asking ??= import("./asking.js").then(({ createAsking }) => createAsking(), () => (asking = null));
      const found = await asking;
      if (!found) {
        say(said, `${MARKS.failed[0]} The server cannot be reached.`);
        return;
      }
      found.see(orders);
      found.perform(button, said, ...asked);
    },
    see: (now) => {
      orders = now;
      asking?.then((found) => found?.see(now));
    },
  };
};
