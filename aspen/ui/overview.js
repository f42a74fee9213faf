// The cluster at a glance: who leads, who follows and how far behind, how well this node is, and how busy.

import { json } from "./api.js";
import { aside, badge, empty, facts, h, id, row, setText, show, table, update } from "./dom.js";
import { count, duration, latency, short, size } from "./format.js";
import { live, value } from "./live.js";
import { clusterMap, MOST } from "./map.js";
import { COLUMNS, mapNodes, memberRow, membersOf, MARKS } from "./members.js";
import { Plot } from "./plot.js";

export const title = "Overview";

const DNS_TIMES = "aspen_dns_response_seconds";
const WRITE_TIMES = "aspen_raft_proposal_seconds";
const PUT_STAGES = "aspen_pkarr_put_stage_seconds";

/** The plots there are: by what this node counts. */
function plots() {
  const two = [
    { name: "median", kind: "main" },
    { name: "99th percentile", kind: "second" },
  ];
  return [
    {
      plot: new Plot("DNS answers per second", { lines: [{ name: "answers", kind: "main" }], format: short }),
      series: () => [live.rate("aspen_dns_queries_total")],
    },
    {
      plot: new Plot("Time to make a DNS answer", { lines: two, format: latency, floor: 1e-4, log: true }),
      series: () => [live.quantile(DNS_TIMES, 0.5), live.quantile(DNS_TIMES, 0.99)],
    },
    {
      plot: new Plot("Writes per second", {
        lines: [
          { name: "of the whole cluster", kind: "main" },
          { name: "asked of this node", kind: "second" },
        ],
        format: short,
      }),
      series: () => [live.rate("aspen_raft_applied_index"), live.rate(`${WRITE_TIMES}_count`)],
    },
    {
      plot: new Plot("Time of a write asked of this node", {
        lines: two,
        format: latency,
        floor: 1e-3,
        log: true,
      }),
      series: () => [live.quantile(WRITE_TIMES, 0.5), live.quantile(WRITE_TIMES, 0.99)],
    },
  ];
}

export function mount(root, { signal }) {
  const verdict = h("p", { class: "verdict" });
  const reasons = h("ul", { class: "reasons" });
  const picture = h("div", { class: "picture" });
  const own = h("div");
  const body = h("tbody");
  const grid = table("Members of the cluster", COLUMNS, []);
  grid.querySelector("tbody").replaceWith(body);
  const note = h("p", { class: "quiet note" });
  const drawn = plots();
  const split = h("div", { class: "halves" });
  show(
    root,
    h("div", { class: "head" }, h("h1", { tabindex: "-1" }, "Overview"), verdict),
    reasons,
    h(
      "div",
      { class: "halves" },
      h("section", { "aria-label": "Cluster map" }, picture),
      h("section", { "aria-label": "This node" }, h("h2", null, "This node"), own),
    ),
    h("section", null, h("h2", null, "Members"), grid, note),
    h(
      "section",
      null,
      h("h2", null, "The last five minutes of this node"),
      h(
        "div",
        { class: "plots" },
        drawn.map(({ plot }) => plot.element),
      ),
      split,
    ),
  );
  let peers = null;
  const draw = () => {
    const { status, health, metrics } = live;
    if (!status) {
      if (live.error) show(picture, empty("Nothing to show yet", live.error.reason));
      return;
    }
    update(
      reasons,
      (health?.reasons ?? []).map((reason) => h("li", { class: MARKS[health.status]?.[0] }, reason)),
    );
    const list = membersOf(status, metrics, peers, health);
    const told = sentence(status, list.filter((member) => !member.connected).length);
    setText(verdict, told);
    update(
      picture,
      !list.length
        ? empty(
            "This node belongs to no cluster yet",
            "Found one with ",
            h("code", null, "aspen cluster init"),
            ", or let this node join another with a ticket.",
          )
        : list.length > MOST
          ? empty(`${list.length} members`, "More than a picture can show: the table below has them.")
          : clusterMap(mapNodes(list), told),
    );
    update(
      body,
      list.map((member) => row(COLUMNS, memberRow(member))),
    );
    setText(
      note,
      list.length > 1 && status.leader_id !== status.node_id
        ? `Lag, match and messages in flight are what the leader knows of its followers: ${status.leader_id ? `the dashboard of node ${status.leader_id} shows them` : "there is no leader now"}.`
        : "",
    );
    update(own, facts(ownFacts(status, health, metrics)));
    for (const { plot, series } of drawn) plot.draw(series());
    update(split, h("div", null, transports(metrics)), h("div", null, steps(metrics)));
  };
  const round = async () => {
    try {
      peers = await json("/v1/peers", { signal });
    } catch {
      peers = null; // the map does without
    }
    if (!signal.aborted) draw();
  };
  live.follow(() => (live.error ? draw() : round()), signal);
}

