// Every node that this one has heard of: who said so, where it is, and what the way there is like.

import { json } from "./api.js";
import { aside, badge, empty, facts, failed, h, id, row, say, setText, show, table, update } from "./dom.js";
import { ago, count, latency } from "./format.js";
import { live } from "./live.js";

export const title = "Peers";

const PEERS = [
  ["Node", "strong"],
  ["Identity"],
  ["Path"],
  ["RTT", "number"],
  ["Address in use", "mono wrap"],
  ["Carries"],
  ["Known addresses", "wrap"],
  ["Announced", "number"],
];

export function mount(root, { signal }) {
  const about = h("div");
  const list = h("div", null, h("p", { class: "quiet" }, "Loading peers…"));
  const filter = h("input", { id: "peer-filter", type: "search", autocomplete: "off", spellcheck: "false" });
  const shown = h("span", { class: "quiet" });
  show(
    root,
    h(
      "div",
      { class: "head" },
      h("h1", { tabindex: "-1" }, "Peers and paths"),
      h(
        "p",
        { class: "verdict" },
        "An address is never a proof: who answers must prove the key that was dialled.",
      ),
    ),
    about,
    h(
      "form",
      { class: "filter", onsubmit: (event) => event.preventDefault() },
      h("label", { for: "peer-filter" }, "Filter"),
      filter,
      shown,
    ),
    list,
  );
  const grid = table("Peers", PEERS, []);
  const body = grid.querySelector("tbody");
  let answer = null;
  const draw = () => {
    if (!answer) return;
    const wanted = filter.value.trim().toLowerCase();
    const peers = answer.peers.filter((peer) => JSON.stringify(peer).toLowerCase().includes(wanted));
    update(
      about,
      facts(
        [
          ["This node", id(answer.endpoint_id)],
          ["Gossips with", `${count(answer.neighbours)} ${answer.neighbours === 1 ? "node" : "nodes"}`],
          ["Announcements refused", refused(answer.refused)],
          ["Connections refused", refused(live.status?.refusals ?? {})],
        ],
        "facts across",
      ),
    );
    setText(shown, `${count(peers.length)} of ${count(answer.peers.length)}`);
    if (!answer.peers.length)
      show(
        list,
        empty(
          "This node knows no others",
          "Others find it by its ticket: ",
          h("code", null, "aspen cluster ticket"),
        ),
      );
    else if (!peers.length) show(list, empty("No peer matches the filter"));
    else {
      update(
        body,
        peers.map((peer) => row(PEERS, cells(peer))),
      );
      if (!grid.isConnected) show(list, grid);
    }
  };
  const round = async () => {
    try {
      answer = await json("/v1/peers", { signal });
      draw();
    } catch (error) {
      if (!signal.aborted && !answer) show(list, failed("The peers can’t be read", error, round));
    }
  };
  filter.addEventListener("input", draw);
  filter.addEventListener("change", () => say(shown.textContent));
  live.follow(round, signal);
}

function cells(peer) {
  const used = peer.connections[0];
  const rtts = peer.connections.map((connection) => connection.rtt_ms).filter((ms) => ms > 0);
  const ways = { direct: "well", relay: "well", none: "bad" };
  return [
    peer.node_id ? [String(peer.node_id), peer.member ? null : aside("no member")] : aside("no member"),
    id(peer.endpoint_id),
    badge(ways[peer.path] ?? "off", peer.path === "none" ? "no connection" : peer.path),
    rtts.length ? latency(Math.min(...rtts) / 1_000) : "–",
    used
      ? h("span", { title: used.dialled ? "dialled by this node" : "dialled by the peer" }, used.address)
      : "–",
    protocols(peer.connections),
    addresses(peer),
    peer.announced_ms_ago < 0 ? "never" : ago(Math.round(peer.announced_ms_ago / 10_000) * 10_000),
  ];
}

function addresses(peer) {
  if (!peer.addresses.length) return h("span", { class: "quiet" }, "none yet");
  const lines = peer.addresses.map((each) =>
    h(
      "li",
      null,
      h("span", { class: "mono" }, each.address),
      " ",
      h("span", { class: "source" }, each.source),
    ),
  );
  if (lines.length <= 2) return h("ul", { class: "addresses" }, lines);
  const sources = [...new Set(peer.addresses.map((each) => each.source))].join(", ");
  return h(
    "details",
    null,
    h("summary", null, `${lines.length}: ${sources}`),
    h("ul", { class: "addresses" }, lines),
  );
}

/** `aspen-raft/1` and the like, each once. */
function protocols(connections) {
  return (
    [...new Set(connections.map((one) => one.protocol.replace(/^aspen-|\/\d+$/g, "")))].sort().join(", ") ||
    "–"
  );
}

function refused(reasons) {
  const given = Object.entries(reasons);
  return given.length ? given.map(([reason, number]) => `${reason} ${count(number)}`).join(", ") : "none";
}
