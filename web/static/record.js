// What users do, kept as a scenario file.

import { html, say, set } from "./dom.js";

const toml = (value) => JSON.stringify(value);

// `d3bed.scenario/1` of the orders from `sinceS` on that were done, but for what is no part of scenarios.
export const scenarioOf = (orders, sinceS, untilS) => {
  const done = orders.filter(
    (order) => order.at_s >= sinceS && order.state === "done" && order.action.action && !order.by.startsWith("scenario "),
  );
  const lines = [
    'format = "d3bed.scenario/1"',
    `description = "recorded on the page: ${done.length} events"`,
    `duration_s = ${Math.max(1, Math.ceil(Math.max(untilS, ...done.map((order) => order.at_s)) - sinceS))}`,
  ];
  for (const { action, at_s: atS } of done) {
    const at = Math.max(0, Math.round((atS - sinceS) * 100) / 100);
    lines.push("", "[[events]]", `at_s = ${at}`, ...Object.entries(action).map(([k, v]) => `${k} = ${toml(v)}`));
  }
  return `${lines.join("\n")}\n`;
};

// `press` begins, or ends and saves; `saw` hears of orders meanwhile, as servers tell the latest ones only. Orders
// and time are the server's.
export const createRecorder = (button, said) => {
  let sinceS = null;
  const known = new Map();
  const saw = (orders) => {
    if (sinceS !== null) for (const order of orders) if (order.at_s >= sinceS) known.set(order.id, order);
  };
  const press = (orders, atS) => {
    if (sinceS === null) {
      known.clear();
      sinceS = atS;
      say(said, "◌ recording what everybody changes");
    } else {
      saw(orders);
      const all = [...known.values()].sort((a, b) => a.at_s - b.at_s);
      const file = new Blob([scenarioOf(all, sinceS, atS)], { type: "application/toml" });
      const link = html("a", { href: URL.createObjectURL(file), download: "recorded.toml" });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
      sinceS = null;
      const pending = all.filter(({ state }) => state === "pending").length;
      const without = pending ? `, without ${pending} that had not ended` : "";
      say(said, `✓ saved as recorded.toml${without}: d3bed scenario play recorded.toml`);
    }
    say(button, sinceS === null ? "Record" : "Save");
    set(button, { "aria-pressed": String(sinceS !== null) });
  };
  return { press, saw };
};
