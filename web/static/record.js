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

// Begins, or ends and saves, with each call: orders and time are the server's.
export const createRecorder = (button, said) => {
  let sinceS = null;
  return (orders, atS) => {
    if (sinceS === null) {
      sinceS = atS;
      say(said, "◌ recording what everybody changes");
    } else {
      const file = new Blob([scenarioOf(orders, sinceS, atS)], { type: "application/toml" });
      const link = html("a", { href: URL.createObjectURL(file), download: "recorded.toml" });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
      sinceS = null;
      say(said, "✓ saved as recorded.toml: d3bed scenario play recorded.toml");
    }
    say(button, sinceS === null ? "Record" : "Save");
    set(button, { "aria-pressed": String(sinceS !== null) });
  };
};
