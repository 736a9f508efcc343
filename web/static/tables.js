// Links and epochs in words and numbers.

import { html, say, set, swatch } from "./dom.js";
import { bytes, deviation, duration, rate, text } from "./format.js";

const OFF_BY = 0.02;
const EPOCHS_SHOWN = 12;

// Rows are kept and only changed texts are touched, so that a selection survives the next update.
// `columns`: [(item) => text, or {text, title, class, mark, button}]; a button is {text, value, label, disabled}.
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
      const { text: words, title, class: name, mark, button } = typeof made === "string" ? { text: made } : made;
      const cell = row.cells[c] ?? row.appendChild(html("td", {}, html("span")));
      set(cell, { title, class: name });
      if ((cell.dataset.mark ?? "") !== (mark ?? "")) {
        cell.querySelector("svg")?.remove();
        if (mark) cell.prepend(swatch(mark));
        cell.dataset.mark = mark ?? "";
      }
      if (button) {
        const node = cell.querySelector("button") ?? cell.appendChild(html("button", { type: "button", class: "small" }));
        set(node, { value: button.value, "aria-label": button.label, disabled: button.disabled });
        say(node, button.text);
        return;
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

// A link of which nothing was heard for so long is as it was, not as it is.
const OLD_S = 90;

const linkRate = (link) => {
  const age = link.estimate_age_s;
  const words = rate(link.estimate_bytes_per_s ?? link.bytes_per_s);
  const spread = typeof link.estimate_spread === "number" ? ` ± ${Math.round(link.estimate_spread * 100)} %` : "";
  return {
    text: words,
    class: age > OLD_S ? "muted" : "",
    title: `as plans take it now${spread}; the last probe found ${rate(link.bytes_per_s)}`,
  };
};

// Where nobody answers at the peer's address.
const byWay = ({ from, to, via }) => {
  if (!via) return "";
  return via === from ? ` (${to} opens the line)` : ` (by way of ${via})`;
};

export const createLinks = (body, change) => {
  body.addEventListener("click", ({ target }) => {
    const button = target.closest("button");
    if (button) change(button.value.split("\n"));
  });
  return whenChanged((links, agents, open) => {
    const here = new Set(agents.filter((agent) => agent.state === "connected").map((agent) => agent.agent));
    const off = (link) => !here.has(link.from) || !here.has(link.to);
    const rows = [...links].sort((a, b) => off(a) - off(b) || (b.bytes > 0) - (a.bytes > 0));
    fill(
      body,
      rows,
      [
        (link) => ({
          text: `${link.from} → ${link.to}${off(link) ? "" : byWay(link)}`,
          class: off(link) ? "muted" : "",
          title: off(link) ? "an end of it is off" : link.blocked || "",
        }),
        (link) => (off(link) ? { text: "off", class: "muted" } : linkRate(link)),
        (link) =>
          link.target_bytes_per_s ? rate(link.target_bytes_per_s) : { text: "unshaped", class: "muted" },
        (link) => rate(link.achieved_bytes_per_s),
        offTarget,
        (link) => ({ text: duration(link.rtt_s), title: `one way ${duration(link.latency_s)}` }),
        (link) => bytes(link.bytes),
        (link) => ({
          text: "",
          button: {
            text: "Change…",
            value: `${link.from}\n${link.to}`,
            label: `Change ${link.from} to ${link.to}`,
            disabled: off(link) || !link.target_bytes_per_s,
          },
        }),
      ],
      "No link has been measured yet.",
    );
  });
};

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
