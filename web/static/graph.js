// The network as a layered graph: the server gives columns and lanes, this draws them to fit.
//
// Shape tells the kind of layer, colour and texture its tier, a bold dashed line a tensor that crosses tiers,
// with its bytes and what the link takes for them; a dashed frame a block in tiles. One tab stop: the arrow
// keys walk through the vertices. The whole can be zoomed and dragged, and searched. After a switch of plan
// only what moved is marked; above `CALM` vertices nothing is animated.
//
// An element for every vertex, and one each for all edges, all that cross tiers and all rings of a kind: a
// thousand vertices are drawn in a fraction of what an element for every stroke would take.

import { say, set, svg, swatch, html, onWidth } from "./dom.js";
import { bytes, duration, plural, text } from "./format.js";
import { createZoom } from "./zoom.js";
import { TIERS, crossings } from "./store.js";

const MARGIN = 24;
const PITCH = { least: 22, most: 92 };
const LANE = 19;
const ROW_GAP_LANES = 1.5; // as in server/layout.py
// A network on a single lane has room for names, above and below in turn.
const NAMED_PITCH = 38;
const NAMED_HEIGHT = 112;
const CALM = 400;
const LABEL_WIDTH = 120;
const MOVED_NAMED = 8;

const rounded = (number) => Math.round(number * 10) / 10;

// Outline of a vertex around (0, 0), by kind of layer.
const outline = (kind, r) => {
  if (kind === "input") return `M0 ${-r * 1.2}L${r * 1.2} 0L0 ${r * 1.2}L${-r * 1.2} 0Z`;
  if (kind.includes("conv")) return `M${-r * 1.15} ${-r * 0.85}h${r * 2.3}v${r * 1.7}h${-r * 2.3}Z`;
  if (kind.includes("pool")) return `M${-r} ${-r}L${r} ${-r * 0.5}V${r * 0.5}L${-r} ${r}Z`;
  if (kind.includes("linear")) return `M${-r * 0.6} ${-r * 1.25}h${r * 1.2}v${r * 2.5}h${-r * 1.2}Z`;
  return `M${-r * 0.9} 0a${r * 0.9} ${r * 0.9} 0 1 0 ${r * 1.8} 0a${r * 0.9} ${r * 0.9} 0 1 0 ${-r * 1.8} 0Z`;
};

// Pixel geometry of a graph in a given width.
const geometry = (graph, width) => {
  const single = graph.height === 1;
  const pitch = Math.min(PITCH.most, Math.max(PITCH.least, (width - 2 * MARGIN) / graph.width));
  const named = single && pitch >= NAMED_PITCH;
  const lane = named ? NAMED_HEIGHT : single ? 56 : LANE;
  const full = Math.max(width, graph.width * pitch + 2 * MARGIN);
  const left = Math.max(MARGIN, (full - graph.width * pitch) / 2);
  return {
    named,
    r: named ? 11 : Math.max(5, Math.min(8, pitch * 0.3)),
    width: full,
    height: graph.height * lane + 12,
    left: left - 12,
    right: left + graph.width * pitch + 8,
    pitch,
    x: (column) => rounded(left + (column + 0.5) * pitch),
    y: (at) => rounded((at + 0.5) * lane + 6),
  };
};

// The vertices whose output leads to the next row, and where each row begins, in lanes.
const rowsOf = (graph) => {
  const turns = new Set(graph.edges.filter(([, c]) => graph.vertices[c].x === 0).map(([p]) => p));
  const row = graph.vertices.map(() => 0);
  for (const [p, c] of graph.edges) row[c] = Math.max(row[c], row[p] + (turns.has(p) ? 1 : 0));
  const tops = [];
  graph.vertices.forEach(({ y }, v) => (tops[row[v]] = Math.min(tops[row[v]] ?? y, y)));
  for (const [p, c] of graph.edges)
    for (const y of graph.vertices[p].trail ?? []) tops[row[c]] = Math.min(tops[row[c]], y);
  return { turns, row, tops };
};

// Through `points`, level at each of them.
const curve = (points) =>
  points
    .map(([x, y], n) => {
      if (!n) return `M${x} ${y}`;
      const [px, py] = points[n - 1];
      const middle = rounded((px + x) / 2);
      return py === y ? `H${x}` : `C${middle} ${py} ${middle} ${y} ${x} ${y}`;
    })
    .join("");

