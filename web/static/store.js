// What the page knows, as a pure function of what the server said: reduce(state, message) → state.
//
// A snapshot replaces everything but the seconds, which are asked for on their own; numbered events change
// one thing each. Slices that a message does not touch keep their identity, so that a view can tell by ===
// whether it must draw again. Live events and those of a replay go through the same function.

const KEPT = { frames: 100, notes: 200, decisions: 200, orders: 100 };
const SECONDS_KEPT_S = 600;

export const TIERS = ["device", "edge", "cloud"];

// kind of event → the slice it changes, and the fields that name the thing in it
const UPSERTS = {
  agent: ["agents", ["agent"]],
  link: ["links", ["from", "to"]],
  pipeline: ["pipelines", ["id"]],
  epoch: ["epochs", ["pipeline", "epoch"]],
  decision: ["decisions", ["cause_id"]],
  order: ["orders", ["id"]],
};
const WHOLES = ["conditions", "scene", "unstored"];
const APPENDS = { frame: "frames", note: "notes", second: "seconds" };

export const EMPTY = Object.freeze({
  seq: null,
  nowS: null,
  agents: [],
  links: [],
  pipelines: [],
  epochs: [],
  frames: [],
  notes: [],
  decisions: [],
  strategies: [],
  models: [],
  conditions: [],
  orders: [],
  networks: [],
  scenarios: [],
  scene: null,
  unstored: null,
  guarded: false,
  seconds: [],
});

export const reduce = (state, message) => {
  if (message.type === "snapshot")
    return {
      ...EMPTY,
      ...message.state,
      pipelines: message.state.pipelines.map((pipeline) => withGraphOf(state.pipelines, pipeline)),
      seconds: state.seconds,
      seq: message.seq,
      nowS: message.now,
    };
  if (message.type === "seconds") return { ...state, seconds: joined(message.seconds, state.seconds) };
  if (message.type !== "events") return state;
  const next = { ...state, seq: message.seq, nowS: message.now };
  const copied = new Set(); // slices that are this state's own
  for (const event of message.events) if (event.seq > state.seq) apply(next, event, copied);
  for (const slice of copied)
    if (next[slice].length > KEPT[slice]) next[slice].splice(0, next[slice].length - KEPT[slice]);
  if (next.seconds !== state.seconds) next.seconds = lately(next.seconds);
  return next;
};

// The page carries graphs in fewer words (`_compact` in server/pages.py): vertices in columns, {name: […], …}, and
// of edges by how much each begins after the one before, and how far it leads.
export const unpacked = (message) => {
  for (const { graph } of message.state.pipelines)
    if (graph) {
      const [columns, [steps, lengths]] = [Object.entries(graph.vertices), graph.edges];
      graph.vertices = graph.vertices.name.map((_, v) => Object.fromEntries(columns.map(([name, all]) => [name, all[v]])));
      let from = 0;
      graph.edges = steps.map((step, n) => [(from += step), from + lengths[n]]);
    }
  return message;
};

// A graph that is told again stays the same object, so that it is not drawn again.
const withGraphOf = (known, pipeline) => {
  const graph = known.find(({ id }) => id === pipeline.id)?.graph;
  return graph && JSON.stringify(graph) === JSON.stringify(pipeline.graph) ? { ...pipeline, graph } : pipeline;
};

const lately = (seconds) => {
  const oldest = seconds.at(-1).at_s - SECONDS_KEPT_S;
  return seconds[0].at_s <= oldest ? seconds.filter((second) => second.at_s > oldest) : seconds;
};

// Seconds that were asked for, and those that were told meanwhile, each once, in order.
const joined = (asked, told) => {
  const known = new Map([...told, ...asked].map((second) => [`${second.at_s} ${second.pipeline}`, second]));
  const all = [...known.values()].sort((a, b) => a.at_s - b.at_s);
  return all.length ? lately(all) : all;
};

// Whether a message joins on to what is known; if not, something was missed.
export const follows = (seq, message) =>
  message.type === "snapshot" ||
  (message.events[0]?.seq ?? message.seq) <= seq + (message.events.length ? 1 : 0);

const own = (next, slice, copied) => {
  if (!copied.has(slice)) next[slice] = [...next[slice]];
  copied.add(slice);
  return next[slice];
};

const apply = (next, event, copied) => {
  if (event.kind in APPENDS) {
    own(next, APPENDS[event.kind], copied).push(event.data);
  } else if (WHOLES.includes(event.kind)) {
    next[event.kind] = event.data;
  } else if (event.kind in UPSERTS) {
    const [slice, keys] = UPSERTS[event.kind];
    const items = own(next, slice, copied);
    const at = items.findIndex((item) => keys.every((key) => item[key] === event.data[key]));
    if (at < 0) items.push(event.data);
    else items[at] = { ...items[at], ...event.data };
  }
};

// ── questions that several views ask ────────────────────────────────────────────────────────────

export const pipelineOf = (state, id) =>
  state.pipelines.find((p) => p.id === id) ?? state.pipelines[0] ?? null;

// The plan needs who is lost, and there is none without it (`phase` in server/pipeline.py).
export const isAlone = (pipeline) => Boolean(pipeline?.phase_text?.startsWith("the device answers alone"));

// Tensors that cross from one tier to the next on the way forward, each once: [{from, to, tensors, bytes}].
export const crossings = (graph, plan) => {
  if (!graph || !plan) return [];
  const reach = graph.vertices.map((_, v) => TIERS.indexOf(plan[v]));
  const furthest = [...reach];
  for (const [producer, consumer] of graph.edges)
    furthest[producer] = Math.max(furthest[producer], reach[consumer]);
  return [0, 1]
    .map((tier) => {
      const crossing = graph.vertices.filter((_, v) => reach[v] <= tier && furthest[v] > tier);
      return {
        from: TIERS[tier],
        to: TIERS[tier + 1],
        tensors: crossing.length,
        bytes: crossing.reduce((sum, vertex) => sum + vertex.output_bytes, 0),
      };
    })
    .filter(({ tensors }) => tensors > 0);
};

// A frame's latency in parts: compute per tier, and the rest (transfer, waiting, queues).
export const parts = (frame) => {
  const compute = TIERS.map((tier) => frame.compute_s?.[tier] ?? 0);
  const rest = Math.max(0, (frame.latency_s ?? 0) - compute.reduce((sum, s) => sum + s, 0));
  return [...compute, rest];
};

export const median = (numbers) => {
  const sorted = numbers.filter((n) => n !== null && n !== undefined).sort((a, b) => a - b);
  if (!sorted.length) return null;
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
};
