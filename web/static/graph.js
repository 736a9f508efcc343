// The network as a layered graph: the server gives columns and lanes, this draws them to fit.
//
// Shape tells the kind of layer, colour and texture its tier, a bold dashed line a tensor that
// crosses tiers. One tab stop: the arrow keys walk through the vertices.

import { say, set, svg, swatch, html, onWidth } from "./dom.js";
import { bytes, duration, plural, shape, text } from "./format.js";
import { TIERS, crossings } from "./store.js";

const MARGIN = 24;
const PITCH = { least: 22, most: 92 };
const LANE = 19;
const ROW_GAP_LANES = 1.5; // as in server/layout.py
// A network on a single lane has room for names, above and below in turn.
const NAMED_PITCH = 38;
const NAMED_HEIGHT = 104;

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

export const createGraph = ({ canvas, details, legend, summary }) => {
  let graph = null;
  let pipeline = null;
  let vertices = [];
  let edges = [];
  let focused = 0;
  let shown = null;
  let width = 0;

  const rebuild = () => {
    if (!width) return;
    canvas.replaceChildren();
    [vertices, edges, shown] = [[], [], null];
    if (!graph) {
      set(canvas, { width, height: 56, viewBox: null });
      return;
    }
    focused = Math.min(focused, graph.vertices.length - 1);
    const g = geometry(graph, width);
    set(canvas, { width: g.width, height: g.height, viewBox: `0 0 ${g.width} ${g.height}` });
    const rows = rowsOf(graph);
    edges = graph.edges.map((edge) => svg("path", { class: "edge", d: edgePath(graph, rows, g, edge) }));
    vertices = graph.vertices.map((vertex, v) => {
      const node = svg(
        "g",
        {
          class: "vertex",
          transform: `translate(${g.x(vertex.x)} ${g.y(vertex.y)})`,
          role: "img",
          tabindex: -1,
          "data-vertex": v,
        },
        svg("circle", { class: "halo", r: g.r + 6 }),
        svg("path", { class: "shape", d: outline(vertex.kind, g.r) }),
      );
      if (g.named) {
        const above = v % 2 === 0 ? -1 : 1;
        const label = svg("text", { class: "name", y: above * 27 + 4, "text-anchor": "middle" });
        node.append(say(label, clip(vertex.name, Math.floor((g.pitch * 2) / 6.6))));
      }
      return node;
    });
    canvas.append(svg("g", {}, ...edges), svg("g", {}, ...vertices));
    paint();
  };

  // Colours follow the plan without rebuilding, so that a switch shows only what moved.
  const paint = () => {
    const plan = pipeline?.plan;
    vertices.forEach((node, v) => {
      const tier = plan?.[v] ?? "none";
      set(node, {
        "data-tier": tier,
        "aria-label": `${graph.vertices[v].name}, ${graph.vertices[v].kind}, ${tier === "none" ? "not placed yet" : `on the ${tier}`}`,
      });
      set(node.lastElementChild.matches(".name") ? node.children[1] : node.lastElementChild, {
        fill: `url(#paint-${tier})`,
      });
      set(node, { tabindex: v === focused ? 0 : -1 });
    });
    graph?.edges.forEach(([producer, consumer], n) => {
      const cut = Boolean(plan) && plan[producer] !== plan[consumer];
      set(edges[n], { class: cut ? "edge cut" : "edge" });
      if (cut) edges[n].parentNode.append(edges[n]);
    });
    describe(shown);
  };

  const describe = (v) => {
    shown = v;
    const vertex = graph?.vertices[v];
    if (!vertex) {
      details.replaceChildren(
        html(
          "span",
          { class: "muted" },
          graph
            ? "Point at a vertex, or walk through them with the arrow keys, to see its size and times."
            : "The graph appears when the device has loaded its model.",
        ),
      );
      return;
    }
    const tier = pipeline.plan?.[v];
    const times = TIERS.filter((t) => pipeline.profile_s?.[t]).map((t) =>
      html(
        "span",
        { class: t === tier ? "time chosen" : "time" },
        swatch(t),
        `${t} ${duration(pipeline.profile_s[t][v])}${pipeline.guessed?.includes(pipeline.route?.[t]) ? " (predicted)" : ""}`,
      ),
    );
    details.replaceChildren(
      html("strong", {}, vertex.name),
      html("span", {}, vertex.kind),
      html("span", {}, shape(vertex.shape, vertex.dtype)),
      html("span", {}, `${bytes(vertex.output_bytes)} out`),
      html("span", {}, `${bytes(vertex.weight_bytes)} weights`),
      html(
        "span",
        {},
        tier
          ? `runs on the ${tier}${pipeline.route?.[tier] ? ` (${pipeline.route[tier]})` : ""}`
          : "not placed yet",
      ),
      ...(times.length ? times : [html("span", { class: "muted" }, "times are not measured yet")]),
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
        ["conv", "convolution"],
        ["pool", "pooling"],
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

  const vertexAt = (event) => {
    const node = event.target.closest?.("[data-vertex]");
    return node ? Number(node.dataset.vertex) : null;
  };
  canvas.addEventListener("pointerover", (event) => describe(vertexAt(event) ?? shown));
  canvas.addEventListener("pointerleave", () =>
    describe(canvas.contains(document.activeElement) ? focused : null),
  );
  canvas.addEventListener("focusin", (event) => {
    focused = vertexAt(event) ?? focused;
    describe(focused);
  });
  canvas.addEventListener("focusout", () => describe(null));
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
    set(vertices[focused], { tabindex: -1 });
    focused = Math.min(last, Math.max(0, next));
    set(vertices[focused], { tabindex: 0 });
    vertices[focused].focus();
  });
  onWidth(canvas.parentNode, (w) => {
    width = w;
    rebuild();
  });

  return (now) => {
    if (now === pipeline) return;
    const before = pipeline;
    pipeline = now;
    const replaced = (now?.graph ?? null) !== graph;
    if (replaced) {
      graph = now?.graph ?? null;
      focused = 0;
      rebuild();
      describe(null);
    } else if (now?.plan !== before?.plan) paint();
    if (replaced || now?.plan !== before?.plan || now?.route !== before?.route) summarise();
  };
};

const clip = (name, most) => (text(name).length > most ? `…${name.slice(1 - most)}` : name);