function sentence(status, silent) {
  const voters = status.members.filter((member) => member.role !== "learner").length;
  const learners = status.members.length - voters;
  const who = !status.leader_id
    ? "No leader is known"
    : status.leader_id === status.node_id
      ? `Node ${status.node_id} (this one) leads`
      : `Node ${status.leader_id} leads`;
  return `${who} in term ${count(status.term)}; ${voters} ${voters === 1 ? "voter" : "voters"}${learners ? `, ${learners} ${learners === 1 ? "learner" : "learners"}` : ""}${silent ? `; ${silent} without a connection` : ""}.`;
}

function ownFacts(status, health, metrics) {
  const [kind, word] = MARKS[health?.status] ?? ["", "–"];
  const used = value(metrics, "aspen_store_used_bytes");
  const map = value(metrics, "aspen_store_map_bytes");
  return [
    [
      "Health",
      [
        badge(kind, word),
        health?.ready === false ? aside("not ready") : null,
        health?.checks ? aside(`${health.checks.length} checks`) : null,
      ],
    ],
    ["Role", status.role.replace("_", "-")],
    ["Applied / committed", `${count(status.applied_index)} / ${count(status.commit_index)}`],
    [
      "Leader last heard",
      status.leader_id === status.node_id
        ? "leads itself"
        : status.last_contact_ms < 0
          ? "never"
          : `${duration(status.last_contact_ms)} ago`,
    ],
    [
      "DNS",
      status.dns ? `port ${status.dns.port}; origins ${status.dns.origins.join(", ")}` : "switched off",
    ],
    ["Packets", h("a", { href: "#/packets" }, count(value(metrics, "aspen_packets")))],
    ["Zones", h("a", { href: "#/zones" }, count(value(metrics, "aspen_zones")))],
    [
      "Keys",
      [
        h(
          "a",
          { href: "#/keys/" },
          count(value(metrics, "aspen_store_table_entries", ({ table }) => table === "kv")),
        ),
        aside(`revision ${count(value(metrics, "aspen_kv_revision"))}`),
      ],
    ],
    ["Store", used === undefined ? "–" : `${size(used)} of ${size(map)}`],
    ["Identity", id(status.endpoint_id)],
    ["Cluster", status.cluster_id ? id(status.cluster_id) : "none"],
  ];
}

const BY_TRANSPORT = [
  ["Transport", "strong"],
  ["Answers/s", "number"],
  ["In all", "number"],
  ["Not NOERROR", "number"],
  ["Median", "number"],
  ["99th", "number"],
];
const BY_STEP = [
  ["Step", "strong"],
  ["Per second", "number"],
  ["Median", "number"],
  ["99th", "number"],
];

function transports(metrics) {
  const name = "aspen_dns_queries_total";
  const used = live.labels(name, "transport");
  const rows = used.map((transport) => {
    const of = ({ transport: label }) => label === transport;
    const all = value(metrics, name, of);
    const well = value(metrics, name, (labels) => of(labels) && labels.rcode === "NOERROR") ?? 0;
    return [
      transport,
      short(live.rateNow(name, of)),
      count(all),
      all ? `${(((all - well) / all) * 100).toFixed(1)} %` : "–",
      ...times(DNS_TIMES, of),
    ];
  });
  return [
    h("h3", null, "DNS by transport"),
    used.length ? table("DNS by transport", BY_TRANSPORT, rows) : empty("This node answers no DNS"),
    h(
      "p",
      { class: "quiet note" },
      "Times are estimated from histograms, over the last ten seconds; replies that were ready count as 25 µs.",
    ),
  ];
}

/** Where the time of writes goes: what this node waits for, what its disk takes, and the stages of a PUT. */
function steps(metrics) {
  const all = [
    ["Write, until applied here", WRITE_TIMES],
    ["Commit, on the leader", "aspen_raft_commit_seconds"],
    ["Transaction", "aspen_raft_apply_seconds"],
    ["Its commit to disk", "aspen_raft_fsync_seconds"],
  ]
    .filter(([, name]) => metrics.has(`${name}_count`))
    .map(([step, name]) => [step, short(live.rateNow(`${name}_count`)), ...times(name)]);
  for (const stage of live.labels(`${PUT_STAGES}_count`, "stage")) {
    const of = ({ stage: label }) => label === stage;
    all.push([
      `pkarr PUT: ${stage}`,
      short(live.rateNow(`${PUT_STAGES}_count`, of)),
      ...times(PUT_STAGES, of),
    ]);
  }
  return all.length
    ? [h("h3", null, "Where a write’s time goes"), table("Where a write’s time goes", BY_STEP, all)]
    : null;
}

function times(name, of) {
  return [0.5, 0.99].map((q) => latency(live.quantileNow(name, q, of)));
}