const edgePath = (graph, { turns, row, tops }, g, [producer, consumer]) => {
  const [from, to] = [graph.vertices[producer], graph.vertices[consumer]];
  const turned = turns.has(producer);
  const first = turned ? 0 : from.x + 1;
  const trail = (from.trail ?? [])
    .slice(0, Math.max(0, to.x - first))
    .map((y, n) => [g.x(first + n), g.y(y)]);
  const end = [g.x(to.x), g.y(to.y)];
  const start = [g.x(from.x), g.y(from.y)];
  if (!turned) return curve([start, ...trail, end]);
  const between = g.y(tops[row[consumer]] - ROW_GAP_LANES / 2 - 0.5);
  const entry = trail[0]?.[1] ?? end[1];
  return (
    `M${start}H${g.right}V${between}H${g.left}V${entry}` +
    curve([[g.left, entry], ...trail, end]).replace("M", "L")
  );
};

// Each tensor that crosses tiers, once per producer and tier: [{producer, consumer, from, to, bytes}].
export const cuts = (graph, plan) => {
  const found = new Map();
  for (const [producer, consumer] of graph.edges) {
    const [from, to] = [plan[producer], plan[consumer]];
    if (from === to) continue;
    const key = `${producer} ${to}`;
    if (!found.has(key))
      found.set(key, { producer, consumer, from, to, bytes: graph.vertices[producer].output_bytes });
  }
  return [...found.values()];
};

// What the links on a route take for so many bytes from one tier to another: over the edge where there is no
// direct link. Null where one is not measured.
export const crossingS = (links, route, from, to, size) => {
  const between = (a, b) => {
    const link = links.find((each) => each.from === route?.[a] && each.to === route?.[b]);
    const rate = link?.estimate_bytes_per_s ?? link?.bytes_per_s;
    return rate ? (link.latency_s ?? 0) + size / rate : null;
  };
  const direct = between(from, to);
  if (from !== "device" || to !== "cloud" || !route?.edge) return direct;
  const [up, on] = [between("device", "edge"), between("edge", "cloud")];
  return up === null || on === null ? direct : direct === null ? up + on : Math.min(direct, up + on);
};

// [from, to] of each vertex that has another tier than before.
export const movedBetween = (before, now) =>
  before && now && before.length === now.length
    ? now.flatMap((tier, v) => (tier === before[v] ? [] : [{ v, from: before[v], to: tier }]))
    : [];

