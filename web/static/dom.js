// Making and updating elements. Data only ever becomes text or a presentation attribute.

const SVG = "http://www.w3.org/2000/svg";

const build = (node, attributes, children) => {
  set(node, attributes);
  node.append(...children);
  return node;
};

export const html = (tag, attributes = {}, ...children) =>
  build(document.createElement(tag), attributes, children);

export const svg = (tag, attributes = {}, ...children) =>
  build(document.createElementNS(SVG, tag), attributes, children);

// Null and false take an attribute away, true sets it empty.
export const set = (node, attributes) => {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) node.removeAttribute(name);
    else {
      const words = value === true ? "" : String(value);
      if (node.getAttribute(name) !== words) node.setAttribute(name, words);
    }
  }
  return node;
};

// Touching the text only when it changed keeps selections and saves layout.
export const say = (node, text) => {
  if (node.textContent !== text) node.textContent = text;
  return node;
};

// Makes these the children, in this order; those that are there already are not touched.
export const keep = (node, children) => {
  const wanted = new Set(children);
  for (const child of [...node.children]) if (!wanted.has(child)) child.remove();
  let next = node.firstElementChild;
  for (const child of children)
    if (child === next) next = next.nextElementSibling;
    else node.insertBefore(child, next);
};

export const byId = (id) => document.getElementById(id);

// What `/static/NAME.html` holds. Rejects where it does not come.
export const markup = async (name) => {
  const answer = await fetch(`/static/${name}.html`);
  if (!answer.ok) throw new Error(`The server answered ${answer.status}.`);
  return new DOMParser().parseFromString(await answer.text(), "text/html").body.children;
};

// A swatch with a tier's colour and texture, the same wherever the tier is named.
export const swatch = (paint) =>
  svg(
    "svg",
    { class: "swatch", viewBox: "0 0 12 12", "aria-hidden": "true" },
    svg("rect", { width: 12, height: 12, rx: 2, fill: `url(#paint-${paint})` }),
  );

// Calls `draw` with the width in pixels whenever it changes.
export const onWidth = (node, draw) => {
  let last = 0;
  new ResizeObserver(([entry]) => {
    const width = Math.floor(entry.contentRect.width);
    if (width && width !== last) draw((last = width));
  }).observe(node);
};
