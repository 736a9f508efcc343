// Why a vertex is where it is: asked of the server for the one that is looked at, once per epoch.

import { html, say } from "./dom.js";
import { duration, plural, text } from "./format.js";

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

export const createWhy = (box) => {
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

  return {
    about: (vertex, pipeline) => {
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
    },
  };
};
