// What a decision was made on: what was seen, which layers moved, the plan, and what else could have been done.

import "./apart.js";
import { html } from "./dom.js";
import { deviation, duration, plural, text } from "./format.js";

export const evidence = (decision) => {
  const parts = [];
  if (decision.seen?.length)
    parts.push(
      html("p", { class: "head" }, "Seen"),
      html("ul", {}, ...decision.seen.map((change) => html("li", {}, text(change.text)))),
    );
  for (const { from, to, count, vertices } of decision.moves ?? [])
    parts.push(
      html("p", { class: "head" }, `${from} → ${to}`),
      html("p", {}, vertices.join(", ") + (count > vertices.length ? ` and ${count - vertices.length} more` : "")),
    );
  if (decision.plan) parts.push(html("p", { class: "head" }, "Plan"), html("p", {}, decision.plan));
  if (decision.reason && decision.choice !== "keep") parts.push(html("p", { class: "muted" }, decision.reason));
  if (decision.alternatives?.length) {
    const most = Math.max(...decision.alternatives.map((each) => each.predicted_s));
    parts.push(
      html("p", { class: "head" }, "What could have been done"),
      html(
        "table",
        { class: "alternatives" },
        ...decision.alternatives.map((each) =>
          html(
            "tr",
            {},
            html("td", {}, each.plan),
            html("td", {}, html("meter", { min: 0, max: most, value: each.predicted_s, "aria-label": "predicted" })),
            html("td", {}, duration(each.predicted_s)),
          ),
        ),
      ),
    );
  }
  if (decision.measured_s !== null) {
    const before = decision.before_s ? ` The last one under the plan before took ${duration(decision.before_s)}.` : "";
    const first = `the median of its first ${plural(decision.frames, "frame")}`;
    const off = decision.error === null ? "" : `, ${deviation(decision.error)} off the prediction`;
    parts.push(html("p", {}, `Measured: ${duration(decision.measured_s)}, ${first}${off}.${before}`));
  }
  parts.push(html("p", { class: "muted cause" }, `cause ${decision.cause_id}`));
  return parts;
};
