// What is told of the vertex that is looked at: its size, its times on each tier, and why it is where it is, which
// is asked of the server, once per epoch.

import "./apart.js";
import { html, say, swatch } from "./dom.js";
import { bytes, duration, plural, shape, text } from "./format.js";
import { crossingS } from "./graph.js";
import { TIERS } from "./store.js";

const WAIT_MS = 300;
const KEPT = 300;

const times = (factor) => (factor >= 1 ? `${factor.toPrecision(3)}× as fast` : `${(1 / factor).toPrecision(3)}× slower`);

// One answer of the server in words, a sentence per entry.
export const sentences = (why) => {
  const found = [];
  if (why.allowed.length === 1) found.push(`It may only be on the ${why.allowed[0]}.`);
  if (why.best !== why.tier) found.push(`The optimal plan has it on the ${why.best}; this strategy does not.`);
  for (const other of why.elsewhere) {
    if (other.refused) {
      if (why.allowed.length > 1) found.push(`Not on the ${other.tier}: ${other.refused}.`);
      continue;
    }
    const parts = [
      [other.compute_s, "computing"],
      [other.transfer_s, "sending"],
    ]
      .filter(([seconds]) => Math.abs(seconds) >= 5e-5)
      .map(([seconds, what]) => `${seconds > 0 ? "+" : "−"}${duration(Math.abs(seconds))} ${what}`);
    const along = other.moved > 1 ? `, with ${plural(other.moved - 1, "other vertex", "other vertices")}` : "";
    const more = other.more_s < 5e-5 ? "as good" : `${duration(other.more_s)} more a frame`;
    found.push(`On the ${other.tier}${along}: ${more}${parts.length ? ` (${parts.join(", ")})` : ""}.`);
  }
  const next = why.triggers[0];
  if (next) found.push(`It would go to the ${next.to} if ${next.name} were ${times(next.factor)}.`);
  return found;
};

// Where the output of vertex `v` crosses tiers: to which, and what the links take.
const crossing = (v, { graph, pipeline, links }) => {
  if (!pipeline.plan) return "";
  const from = pipeline.plan[v];
  const to = new Set(graph.edges.filter(([producer]) => producer === v).map(([, c]) => pipeline.plan[c]));
  to.delete(from);
  const words = [...to].map((tier) => {
    const taken = crossingS(links, pipeline.route, from, tier, graph.vertices[v].output_bytes);
    return `to the ${tier}${taken === null ? "" : ` in ${duration(taken)}`}`;
  });
  return words.length ? `, ${words.join(" and ")}` : "";
};

// What it takes on a tier: by the profile, and now, if that is known and another.
const timeOn = (tier, v, { pipeline, agents }) => {
  const [seconds, agent] = [pipeline.profile_s[tier][v], pipeline.route?.[tier]];
  const factor = agents.find((each) => each.agent === agent)?.factor;
  const live = factor && Math.abs(factor - 1) >= 0.02 ? `, now ${duration(seconds * factor)}` : "";
  return `${tier} ${duration(seconds)}${pipeline.guessed?.includes(agent) ? " (predicted)" : ""}${live}`;
};

const described = (v, state) => {
  const { graph, pipeline } = state;
  const vertex = graph.vertices[v];
  const tier = pipeline.plan?.[v];
  const agent = pipeline.route?.[tier];
  const times = TIERS.filter((each) => pipeline.profile_s?.[each]).map((each) =>
    html("span", { class: each === tier ? "time chosen" : "time" }, swatch(each), timeOn(each, v, state)),
  );
  return [
    html("strong", {}, vertex.name),
    html("span", {}, vertex.kind),
    html("span", {}, shape(vertex.shape, vertex.dtype)),
    html("span", {}, `${bytes(vertex.output_bytes)} out${crossing(v, state)}`),
    html("span", {}, `${bytes(vertex.weight_bytes)} weights`),
    html("span", {}, tier ? `runs on the ${tier}${agent ? ` (${agent})` : ""}` : "not placed yet"),
    ...(times.length ? times : [html("span", { class: "muted" }, "times are not measured yet")]),
  ];
};

// Tells of vertex `v` in these two; of none (null) only why no longer.
export const createVertex = (details, why) => {
  const tellWhy = createWhy(why);
  return (v, state) => {
    const vertex = state.graph?.vertices[v];
    if (vertex) details.replaceChildren(...described(v, state));
    tellWhy(vertex, state.pipeline);
  };
};

const createWhy = (box) => {
  const known = new Map();
  let timer = null;
  let wanted = null;
  let shown = null;

  const show = (key, words) => {
    if (key !== wanted) return;
    box.replaceChildren(...(words.length ? [html("strong", {}, "Why there: "), words.join(" ")] : []));
  };

  const ask = async (key, path) => {
    const answer = await fetch(path).catch(() => null);
    const told = await answer?.json().catch(() => null);
    const words = answer?.ok ? sentences(told) : [text(told?.error ?? "the server cannot be reached")];
    if (answer?.ok) {
      known.set(key, words);
      if (known.size > KEPT) known.delete(known.keys().next().value);
    }
    show(key, words);
  };

  return (vertex, pipeline) => {
    if (!vertex || !pipeline?.plan) {
      clearTimeout(timer);
      wanted = shown = null;
      say(box, "");
      return;
    }
    const key = `${pipeline.id} ${pipeline.epoch} ${vertex.name}`;
    if (key === wanted) return;
    clearTimeout(timer);
    wanted = key;
    if (known.has(key)) {
      show(key, known.get(key));
      return;
    }
    // After a switch of plan the old words stay until the new ones are here.
    if (vertex.name !== shown) say(box, "");
    shown = vertex.name;
    const path = `/api/pipelines/${encodeURIComponent(pipeline.id)}/why/${encodeURIComponent(vertex.name)}`;
    timer = setTimeout(() => ask(key, path), WAIT_MS);
  };
};
