// The cluster as a picture: the leader above, who follows it in an arc below, and on each line how far behind.

import { s } from "./dom.js";

const [WIDTH, HEIGHT, RADIUS] = [460, 250, 23];
export const MOST = 11; // members; beyond, the table tells more than a picture could

/** `nodes`: `[{id, leader, own, learner, state, note, edge}]`; `state` is `well`, `warn` or `bad`. */
export function clusterMap(nodes, summary) {
  const leader = nodes.find((node) => node.leader);
  const others = nodes.filter((node) => node !== leader);
  const crowded = others.length > 5;
  const radius = crowded ? 15 : RADIUS;
  const places = new Map();
  if (leader) places.set(leader, [WIDTH / 2, others.length ? radius + 12 : HEIGHT / 2]);
  others.forEach((node, at) => places.set(node, place(at, others.length, radius, crowded)));
  // Where there are many, only what is out of the ordinary is said; the table has the rest.
  const said = (node) => (crowded && node.state === "well" ? { ...node, edge: null } : node);
  const edges = leader
    ? others.map((node, at) => {
        const where = crowded ? 0.72 : others.length > 3 && at % 2 ? 0.66 : 0.46;
        return [node, edge(places.get(leader), places.get(node), said(node), radius, where)];
      })
    : [];
  edges.sort(([one], [other]) => (one.state !== "well") - (other.state !== "well")); // what matters lies on top
  return s(
    "svg",
    { class: "map", role: "img", "aria-label": summary, viewBox: `0 0 ${WIDTH} ${HEIGHT}` },
    edges.map(([, drawn]) => drawn),
    nodes.map((node) => mark(node, places.get(node), radius, crowded && node !== leader)),
  );
}

/** Where the follower at a place in the line stands: in an arc, or in a row if there are many. */
function place(at, all, radius, crowded) {
  const share = all === 1 ? 0.5 : at / (all - 1);
  const spread = all === 2 ? 0.62 : all === 3 ? 0.84 : 1;
  const x = WIDTH / 2 + (share - 0.5) * spread * (WIDTH - 2 * radius - 64);
  const low = HEIGHT - radius - 26;
  if (crowded) return [x, low - 8];
  return [x, low - 58 * (2 * Math.abs(share - 0.5)) ** 2 * (all > 2 ? 1 : 0.5)];
}

function edge([x1, y1], [x2, y2], node, radius, where) {
  const length = Math.hypot(x2 - x1, y2 - y1);
  const [ux, uy] = [(x2 - x1) / length, (y2 - y1) / length];
  const [from, to] = [radius + 5, length - radius - 5];
  const middle = from + (to - from) * where;
  const label = node.edge ?? "";
  const width = label.length * 6.2 + 10;
  const [cx, cy] = [x1 + ux * middle, y1 + uy * middle];
  return s(
    "g",
    { class: `edge ${node.state}` },
    s("line", { x1: x1 + ux * from, y1: y1 + uy * from, x2: x1 + ux * to, y2: y1 + uy * to }),
    label ? s("rect", { x: cx - width / 2, y: cy - 9, width, height: 18, rx: 9 }) : null,
    label ? s("text", { x: cx, y: cy + 4, "text-anchor": "middle" }, label) : null,
  );
}

function mark(node, [x, y], radius, bare) {
  const kinds = [
    "node",
    node.state,
    node.leader ? "leader" : "",
    node.learner ? "learner" : "",
    node.own ? "own" : "",
  ];
  const below = bare ? "" : [node.own ? "this node" : null, node.note].filter(Boolean).join(" · ");
  return s(
    "g",
    { class: kinds.filter(Boolean).join(" "), transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})` },
    node.own ? s("circle", { class: "halo", r: radius + 4.5 }) : null,
    s("circle", { class: "disc", r: radius }),
    s(
      "text",
      { class: "number", y: 5, "text-anchor": "middle" },
      String(node.id).length > 6 ? `…${String(node.id).slice(-4)}` : node.id,
    ),
    node.leader
      ? s("text", { class: "note", x: radius + 14, y: 5 }, below)
      : s("text", { class: "note", y: radius + 19, "text-anchor": "middle" }, below),
  );
}