export const createGraph = ({ canvas, details, legend, summary, moved, search, zoom, why }) => {
  let graph = null;
  let pipeline = null;
  let vertices = [];
  let paths = [];
  let lines = null; // of edges: {plain, cut}
  let rings = null; // around vertices: {hit, moved, here}
  let focused = 0;
  let pointed = null;
  let shown = null;
  let width = 0;
  let links = [];
  let agents = [];
  let place = null;
  let labels = null;
  let frames = null;
  let kept = { plan: null, route: null, links: null, tiles: null };
  let movedTimer = null;
  const zooming = createZoom(canvas, zoom);
  let telling = null;

  const rebuild = () => {
    if (!width) return;
    canvas.replaceChildren();
    [vertices, paths, shown, pointed] = [[], [], null, null];
    kept = { plan: null, route: null, links: null, tiles: null };
    if (!graph) {
      set(canvas, { width, height: 56, viewBox: null });
      return;
    }
    focused = Math.min(focused, graph.vertices.length - 1);
    const g = geometry(graph, width);
    place = g;
    set(canvas, { width: g.width, height: g.height, class: graph.vertices.length > CALM ? "calm" : null });
    zooming.of(g.width, g.height);
    const rows = rowsOf(graph);
    paths = graph.edges.map((edge) => edgePath(graph, rows, g, edge));
    lines = { plain: svg("path", { class: "edge" }), cut: svg("path", { class: "edge cut" }) };
    rings = Object.fromEntries(["moved", "hit", "here"].map((name) => [name, svg("path", { class: `ring ${name}` })]));
    const outlines = new Map(); // few kinds, many vertices
    vertices = graph.vertices.map((vertex, v) => {
      if (!outlines.has(vertex.kind)) outlines.set(vertex.kind, outline(vertex.kind, g.r));
      return svg("path", {
        class: "vertex",
        d: outlines.get(vertex.kind),
        transform: `translate(${g.x(vertex.x)} ${g.y(vertex.y)})`,
        role: "img",
        tabindex: v === focused ? 0 : -1,
        "data-vertex": v,
      });
    });
    const names = (g.named ? graph.vertices : []).map(({ name, x, y }, v) => {
      const label = svg("text", { class: "name", x: g.x(x), y: g.y(y) + (v % 2 ? 31 : -23), "text-anchor": "middle" });
      return say(label, clip(name, Math.floor((g.pitch * 2) / 6.6)));
    });
    [frames, labels] = [svg("g", { class: "frames" }), svg("g", { class: "labels" })];
    const all = svg("g", {}, ...vertices, ...names);
    canvas.append(frames, lines.plain, lines.cut, all, ...Object.values(rings), labels);
    paint();
    annotate();
    find();
  };

  const circle = (v) => {
    const [x, y, r] = [place.x(graph.vertices[v].x), place.y(graph.vertices[v].y), place.r + 6];
    return `M${rounded(x - r)} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`;
  };
  const ring = (name, found) => rings && set(rings[name], { d: found.map(circle).join("") || null });

  // Colours follow the plan without rebuilding, so that a switch shows only what moved.
  const paint = () => {
    if (!graph || !lines) return;
    const plan = pipeline?.plan;
    vertices.forEach((node, v) => {
      const tier = plan?.[v] ?? "none";
      if (node.dataset.tier === tier) return;
      set(node, {
        "data-tier": tier,
        "aria-label": `${graph.vertices[v].name}, ${graph.vertices[v].kind}, ${tier === "none" ? "not placed yet" : `on the ${tier}`}`,
        fill: `url(#paint-${tier})`,
      });
    });
    const crosses = ([producer, consumer]) => Boolean(plan) && plan[producer] !== plan[consumer];
    const [plain, cut] = [paths.filter((_, n) => !crosses(graph.edges[n])), paths.filter((_, n) => crosses(graph.edges[n]))];
    set(lines.plain, { d: plain.join("") || null, "data-edges": plain.length });
    set(lines.cut, { d: cut.join("") || null, "data-edges": cut.length });
    describe(shown);
  };

  // Labels at the cuts and frames around tiles; they follow links that change, too.
  const annotate = () => {
    const plan = pipeline?.plan;
    if (!graph || !labels) return;
    if (kept.plan === plan && kept.links === links && kept.tiles === pipeline?.tiles && kept.route === pipeline?.route)
      return;
    const sameTiles = kept.plan !== null && kept.tiles === pipeline?.tiles;
    kept = { plan, links, tiles: pipeline?.tiles, route: pipeline?.route };
    const ways = new Map();
    for (const cut of plan ? cuts(graph, plan) : []) {
      const key = `${cut.from} ${cut.to}`;
      ways.set(key, [...(ways.get(key) ?? []), cut]);
    }
    let lastX = -Infinity;
    const said = [...ways.values()].map((found) => {
      const spots = found.map(({ producer, consumer }) => {
        const [a, b] = [graph.vertices[producer], graph.vertices[consumer]];
        const onward = b.x > a.x;
        return [
          (place.x(a.x) + (onward ? place.x(b.x) : place.x(a.x) + place.pitch)) / 2,
          place.y(found.length > 1 ? Math.min(a.y, b.y) : onward ? (a.y + b.y) / 2 : a.y),
        ];
      });
      const x = rounded(spots.reduce((sum, [at]) => sum + at, 0) / spots.length);
      const top = Math.min(...spots.map(([, at]) => at));
      // Beside another one it goes below.
      const below = found.length === 1 && x >= lastX && x - lastX < LABEL_WIDTH;
      const y = top + (below ? place.r + (place.named ? 34 : 13) : -place.r - (place.named ? 24 : 5));
      lastX = below ? -Infinity : x;
      const size = found.reduce((sum, cut) => sum + cut.bytes, 0);
      const times = found.map((cut) => crossingS(links, pipeline.route, cut.from, cut.to, cut.bytes));
      const taken = times.includes(null) ? null : times.reduce((sum, s) => sum + s, 0);
      const words = `${found.length > 1 ? `${found.length} tensors · ` : ""}${bytes(size)}${taken === null ? "" : ` · ${duration(taken)}`}`;
      return { x, y, words };
    });
    said.forEach(({ x, y, words }, n) => {
      const label = labels.children[n] ?? labels.appendChild(svg("text", { class: "crossing", "text-anchor": "middle" }));
      say(set(label, { x, y }), words);
    });
    while (labels.children.length > said.length) labels.lastElementChild.remove();
    if (!sameTiles) drawFrames(pipeline?.tiles ?? []);
  };

  // Frames around tiles, by the module that draws those.
  const drawFrames = async (tiles) => {
    frames.replaceChildren();
    if (!tiles.length) return;
    const found = await import("./tiles.js").catch(() => null);
    if (!found) kept.plan = null; // tried again with the next drawing
    else if (kept.tiles === tiles) frames.replaceChildren(...found.tiledFrames(tiles, graph, place, rowOf));
  };

  // Lanes between rows are free: a row ends where the next entry is more than a lane and a half below.
  let starts = [];
  const rowOf = (y) => starts.findLastIndex((start) => y >= start);
  const findRows = () => {
    const lanes = [...new Set(graph.vertices.map(({ y }) => y))].sort((a, b) => a - b);
    starts = lanes.filter((y, n) => n === 0 || y - lanes[n - 1] > ROW_GAP_LANES);
  };

  // What moved, for as long as it is news: in words below, by a ring around each.
  const tellMoved = (moves) => {
    clearTimeout(movedTimer);
    const ways = new Map();
    for (const { v, from, to } of moves) {
      const key = `${from} → ${to}`;
      ways.set(key, [...(ways.get(key) ?? []), graph.vertices[v].name]);
    }
    mark("moved", moves.map(({ v }) => v));
    const words = [...ways].map(([way, names]) => {
      const more = names.length - MOVED_NAMED;
      return `${way}: ${names.slice(0, MOVED_NAMED).join(", ")}${more > 0 ? ` and ${more} more` : ""}`;
    });
    say(moved, words.length ? `Epoch ${pipeline.epoch} moved ${plural(moves.length, "vertex", "vertices")}. ${words.join(" · ")}` : "");
    if (moves.length)
      movedTimer = setTimeout(() => mark("moved", []), 6_000);
  };

  // A ring around each of them, and their class.
  const mark = (name, found) => {
    for (const node of canvas.querySelectorAll(`.vertex.${name}`)) node.classList.remove(name);
    for (const v of found) vertices[v]?.classList.add(name);
    ring(name, place && vertices.length ? found : []);
  };

  // Vertices whose name or kind has what is searched; the others step back.
  const find = () => {
    const wanted = search.value.trim().toLowerCase();
    const hits = [];
    graph?.vertices.forEach(({ name, kind }, v) => {
      const hit = Boolean(wanted) && `${name} ${kind}`.toLowerCase().includes(wanted);
      if (hit) hits.push(v);
    });
    mark("hit", hits);
    set(canvas, { "data-searched": wanted && hits.length ? true : null });
    set(search, { "aria-invalid": wanted && !hits.length ? "true" : null });
    return hits;
  };
  search.addEventListener("input", () => {
    const hits = find();
    describe(hits[0] ?? null);
  });
  search.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    const hits = find();
    if (hits.length) focusOn(hits.find((v) => v > focused) ?? hits[0]);
  });

  const focusOn = (v) => {
    set(vertices[focused], { tabindex: -1 });
    focused = v;
    set(vertices[focused], { tabindex: 0 });
    zooming.show(place.x(graph.vertices[v].x), place.y(graph.vertices[v].y));
    vertices[focused].focus();
  };

  // What of it is told comes with the first vertex that is pointed at.
  const describe = (v) => {
    shown = v;
    ring("here", v === null || !vertices.length ? [] : [v]);
    if (v !== null && graph)
      telling ??= import("./vertex.js").then(({ createVertex }) => createVertex(details, why), () => (telling = null));
    telling?.then((about) => shown === v && about?.(v, { graph, pipeline, links, agents }));
    if (v === null || !graph)
      details.replaceChildren(
        html(
          "span",
          { class: "muted" },
          graph
            ? "Point at a vertex, or walk through them with the arrow keys, to see its size and times."
            : "The graph appears when the device has loaded its model.",
        ),
      );
  };

  const summarise = () => {
    const plan = pipeline?.plan;
    const tiers = TIERS.map((tier) => {
      const share = plan?.filter((t) => t === tier).length;
      const agent = pipeline?.route?.[tier];
      return html(
        "li",
        {},
        swatch(tier),
        `${tier}${agent ? ` · ${agent}` : ""}${plan ? ` · ${plural(share, "vertex", "vertices")}` : ""}`,
      );
    });
    legend.replaceChildren(
      ...tiers,
      html(
        "li",
        {},
        svg(
          "svg",
          { class: "line", viewBox: "0 0 26 12", "aria-hidden": "true" },
          svg("path", { class: "edge cut", d: "M1 6H25" }),
        ),
        "crosses tiers",
      ),
      ...[
        ["input", "input"],
        ["conv", "conv"],
        ["pool", "pool"],
        ["linear", "linear"],
        ["", "other"],
      ].map(([kind, name]) =>
        html(
          "li",
          { class: "kind" },
          svg(
            "svg",
            { class: "swatch", viewBox: "-7 -7 14 14", "aria-hidden": "true" },
            svg("path", { class: "shape", fill: "url(#paint-none)", d: outline(kind, 5.2) }),
          ),
          name,
        ),
      ),
    );
    const cuts = crossings(graph, plan).map(
      ({ from, to, tensors, bytes: size }) =>
        `${from} → ${to}: ${plural(tensors, "tensor")}, ${bytes(size)} per frame`,
    );
    say(
      summary,
      !plan
        ? ""
        : cuts.length
          ? cuts.join(" · ")
          : `everything runs on the ${plan[0]}; nothing crosses a link`,
    );
  };

  // The vertex under the pointer, or so near to it that it is meant.
  const vertexAt = (event) => {
    const node = event.target.closest?.("[data-vertex]");
    if (node) return Number(node.dataset.vertex);
    if (!vertices.length) return null;
    const [x, y] = zooming.point(event);
    const near = place.r + 6;
    const found = graph.vertices.findIndex((each) => Math.hypot(place.x(each.x) - x, place.y(each.y) - y) <= near);
    return found < 0 ? null : found;
  };
  canvas.addEventListener("pointermove", (event) => {
    const v = vertexAt(event);
    if (v === pointed) return;
    pointed = v;
    if (v !== null) describe(v);
  });
  canvas.addEventListener("pointerleave", () => {
    pointed = null;
    describe(canvas.contains(document.activeElement) ? focused : null);
  });
  // On its parent: a drawing that listens for focus would be a tab stop of its own.
  canvas.parentNode.addEventListener("focusin", (event) => {
    focused = Number(event.target.dataset.vertex ?? focused);
    describe(focused);
  });
  canvas.parentNode.addEventListener("focusout", () => describe(null));
  canvas.addEventListener("keydown", (event) => {
    const last = vertices.length - 1;
    const next = {
      ArrowRight: focused + 1,
      ArrowDown: focused + 1,
      ArrowLeft: focused - 1,
      ArrowUp: focused - 1,
      Home: 0,
      End: last,
    }[event.key];
    if (next === undefined || last < 0) return;
    event.preventDefault();
    focusOn(Math.min(last, Math.max(0, next)));
  });
  onWidth(canvas.parentNode, (w) => {
    width = w;
    rebuild();
  });

  describe(null);

  return (now, nowLinks, nowAgents) => {
    [links, agents] = [nowLinks, nowAgents];
    if (now === pipeline) {
      annotate();
      return;
    }
    const before = pipeline;
    pipeline = now;
    const replaced = (now?.graph ?? null) !== graph;
    if (replaced) {
      graph = now?.graph ?? null;
      focused = 0;
      if (graph) findRows();
      rebuild();
      describe(null);
      tellMoved([]);
    } else if (now?.plan !== before?.plan) {
      paint();
      tellMoved(movedBetween(before?.plan, now?.plan));
    }
    annotate();
    if (replaced || now?.plan !== before?.plan || now?.route !== before?.route) summarise();
  };
};

const clip = (name, most) => (text(name).length > most ? `…${name.slice(1 - most)}` : name);
