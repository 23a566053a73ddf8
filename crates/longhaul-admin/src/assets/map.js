// The map: regions on an ellipse, this router's own at the left of few or in the middle of many, and the links of the mesh document between
// them. Elements are kept and changed, never made anew, so that keyboard focus stays where it is.

import { bytes, milliseconds, percent } from "/units.js";

const SVG = "http://www.w3.org/2000/svg";
const NODE = { width: 148, height: 46 };
const HUB_FROM = 5;
const WIDTH_MAX = 900;
const kept = new Map();

function make(parent, tag, attributes = {}) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  parent.append(element);
  return element;
}

function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
  }
}

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function cut(text, length) {
  return text.length > length ? text.slice(0, length - 1) + "…" : text;
}

// The element of that name, made when it is not there; `used` gathers what stays.
function keep(used, name, build) {
  used.add(name);
  if (!kept.has(name)) kept.set(name, build());
  return kept.get(name);
}

export function linkWords(link) {
  if (link.state === "unknown") return "not seen from here";
  if (link.state === "down") return `down: ${link.reason}`;
  const parts = [link.state === "partial" ? `${link.reached[0]} of ${link.reached[1]} routers reached` : "up", `round trip ${milliseconds(link.rtt_ms)}`];
  if (link.sent_rate !== null) parts.push(`sends ${bytes(link.sent_rate)}/s`, `receives ${bytes(link.received_rate)}/s`);
  if (link.loss !== null) parts.push(`loses ${percent(link.loss)}`);
  return parts.join(", ");
}

function label(link) {
  if (link.state === "unknown") return "";
  if (link.state === "down") return "down";
  const rate = link.sent_rate === null ? null : (link.sent_rate ?? 0) + (link.received_rate ?? 0);
  const parts = [milliseconds(link.rtt_ms), rate === null ? null : `${bytes(rate)}/s`, link.loss >= 0.0005 ? `${percent(link.loss)} lost` : null];
  if (link.state === "partial") parts.unshift(`${link.reached[0]} of ${link.reached[1]}`);
  return parts.filter(Boolean).join(" · ");
}

function places(regions, here, width, height) {
  const others = regions.filter((region) => region !== here);
  const hub = regions.length >= HUB_FROM;
  const ordered = hub ? others : [here, ...others];
  const points = ordered.map((_, index) => {
    const angle = Math.PI - (2 * Math.PI * index) / ordered.length;
    return { x: Math.cos(angle), y: -Math.sin(angle) };
  });
  const [x, y] = [stretch(points.map((point) => point.x), NODE.width / 2 + 2, width), stretch(points.map((point) => point.y), NODE.height / 2 + 2, height)];
  const found = new Map(ordered.map((region, index) => [region, { x: x[index], y: y[index] }]));
  return hub ? found.set(here, { x: width / 2, y: height / 2 }) : found;
}

// Spreads values over a length, with a margin at both ends; in the middle when they are all one.
function stretch(values, margin, length) {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  if (most - least < 1e-6) return values.map(() => length / 2);
  return values.map((value) => margin + ((value - least) / (most - least)) * (length - 2 * margin));
}

function drawEdge(used, layer, link, at, here) {
  const name = `edge ${link.between.join(" ")}`;
  const edge = keep(used, name, () => {
    const group = make(layer, "g", { role: "img" });
    const parts = { group, title: make(group, "title"), reach: make(group, "line", { class: "reach" }), line: make(group, "line", { class: "line" }) };
    return { ...parts, box: make(group, "rect", { height: 18, rx: 3 }), text: make(group, "text") };
  });
  const [a, b] = link.between[1] === here ? [link.between[1], link.between[0]] : link.between;
  const [from, to] = [at.get(a), at.get(b)];
  if (!from || !to) return;
  const words = `${a} to ${b}: ${linkWords(link)}`;
  set(edge.group, { class: `edge ${link.state}`, "aria-label": words, tabindex: link.state === "unknown" ? -1 : 0 });
  write(edge.title, words);
  for (const line of [edge.reach, edge.line]) set(line, { x1: from.x, y1: from.y, x2: to.x, y2: to.y });
  const text = label(link);
  write(edge.text, text);
  const place = { x: (from.x + to.x) / 2, y: (from.y + to.y) / 2 };
  const width = text === "" ? 0 : edge.text.getComputedTextLength() + 12;
  set(edge.text, { x: place.x, y: place.y + 4 });
  set(edge.box, { x: place.x - width / 2, y: place.y - 9, width });
}

function drawRegion(used, layer, region, brokers, at, here) {
  const node = keep(used, `region ${region}`, () => {
    const group = make(layer, "g", { role: "img" });
    const parts = { group, title: make(group, "title"), box: make(group, "rect", { ...NODE, rx: 6 }) };
    return { ...parts, name: make(group, "text", { class: "name" }), about: make(group, "text", { class: "about" }) };
  });
  const { x, y } = at.get(region);
  const words = `Region ${region}${region === here ? ", where this router is" : ""}; brokers: ${brokers.join(", ") || "none"}`;
  set(node.group, { class: region === here ? "region here" : "region", "aria-label": words });
  write(node.title, words);
  set(node.box, { x: x - NODE.width / 2, y: y - NODE.height / 2 });
  write(node.name, cut(region, 18));
  set(node.name, { x, y: y - 3 });
  write(node.about, cut(brokers.join(", ") || "no broker", 24));
  set(node.about, { x, y: y + 14 });
}

// Draws a snapshot into the `svg` element.
export function drawMap(svg, snapshot) {
  if (!svg.firstChild) {
    make(svg, "g");
    make(svg, "g");
  }
  const [edges, nodes] = svg.children;
  const regions = Object.keys(snapshot.mesh.regions);
  svg.closest(".pair").classList.toggle("wide", regions.length >= HUB_FROM);
  const width = Math.min(svg.clientWidth || 480, WIDTH_MAX);
  const height = regions.length < 3 ? 130 : Math.max(250, 75 * Math.ceil(regions.length / 2));
  set(svg, { viewBox: `0 0 ${width} ${height}`, height });
  const here = snapshot.mesh.region;
  const at = places(regions, here, width, height);
  const used = new Set();
  // What is known lies above what is not.
  const links = [...snapshot.map].sort((a, b) => (a.state !== "unknown") - (b.state !== "unknown"));
  for (const link of links) drawEdge(used, edges, link, at, here);
  for (const region of regions) drawRegion(used, nodes, region, snapshot.mesh.regions[region], at, here);
  for (const [name, parts] of kept) {
    if (!used.has(name)) {
      parts.group.remove();
      kept.delete(name);
    }
  }
}
