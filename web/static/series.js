// Seconds, epochs and events of a pipeline as columns and marks for charts. Pure.

export const PARTS = ["device", "edge", "cloud", "transfer", "queue", "wait"];

export const PART_NAMES = {
  device: "device compute",
  edge: "edge compute",
  cloud: "cloud compute",
  transfer: "transfer",
  queue: "queue",
  wait: "wait",
};

const KEPT_LINKS = 6;

// Round steps that divide `most` into about four: 1, 2, 2.5 or 5 times a power of ten.
export const ticks = (most) => {
  const rough = most / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].find((s) => s * power >= rough) * power;
  return Array.from({ length: Math.ceil(most / step) + 1 }, (_, n) => n * step);
};

// One entry per second of [fromS, untilS]; null where nothing was told, so that lines break there.
const spread = (seconds, fromS, untilS, value) => {
  const found = new Array(untilS - fromS + 1).fill(null);
  for (const second of seconds)
    if (second.at_s >= fromS && second.at_s <= untilS) found[second.at_s - fromS] = value(second) ?? null;
  return found;
};

// {times, parts, p50, p95, p99, predicted, framesPerS, links: [{name, achieved, target}], saved} of a window.
export const columns = (seconds, untilS, windowS) => {
  const until = Math.floor(untilS);
  const from = until - windowS + 1;
  const of = (value) => spread(seconds, from, until, value);
  const inside = seconds.filter((second) => second.at_s >= from && second.at_s <= until);
  const sizes = new Map();
  for (const { links } of inside)
    for (const [name, [size]] of Object.entries(links)) sizes.set(name, (sizes.get(name) ?? 0) + size);
  const busiest = [...sizes].sort((a, b) => b[1] - a[1]).slice(0, KEPT_LINKS);
  const total = (key) => inside.reduce((sum, second) => sum + second[key], 0);
  return {
    times: Array.from({ length: windowS }, (_, n) => from + n),
    parts: PARTS.map((part) => of((second) => second.parts_s[part])),
    p50: of((second) => second.p50_s),
    p95: of((second) => second.p95_s),
    p99: of((second) => second.p99_s),
    predicted: of((second) => second.predicted_s),
    framesPerS: of((second) => second.frames_per_s),
    links: busiest.map(([name]) => ({
      name,
      achieved: of((second) => second.links[name]?.[1]),
      target: of((second) => second.links[name]?.[2]),
    })),
    backboneBytes: total("backbone_bytes"),
    cloudOnlyBytes: total("cloud_only_bytes"),
    latest: inside.at(-1) ?? null,
    newest: inside.findLast((second) => latencyOf(second) !== null) ?? null, // that a frame was answered in
  };
};

// Rows of numbers → running sums from the first row up: what stacked areas are drawn from.
export const stacked = (rows) => {
  const sums = rows[0].map(() => 0);
  return rows.map((row) => row.map((value, n) => (value === null ? null : (sums[n] += value))));
};

// What happened in a window: {atS, kind: "switch" | "change", text}, oldest first. A change that another plan
// came of is told by that one's mark.
export const marks = (epochs, decisions, fromS, untilS) => {
  const inside = (atS) => typeof atS === "number" && atS >= fromS && atS <= untilS;
  const said = new Map(decisions.map((decision) => [decision.cause_id, decision.text]));
  const switches = epochs
    .filter((epoch) => inside(epoch.activated_at))
    .map((epoch) => ({
      atS: epoch.activated_at,
      kind: "switch",
      short: `epoch ${epoch.epoch}`,
      cause: epoch.cause_id,
      text: said.get(epoch.cause_id) ?? `epoch ${epoch.epoch} (${epoch.strategy}): ${epoch.cause}`,
    }));
  const changes = decisions
    .filter((decision) => inside(decision.at_s) && !switches.some((each) => each.cause === decision.cause_id))
    .map((decision) => ({ atS: decision.at_s, kind: "change", short: "", text: decision.text }));
  return [...switches, ...changes].sort((a, b) => a.atS - b.atS);
};

// What of a second is measured against its prediction: the sum of the parts.
export const latencyOf = (second) =>
  second && PARTS.some((part) => part in second.parts_s)
    ? PARTS.reduce((sum, part) => sum + (second.parts_s[part] ?? 0), 0)
    : null;
